"""The models that come with the package: offline, by name, good enough to look at."""

import socket

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import mt_diffusion
from mt_diffusion.experiment import exported

LARGEST = {"digits": 1e6}  # bytes; of others 8 MB


@pytest.fixture
def offline(monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_digits_draws_digits_at_once(offline, tmp_path, monkeypatch):
    """An independent judge, nearest neighbours among real digits, names most right."""
    monkeypatch.chdir(tmp_path)
    model = mt_diffusion.load("digits")
    labels = np.arange(16) % 10
    drawn = model.sample(16, given={"label": labels}, steps=10, seed=0)
    assert drawn["image"].shape == (16, 8, 8, 1)
    pixels, truth = load_digits(return_X_y=True)
    judge = KNeighborsClassifier(1).fit(pixels * 255 / 16, truth)
    assert np.sum(judge.predict(drawn["image"].reshape(16, -1)) == labels) >= 14
    assert list(tmp_path.iterdir()) == []  # and writes nothing


def test_fashion_draws_what_is_asked_for(offline, tmp_path, monkeypatch):
    """Trousers fill the height, sneakers the width and half the height at most."""
    monkeypatch.chdir(tmp_path)
    model = mt_diffusion.load("fashion")
    given = {"label": ["Trouser"] * 4 + ["Sneaker"] * 4}
    images = model.sample(8, given=given, steps=6, seed=0)["image"]
    assert images.shape == (8, 28, 28, 1)
    bright = images[..., 0] > 64
    tall, wide = bright.any(2).sum(1), bright.any(1).sum(1)
    assert np.all(tall[:4] >= 24) and np.all(tall[4:] <= 20) and np.all(wide[4:] >= 24)
    assert model.names["label"][7] == "Sneaker"


@pytest.mark.parametrize("name", exported.names())
def test_each_has_its_size_its_card_and_figures(name):
    folder = exported.SHIPPED / name
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert size <= LARGEST.get(name, 8e6)
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"]
    assert "--seed=" in card and "fid_" in card and "rounding" not in card
    config = (folder / "config.json").read_text()
    assert not any(place in config for place in ('"/', '"~'))  # of another machine


def test_these_are_here():
    assert exported.names() == ["digits", "fashion"]
