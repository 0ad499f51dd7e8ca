"""Two processes encode a data set as one does, each its share of the shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.data import latents
from mt_diffusion.models.autoencoder import folder, kl
from tests.parallel.test_processes import end, start, start_both

FORM = kl.Form(1, 1, (4, 4), 1, 2, 2, True, True, False)


@pytest.mark.wide
def test_vectors_of_a_job_are_made_once(tmp_path):
    """And no other process finds that they are there already."""
    flags = ["--mode=precompute", "--config=configs/image_representation.py:smoke"]
    flags += ["--encoder=tests.parallel.test_latents_of_processes:mean"]
    out = tmp_path / "vectors.npz"
    for status, _, errors in end(*start_both(*flags, f"--out={out}")):
        assert status == 0, errors
    with np.load(out) as found:
        assert found["train"].shape == (1438, 1)


def mean(images):
    """An encoder."""
    return images.mean(axis=(1, 2))


@pytest.mark.wide
def test_two_processes_encode_what_one_does(tmp_path):
    params = jax.jit(kl.AutoencoderKL(FORM).init)(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1))
    )
    place = tmp_path / "autoencoder"
    place.mkdir()
    folder.write(place, FORM, jax.device_get(params["params"]), 8, 0.5)
    flags = [
        "--mode=precompute",
        "--config=configs/latent_label.py:smoke",
        f"--config.primary.space.autoencoder={place}",
        "--config.data.random_flip=true",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    both = [start(*flags, f"--out={one}"), *start_both(*flags, f"--out={two}")]
    for status, _, errors in end(*both):
        assert status == 0, errors
    told = latents.read_manifest(one)
    assert latents.read_manifest(two) == told
    names = [
        name for split in ("train", "test") for name, _ in latents.shards(told, split)
    ]
    assert len(names) == 3  # of which one process made two, and the other one
    for name in names:
        found, wanted = np.load(two / name), np.load(one / name)
        np.testing.assert_allclose(found, wanted, atol=5e-3)  # float16
