"""What is generated of a continuous modality: its mean, and a draw beside it.

In each pixel z_0 and x are jointly Gaussian, and the network knows all of it.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion import protocol
from mt_diffusion.diffusion import aggregation, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import presence
from mt_diffusion.inference import generation
from mt_diffusion.inference.drawing import pictures
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities.kinds import Identity
from mt_diffusion.models.denoiser import View
from mt_diffusion.parallel.sharding import AXES
from mt_diffusion.protocol import Code, Known, Variable
from mt_diffusion.spaces import pixels

ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
SHAPE, NUM, VARIANCE, CORRELATION = (2, 2, 1), 4000, 0.25, 0.8
STD = float(np.sqrt(VARIANCE * (1 - CORRELATION**2)))  # of x given z_0
TABLE = schedule.cosine(1000)
PROCESS = Process(
    TABLE, aggregation.Aggregation({"x": aggregation.weights("x", "ramp", 2.0, TABLE)})
)


class Twin(Identity):
    """x, an image; its head gives E[x | z_t]."""

    def placeholder(self):
        return np.zeros(SHAPE, np.float32)

    def encode(self, value):
        return Code(latent=value)

    def mean(self, prediction):
        return prediction

    def postprocess(self, value):
        return np.asarray(value)


class Plain(Variable):
    """z_0."""

    def known(self, value):
        return Known(value, jnp.ones_like(value))

    def postprocess(self, value):
        return np.asarray(value)


class Exact:
    """What z_t says of z_0 and of x."""

    process = PROCESS

    def encode(self, variables, values):
        return {n: Code(latent=v) for n, v in values.items()}

    def __call__(self, variables, z_t, t, codes, known, values, dropout_key=None):
        at = lambda x: jnp.asarray(x, z_t.dtype)[t].reshape(-1, 1, 1, 1)  # noqa: E731
        signal = at(np.sqrt(TABLE.alpha_bar))
        drift = at(PROCESS.aggregation.alpha_tilde["x"])
        both = signal**2 + drift**2 + 2 * signal * drift * CORRELATION
        total = both * VARIANCE + 1 - signal**2
        z0 = (signal + drift * CORRELATION) * VARIANCE / total * z_t
        x = (signal * CORRELATION + drift) * VARIANCE / total * z_t
        return View(z_t, z0, None, {"x": x}, {"x": x}, {})

    def z0(self, view, step, u_t):
        return view.out


def drawn(guess, given=None):
    x = Twin(
        name="x", shape=SHAPE, drift="ramp", drift_scale=2.0, loss_weight=0.1,
        conditions=False, frame="none", guess=guess, std=STD,
    )  # fmt: skip
    primary = Plain(name="image", shape=SHAPE)
    variables = {"image": primary, "x": x}
    experiment = types.SimpleNamespace(
        shape=SHAPE,
        space=pixels.Pixels(picture=SHAPE),
        origin="",
        primary=primary,
        variables=variables,
        of=lambda name: variables[name.removesuffix(protocol.DRAW)],
        modalities=(x,),
        denoiser=Exact(),
        process=PROCESS,
        presence=presence.build({"all": {"share": 1.0, "x": "read"}}, {"x": False}),
    )
    wishes = common.get_config("digits").sampling
    wishes.update(sampler="dpmpp_2m", num_steps=50, clip="none", batch_size=NUM)
    draw = generation.Generator(experiment, wishes, ONE_DEVICE)
    made = draw({}, 0, NUM, given or {})
    return {n: np.asarray(v, np.float64).ravel() for n, v in made.items()}


def test_a_draw_has_the_joint_law_and_a_mean_has_not():
    """The mean's variance is 0.64 of the true one, and it is a function of z_0."""
    made = drawn("mean")
    assert made.keys() == {"image", "x", "x_drawn"}
    spread = 4 * np.sqrt(2 / (NUM * 4)) + 0.01
    assert abs(made["image"].var() / VARIANCE - 1) < spread
    assert abs(made["x_drawn"].var() / VARIANCE - 1) < spread
    together = np.corrcoef(made["image"], made["x_drawn"])[0, 1]
    assert abs(together - CORRELATION) < 0.02
    assert abs(made["x"].var() / VARIANCE - CORRELATION**2) < spread
    assert np.corrcoef(made["image"], made["x"])[0, 1] > 0.99


def test_what_was_drawn_on_the_way_is_the_draw():
    made = drawn("coherent")
    difference = made["x_drawn"] - made["x"]
    assert abs(difference.std() / STD - 1) < 0.05
    held = drawn("held")
    np.testing.assert_array_equal(held["x"], held["x_drawn"])


def test_of_a_given_image_a_draw_is_a_draw():
    """Heads are read at several t; what they say is averaged, noise is not."""
    z0 = np.full((1, *SHAPE), 0.5, np.float32)
    made = drawn("mean", {"image": z0})
    assert abs(made["x"].mean() - 0.5 * CORRELATION) < 0.02
    difference = made["x_drawn"] - made["x"]
    assert abs(difference.std() / STD - 1) < 0.05


def test_pictures_show_the_mean_and_say_so(monkeypatch):
    written = []
    real = pictures.PIL.ImageDraw.Draw

    def noting(image):
        draw = real(image)
        text = draw.text
        draw.text = lambda at, words, *rest: (
            written.append(words),
            text(at, words, *rest),
        )
        return draw

    monkeypatch.setattr(pictures.PIL.ImageDraw, "Draw", noting)
    shown = types.SimpleNamespace(show=lambda item: item)
    image = np.zeros((2, 8, 8, 1), np.uint8)
    examples = {"image": image, "x": image, "x_drawn": image}
    grid = pictures.grid(examples, {"image": shown, "x": shown}, ["image"])
    assert written == ["image (given) | x (mean)"]
    alone = pictures.grid({"image": image, "x": image}, {"image": shown, "x": shown})
    assert grid.size == alone.size


def test_no_modality_has_the_name_of_a_draw():
    with pytest.raises(UserError, match="label_drawn can't be"):
        base.build("label_drawn", {"kind": "label.Codebook"}, (8, 8, 1))
