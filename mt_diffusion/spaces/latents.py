"""The space of the latents of a frozen autoencoder, scaled to about unit variance.

Training reads latents that --mode=precompute made (data/latents.py); what a user gives
is encoded, and a picture is decoded where one is wanted, by the weights themselves.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mt_diffusion.data import latents
from mt_diffusion.data.rows import spread
from mt_diffusion.diffusion import likelihood
from mt_diffusion.errors import UserError
from mt_diffusion.files.names import shown
from mt_diffusion.models.autoencoder import folder
from mt_diffusion.models.autoencoder.folder import Autoencoder
from mt_diffusion.spaces.pixels import to_uint8, to_unit
from mt_diffusion.spaces.space import Shape

MOST = 2048  # training examples that the range of latents is taken from, at most
WIDTHS = 2.0  # standard deviations of a draw that the range has room for
UNSEEN = 127  # the grey of what was not seen
FIELD = "config.primary.space"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
    """As of `Space`.

    autoencoder: a folder as diffusers saves it, or USER/NAME in the hub's cache.
    factor, channels: pixels on a side of a cell of its latents, and their channels.
    moments: which latents an image has: mean, or sample, drawn anew each time.
    scaling: by which latents are multiplied; 0 for what the autoencoder says.
    found: the autoencoder's digest, scaling and shift, and the range of the latents of
    training images; empty before there is a run.
    """

    picture: Shape
    autoencoder: str
    factor: int
    channels: int
    moments: str
    scaling: float
    found: Mapping[str, Any]

    unit: ClassVar[str] = "bits_per_dim_of_latents"

    def __post_init__(self):
        """Refuses what no space has."""
        if self.moments not in latents.MOMENTS:
            raise UserError(
                f"{FIELD}.moments is {self.moments!r}; choose one of "
                f"{list(latents.MOMENTS)}."
            )
        if self.factor < 1 or self.channels < 1 or self.scaling < 0:
            raise UserError(
                f"{FIELD} has factor = {self.factor}, channels = {self.channels}, "
                f"scaling = {self.scaling}; the first two are 1 or more, and scaling "
                "above 0, or 0 for what the autoencoder's config says."
            )
        if self.picture[0] % self.factor or self.picture[1] % self.factor:
            raise UserError(
                f"images of {self.picture[0]} pixels have no whole latents: "
                f"{FIELD}.factor = {self.factor} does not divide config.data.image_size"
                f"; use {max(self.picture[0] // self.factor, 1) * self.factor}."
            )

    @property
    def shape(self):
        height, width, _ = self.picture
        return height // self.factor, width // self.factor, self.channels

    def files(self):
        place = self.model.folder
        return [place / folder.CONFIG, place / folder.WEIGHTS]

    @property
    def limit(self):
        return self.found.get("limit", math.inf)

    @property
    def model(self) -> Autoencoder:
        """The autoencoder; UserError for one that does not fit."""
        model = folder.find(self.autoencoder)
        form, (_, _, colors) = model.form, self.picture
        there = form.factor, form.latent_channels, form.in_channels, form.out_channels
        if there != (wanted := (self.factor, self.channels, colors, colors)):
            raise UserError(
                f"the autoencoder {shown(self.autoencoder)!r} has a factor of "
                f"{there[0]}, latents of {there[1]} channels, and images of {there[2]}"
                f"; {FIELD}.factor, {FIELD}.channels and config.data.channels are "
                f"{wanted[0]}, {wanted[1]} and {wanted[2]}. Set them to those, or take "
                "another autoencoder."
            )
        before = self.found.get("digest")
        if before and before != model.digest:
            raise UserError(
                f"the autoencoder {shown(self.autoencoder)!r} has other weights than "
                "that whose latents this model was trained on, so these latents mean "
                f"other pictures: name that one with --{FIELD}.autoencoder=FOLDER."
            )
        return model

    @property
    def stand_in(self):
        told = {"digest": latents.UNKNOWN, "scaling": 1.0, "shift": 0.0, "limit": 1.0}
        return {"found": told}

    def fit(self, source):
        if self.found:
            return {}
        model = self.model
        scaling = self.scaling or model.scaling
        if None not in (scaling, model.scaling) and not math.isclose(
            scaling, model.scaling, rel_tol=1e-3
        ):
            raise UserError(
                f"{FIELD}.scaling is {scaling}, and the autoencoder "
                f"{shown(self.autoencoder)!r} says {model.scaling} of its latents: "
                f"with another one these are not of about unit variance. Set --{FIELD}"
                ".scaling=0, which takes the autoencoder's own."
            )
        if scaling is None:
            raise UserError(
                f"the config of the autoencoder {shown(self.autoencoder)!r} has no "
                f"scaling_factor: set --{FIELD}.scaling, 1 over the standard deviation "
                "of its latents (0.18215 for Stable Diffusion 1.x and 2.x, whose "
                "earlier configs leave it out)."
            )
        told = {"digest": model.digest, "scaling": scaling, "shift": model.shift}
        scaled = dataclasses.replace(self, found=told)
        chosen = spread(len(source), MOST)
        return {"found": told | {"limit": max(scaled.reach(source[i]) for i in chosen)}}

    def reach(self, example: dict) -> float:
        """How far from 0 the latents of an example go, or may be drawn to."""
        z = np.abs(self.value(example, "image"))
        std = example.get(latents.STD.format("image"), [0.0])[0]
        return float(np.max(z + WIDTHS * self.found["scaling"] * np.asarray(std)))

    def value(self, example, feature):
        is_drawn = latents.STD.format(feature) in example
        is_known = example.get(latents.WEIGHTS, latents.UNKNOWN) != latents.UNKNOWN
        if is_known and is_drawn != (self.moments == "sample"):
            raise UserError(
                f"{FIELD}.moments is {self.moments!r}, and the latents of "
                f"config.data.latents were made with {'sample' if is_drawn else 'mean'}"
                f": set it to that, or {latents.AGAIN}."
            )
        return self.scaled(latents.of(example, feature, self.found["digest"]))

    def scaled(self, z: np.ndarray) -> np.ndarray:
        """Latents as the diffusion has them, of those of the autoencoder."""
        unit = (z - self.found["shift"]) * self.found["scaling"]
        return unit.astype(np.float32)

    def encode(self, pixels):
        if self.found.get("digest") == latents.UNKNOWN:  # devices alone are asked
            return np.zeros((len(pixels), *self.shape), np.float32)
        return self.scaled(self.model.encode(to_unit(pixels)).mean)

    def decode(self, values, seen=None):
        z = np.asarray(values, np.float32) / self.found["scaling"] + self.found["shift"]
        pictures = to_uint8(self.model.decode(z))
        if seen is None:
            return pictures
        whole = ~np.any(seen > 0, axis=(1, 2, 3), keepdims=True)
        return np.where(whole | (self.seen(seen) > 0), pictures, UNSEEN).astype(
            np.uint8
        )

    def masked(self, pixels, mask):
        # An encoder looks around: hidden pixels get the mean of those that are seen,
        # so that what stands in them is not told.
        mask = np.asarray(mask, np.float32)
        seen = np.maximum(mask.sum(axis=(1, 2), keepdims=True), 1)
        mean = (pixels * mask).sum(axis=(1, 2), keepdims=True) / seen
        filled = np.where(mask > 0, pixels, np.round(mean)).astype(np.uint8)
        height, width, _ = self.shape
        cells = mask.reshape(-1, height, self.factor, width, self.factor, 1)
        return self.encode(filled), cells.min(axis=(2, 4))

    def seen(self, mask):
        return mask.repeat(self.factor, axis=1).repeat(self.factor, axis=2)

    def log_prob(self, x, mean, log_variance):
        return likelihood.gaussian(x, mean, log_variance)
