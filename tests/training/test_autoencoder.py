"""The training of a small autoencoder: it goes on, and leaves what others read."""

import json
import shutil

import numpy as np
import pytest

from configs import autoencoder, image_label
from mt_diffusion.data import sources
from mt_diffusion.errors import Stopped, UserError
from mt_diffusion.models.autoencoder import folder
from mt_diffusion.training.autoencoder import fit

TINY = dict(block_out_channels=(4, 4), norm_num_groups=2, mid_block_add_attention=False)


def tiny(num_steps):
    config = autoencoder.get_config("smoke")
    config.autoencoder.update(TINY)
    config.train.update(num_steps=num_steps, batch_size=16)
    config.watch.update(log_every=2, checkpoint_every=2, sample_every=0)
    config.optimizer.final_fraction = 1.0  # no rate depends on the number of steps
    return config.lock()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir of 4 steps, of which the first two were another call's."""
    workdir = tmp_path_factory.mktemp("runs") / "autoencoder"
    fit.train(tiny(2), workdir, "none")
    begun = workdir.with_name("begun")
    shutil.copytree(workdir, begun)
    fit.train(tiny(4), workdir, "none")
    return workdir, begun


def test_the_same_command_goes_on(trained, tmp_path):
    fit.train(tiny(4), tmp_path, "none")
    for name in (folder.WEIGHTS, folder.CONFIG):
        whole, resumed = (
            (place / "autoencoder" / name).read_bytes()
            for place in (tmp_path, trained[0])
        )
        assert whole == resumed
    lines = (trained[0] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_told_to_stop_it_saves_what_it_has(trained, tmp_path, monkeypatch):
    """At a step that no checkpoint is due at."""
    told = lambda self, step: step == 3  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(fit.Preemption, "reached", told)
        with pytest.raises(Stopped, match="after step 3 of 4; the same command"):
            fit.train(tiny(4), tmp_path, "none")
    assert not (tmp_path / "autoencoder").exists()
    fit.train(tiny(4), tmp_path, "none")
    whole, resumed = (
        (place / "autoencoder" / folder.WEIGHTS).read_bytes()
        for place in (trained[0], tmp_path)
    )
    assert whole == resumed


def test_its_folder_is_read_and_its_latents_have_unit_variance(trained):
    model = folder.find(str(trained[0] / "autoencoder"))
    assert model.form.factor == 2 and model.form.latent_channels == 2
    told = json.loads((trained[0] / "reconstruction.json").read_text())
    source = sources.open_source(tiny(4).data, "train")
    rows = np.linspace(0, len(source) - 1, 1024).astype(int)
    images = np.stack([source[int(i)]["image"] for i in rows])
    mean, std = model.encode(images / np.float32(127.5) - 1)
    rng = np.random.default_rng(0)
    z = (mean + std * rng.standard_normal(std.shape)) * model.scaling
    assert z.std() == pytest.approx(1, rel=0.02)
    test = sources.open_source(tiny(4).data, "test")
    images = np.stack([test[i]["image"] for i in range(len(test))])
    made = model.decode(model.encode(images / np.float32(127.5) - 1).mean)
    pixels = np.clip(np.round((made + 1) * 127.5), 0, 255)
    psnr = 10 * np.log10(255**2 / np.mean((pixels - images) ** 2))
    assert told["test_psnr"] == pytest.approx(psnr, abs=0.01)


def test_another_architecture_does_not_go_on(trained):
    config = tiny(6).unlock()
    config.autoencoder.latent_channels = 3
    with pytest.raises(UserError, match="damaged, or of another config.autoencoder"):
        fit.train(config, trained[1], "none")
    (trained[1] / fit.STATE).write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged, or of another config.autoencoder"):
        fit.train(tiny(6), trained[1], "none")


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("autoencoder", dict(block_out_channels=(4, 5)), "does not divide"),
        ("autoencoder", dict(block_out_channels=()), "numbers below 1"),
        ("autoencoder", dict(block_out_channels=(4,) * 5), "not divisible by 16"),
        ("autoencoder", dict(latent_channels=0), "numbers below 1"),
        ("autoencoder", dict(kl_weight=-1.0), "kl_weight below 0"),
        ("autoencoder", dict(depth=3), "missing or unknown"),
        ("train", dict(batch_size=3), "not divisible by the"),
        ("train", dict(ema_decay=2.0), "ema_decay is 2.0"),
        ("train", dict(epochs=2), "nothing would read config.train.epochs"),
    ],
)
def test_a_config_that_can_not_be_is_a_paragraph(section, changes, words):
    config = tiny(2).unlock()
    config[section].update(changes)
    with pytest.raises(UserError, match=words):
        fit.check(config)


def test_a_diffusion_is_no_autoencoder():
    assert fit.is_one(tiny(2))
    assert not fit.is_one(image_label.get_config("smoke"))
