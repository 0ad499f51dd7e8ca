"""The way from one example to another, and what it is written as."""

import csv

import numpy as np
import PIL.Image
import pytest

import mt_diffusion
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.inference import sampling
from mt_diffusion.inference.drawing import between

STEPS = {"num_steps": 3}


@pytest.fixture(scope="module")
def model():
    return mt_diffusion.load("digits")


@pytest.fixture(scope="module")
def workdir():
    return exported.find("digits")


def drawn(workdir, out, text, num=5, given=(), seed=0):
    sampling.sample(workdir, out, num, seed, given, STEPS, True, interpolate=text)
    return dict(np.load(out / "samples.npz"))


def test_a_way_between_seeds_ends_in_their_samples(model, workdir, tmp_path):
    found = drawn(workdir, tmp_path, "seed=3,7", given=["label=5"])
    ends = [model.sample(1, {"label": 5}, steps=3, seed=s)["image"] for s in (3, 7)]
    for place, end in ((0, ends[0]), (-1, ends[1])):
        assert np.abs(found["image"][place].astype(int) - end[0]).max() <= 1
    between_them = found["image"][1:-1].astype(int)
    for end in ends:
        assert np.all(np.any(between_them != end, axis=(1, 2, 3)))
    with PIL.Image.open(tmp_path / "interpolation.gif") as film:
        assert film.n_frames == 8 and film.info["loop"] == 0  # there and back
    rows = list(csv.DictReader((tmp_path / "samples.csv").read_text().splitlines()))
    assert [row["input"] for row in rows][1] == "label=5; seed=3,7 at 0.250"


def test_a_way_between_labels_keeps_the_noise(model, workdir, tmp_path):
    found = drawn(workdir, tmp_path, "label=3,7", num=3, seed=4)
    for place, label in ((0, 3), (-1, 7)):
        end = model.sample(1, {"label": label}, steps=3, seed=4)
        assert np.abs(found["image"][place].astype(int) - end["image"][0]).max() <= 1
        assert found["label"][place] == label
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names[0] == "00000_3.png" and names[-1] == "00002_7.png"


@pytest.mark.parametrize(
    "text, given, num, words",
    [
        ("seeds=1,2", {}, 4, "names nothing that has a way"),
        ("seed=1", {}, 4, "takes two seeds"),
        ("seed=1,x", {}, 4, "takes two seeds"),
        ("seed=1,-2", {}, 4, "takes two seeds"),
        ("seed=1,4294967296", {}, 4, "takes two seeds"),
        ("label=3", {}, 4, "names 1 values of label"),
        ("label=3,4,5", {}, 4, "names 3 values of label"),
        ("label=3,eleven", {}, 4, "is no label"),
        ("label=3,4", {"label": np.eye(10)[[1]]}, 4, "several values of --given=label"),
        ("seed=1,2", {"label": np.eye(10)[[1, 2]]}, 4, "several values of --given="),
        ("seed=1,2", {}, 1, "2 to 1000 pictures"),
        ("seed=1,2", {}, 1001, "2 to 1000 pictures"),
    ],
)
def test_what_has_no_two_ends_is_refused(model, text, given, num, words):
    with pytest.raises(UserError, match=words) as caught:
        between.parse(text, model.experiment, given, 0, num)
    assert "\n" not in str(caught.value)


def test_between_two_masks_there_is_none():
    from configs import joint
    from mt_diffusion.modalities import build

    config = joint.get_config("smoke")
    fields = config.modalities.masked_image.to_dict()
    masked = build.build("masked_image", fields, (8, 8, 1))
    image, seen = np.zeros((8, 8, 1), np.float32), np.ones((8, 8, 1), np.float32)
    a, b = masked.hide(image, seen), masked.hide(image + 1, seen)
    (half,) = masked.between(a, b, np.array([0.5]))
    assert np.all(half[..., 0] == 0.5) and np.all(half[..., 1] == 1)
    with pytest.raises(UserError, match="hide different pixels"):
        masked.between(a, masked.hide(image, 0 * seen), np.array([0.5]))
