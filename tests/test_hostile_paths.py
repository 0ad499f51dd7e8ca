"""Every mode, in folders whose names mean something to shells, globs and libraries."""

import functools
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest

import mt_diffusion
from configs import image_label
from mt_diffusion.inference import reading, restoring
from mt_diffusion.parallel import sharding
from mt_diffusion.report import report
from mt_diffusion.training import loop

NAMES = [
    "[!a]*?{b,c} 'q\" $HOME `id`;&|#%20",
    "- --x=y:60",
    "日本 ü\nline\ttab",
    "x" * 200,
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    with jax.debug_key_reuse(False):  # a look at each step is at the same noise
        yield


def images(folder):
    """Two classes, one of them called as the folder."""
    draw = np.random.default_rng(0)
    for name in ("b", folder.name):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 256, (8, 8)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")


def config(data):
    found = image_label.get_config("smoke")
    found.data.update(source="folder", path=str(data))
    found.unet.update(model_channels=8, channel_mult=(1,), attention_resolutions=())
    found.train.update(num_steps=2, batch_size=8)
    found.watch.update(checkpoint_every=1, sample_every=2, num_pictures=2)
    found.sampling.update(num_steps=2, batch_size=8)
    return found


@pytest.mark.wide
@pytest.mark.parametrize("name", NAMES)
def test_every_mode_in_a_folder_of_any_name(tmp_path, name):
    data, workdir = tmp_path / name, tmp_path / "runs" / name
    images(data)
    settings = config(data)
    for steps in (2, 3):  # and goes on
        settings.train.num_steps = steps
        loop.train(settings, workdir)
    model = mt_diffusion.load(workdir)
    assert model.step == 3 and name in model.names["label"]
    drawn = model.sample(2, given={"label": name})
    assert drawn["image"].shape == (2, 8, 8, 1)
    reading.read(workdir, None, [], 0, {}, True)
    out = tmp_path / "out" / name
    reading.read(workdir, out, [f"image={data / 'b'}"], 0, {}, True)
    assert (out / "samples.npz").exists()
    bounds = model.bound(drawn["image"], num_times=2, label=[name, name])
    assert all(np.isfinite(values).all() for values in bounds.values())
    assert report.write(workdir).exists()
    page = report.compare([workdir], tmp_path / f"{name[:100]}.html")
    assert page.exists()
    new = settings.copy_and_resolve_references()
    new.init_from = str(workdir)
    loop.train(new, tmp_path / "new")
    top = sorted(p.name for p in tmp_path.iterdir())
    assert top == sorted([name, "runs", "out", "new", page.name])


def test_the_guide_of_a_folder_with_a_colon_is_that_folder(tmp_path):
    """And not a step of another one."""
    (tmp_path / "a:60").mkdir()
    place = str(tmp_path / "a:60")
    assert restoring.place_of_guide(place) == (pathlib.Path(place), None)
    (tmp_path / "b").mkdir()
    place = str(tmp_path / "b")
    assert restoring.place_of_guide(f"{place}:7") == (pathlib.Path(place), 7)
    assert restoring.place_of_guide(place) == (pathlib.Path(place), None)
