"""What an autoencoder makes of images: PSNR, a picture, the scale of its latents."""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline
from mt_diffusion.data.rows import spread
from mt_diffusion.files import weights, writing
from mt_diffusion.inference.drawing import pictures
from mt_diffusion.modalities import build as base
from mt_diffusion.models.autoencoder import folder as folders
from mt_diffusion.models.autoencoder import layout
from mt_diffusion.protocol import Variable

FOLDER = "autoencoder"
LEVELS = 255
MEASURED = 1024  # images that are looked at


def preprocess_of(config: ConfigDict, random_flip: bool) -> pipeline.Preprocess:
    """Pixels of examples."""
    return pipeline.Preprocess(image_of(config), (), random_flip)


def image_of(config: ConfigDict) -> Variable:
    """What is encoded and decoded."""
    side, colors = config.data.image_size, config.data.channels
    return base.build("image", {"kind": "image.Image"}, (side, side, colors))


def images_of(source: Any, most: int, config: ConfigDict) -> np.ndarray:
    """Images spread over a source, as the autoencoder has them."""
    chosen = spread(len(source), most)
    preprocess, rng = preprocess_of(config, False), np.random.default_rng(0)
    return np.stack([preprocess(source[i], rng).z0 for i in chosen])


def reconstruct(module, test, config, params) -> tuple[float, Any]:
    """PSNR of test images there and back by the mean, and a picture of some."""
    images, variable = images_of(test, MEASURED, config), image_of(config)
    made = through(jax.jit(module.apply), params, images)
    both = {"image": images, "reconstructed": made}
    files = {name: variable.postprocess(x) for name, x in both.items()}
    error = np.mean((files["image"].astype(np.float64) - files["reconstructed"]) ** 2)
    first = {name: x[: config.watch.num_pictures] for name, x in files.items()}
    grid = pictures.grid(first, dict.fromkeys(first, variable))
    return float(10 * np.log10(LEVELS**2 / max(error, 1e-10))), grid


def through(apply: Any, params: Any, images: np.ndarray, size: int = 64) -> Any:
    """What a jitted way makes of images, some at a time."""
    parts = [
        jax.device_get(apply({"params": params}, images[i : i + size]))
        for i in range(0, len(images), size)
    ]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def finish(workdir, module, state, source, test, config) -> None:
    """Writes the averaged autoencoder, with the scale of its latents, and figures."""
    average = jax.device_get(state.average)
    images = images_of(source, MEASURED, config)
    encode = jax.jit(functools.partial(module.apply, method="encode"))
    mean, std = through(encode, average, images)
    spread = float(np.sqrt(np.var(mean) + np.mean(std**2)))
    decibels, _ = reconstruct(module, test, config, average)
    out = workdir / FOLDER
    writing.make_folder(out, f"--workdir={workdir}", workdir)
    folders.write(out, module.form, average, config.data.image_size, 1 / spread)
    shape = [config.data.image_size // module.form.factor] * 2
    facts = {
        "step": int(state.step),
        "test_psnr": decibels,
        "test_images": min(MEASURED, len(test)),
        "latents": [*shape, module.form.latent_channels],
        "standard_deviation": spread,
        "of_a_draw": float(np.sqrt(np.mean(std**2))),
        "digest": weights.digest(layout.to_state(average)),
    }
    writing.as_json(workdir / "reconstruction.json", facts)
    print(f"done: test images come back with a PSNR of {decibels:.2f} dB. Wrote {out}")
