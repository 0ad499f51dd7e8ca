"""Autoencoders in folders as diffusers saves them, or in the hub's cache.

`find` downloads nothing and unpickles nothing. `Autoencoder` goes both ways between
images and latents, in batches, and in tiles where the images are large.
"""

import functools
import hashlib
import importlib.util
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights, writing
from mt_diffusion.files.names import shown
from mt_diffusion.models.autoencoder import layout, tiles
from mt_diffusion.models.autoencoder.kl import AutoencoderKL, Form, Moments

CLASS, CONFIG = "AutoencoderKL", "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INSIDE = "vae"  # the folder of a whole pipeline that has the autoencoder
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
KINDS = {  # what may be chosen elsewhere, and is one here
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}
# diffusers' own, for what an earlier config leaves out.
USUAL = {
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
AT_ONCE = 8  # images of SIDE; of larger ones fewer, for attention's logits grow
SIDE = 512  # of a tile, where the config has none


class Autoencoder:
    """AutoencoderKL of a folder; its weights are read when they are first needed.

    form: its architecture. scaling, shift: (z - shift) * scaling has about unit
    variance; scaling is None where the config does not say.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for a folder that has none, or one that is not read here."""
        self.folder = folder
        self._file = folder / WEIGHTS
        config = read_config(folder)
        self.form = form_of(config, folder)
        numbers = numbers_of(config, folder)
        self.scaling: float | None = numbers["scaling_factor"]
        self.shift: float = numbers["shift_factor"] or 0.0
        side, whole = numbers["sample_size"] or SIDE, 4 * self.form.factor
        self._tile = int(-(-side // whole) * whole)  # so that what fades is whole cells
        self._module = AutoencoderKL(self.form)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the file of its weights."""
        with open(self._file, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @functools.cached_property
    def params(self) -> dict:
        """Its variables on the devices; UserError where a key does not fit."""
        side = 2 * self.form.factor
        image = jax.ShapeDtypeStruct((1, side, side, self.form.in_channels), np.float32)
        shapes = jax.eval_shape(self._module.init, jax.random.key(0), image)
        what = f"{shown(self._file)} has other weights than its {CONFIG} tells of"
        state = weights.read(self._file)
        return {"params": layout.from_state(state, shapes["params"], what)}

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(functools.partial(self._module.apply, method="encode"))

    @functools.cached_property
    def _decode(self) -> Any:
        return jax.jit(functools.partial(self._module.apply, method="decode"))

    def encode(
        self,
        images: np.ndarray,
        at_once: int = 0,
        place: Callable[[np.ndarray], Any] = np.asarray,
    ) -> Moments:
        """The Gaussian of the latents of images [N, H, W, C] in [-1, 1], unscaled.

        Of whole images, whatever their size, as diffusers has it. at_once: how many go
        through together, 0 for what is usual. place: puts these where they are to be.
        """

        def both(x):
            return np.concatenate(self._encode(self.params, place(x)), axis=-1)

        usual = batch_of(max(images.shape[1:3]))
        found = in_batches(both, images, at_once or usual)
        halves: Any = np.split(found, 2, axis=-1)
        return Moments(*halves)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """The images [N, H, W, C] of unscaled latents, about in [-1, 1].

        In tiles where they are larger than those that the autoencoder was trained on.
        """

        def decode(z):
            return tiles.through(
                functools.partial(self._decode, self.params),
                z,
                self._tile // self.form.factor,
                self._tile,
            )

        side = min(self._tile, self.form.factor * max(latents.shape[1:3]))
        return in_batches(decode, latents, batch_of(side))


def batch_of(side: int) -> int:
    """How many images of so many pixels on a side go through together."""
    return min(max(AT_ONCE * SIDE**2 // side**2, 1), AT_ONCE)


def in_batches(
    convert: Callable[[np.ndarray], np.ndarray], x: np.ndarray, at_once: int
) -> np.ndarray:
    """What `convert` makes of x [N, ...], in batches of one size: one program."""
    rows = -(-len(x) // at_once) * at_once if len(x) > at_once else len(x)
    filled = np.asarray(x, np.float32)[np.arange(rows) % len(x)]
    parts = [convert(filled[i : i + at_once]) for i in range(0, rows, at_once)]
    return np.concatenate(parts)[: len(x)]


@functools.lru_cache(4)
def find(text: str) -> Autoencoder:
    """The autoencoder in a folder, or USER/NAME in the cache of the hub.

    Of a whole pipeline it is the one in its folder `vae`. Raises UserError where there
    is none.
    """
    path = pathlib.Path(text).expanduser()
    if path.is_file():
        what = "a pickle, which may run code" if path.suffix in PICKLES else "a file"
        raise UserError(
            f"the autoencoder {shown(text)} is {what}; give the folder that diffusers "
            f"makes of it, with {CONFIG} and {WEIGHTS}: in Python with diffusers, "
            f"AutoencoderKL.from_single_file({path.name!r}).save_pretrained(FOLDER)."
        )
    if not path.is_dir():
        path = in_cache(text)
    if not (path / CONFIG).is_file() and (path / INSIDE / CONFIG).is_file():
        path = path / INSIDE
    return Autoencoder(path)


def in_cache(text: str) -> pathlib.Path:
    """The folder of USER/NAME, or of USER/NAME/FOLDER, in the hub's cache."""
    remedy = (
        "name with --config.primary.space.autoencoder= a folder as diffusers saves it, "
        "or USER/NAME of one that is in the hub's cache"
    )
    if not HUB.fullmatch(text):
        raise UserError(
            f"there is no folder {shown(text)} with an autoencoder; {remedy}."
        )
    user, name, *inside = text.split("/")
    if importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            found = snapshot_download(f"{user}/{name}", local_files_only=True)
            return pathlib.Path(found, *inside)
        except (LocalEntryNotFoundError, ValueError):  # not there; no such name
            pass
    raise UserError(
        f"there is no folder {shown(text)}, and the hub's cache has no autoencoder of "
        f"that name, and nothing is downloaded unasked. Download it first, `hf "
        f"download {user}/{name} --include 'vae/*' --include '*.json' --include "
        f"'{WEIGHTS}'` (pip install huggingface_hub), or {remedy}."
    )


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """config.json of a folder with an autoencoder; UserError for any other."""
    if (folder / CONFIG).is_file() and not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{shown(folder)} has no {WEIGHTS}: its weights are not here, or are a "
            "pickle, which is not read. Download them as safetensors, or save the "
            "model once more (save_pretrained of diffusers)."
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        kind = config.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{shown(folder)} is no folder of an autoencoder: its {CONFIG} can't be "
            f"read ({writing.reason(error)}). Give one as diffusers saves {CLASS}."
        ) from error
    if kind != CLASS:
        other = config.get("model_type") or config.get("architectures")
        raise UserError(
            f"{shown(folder)} has a model of the kind {shown(str(kind or other))!r}, "
            f"and no {CLASS}, which is what is read here (Stable Diffusion's "
            f"autoencoders, 1.x to XL and those of 16 channels)."
        )
    return config


def numbers_of(
    config: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, float | None]:
    """scaling_factor, shift_factor and the smaller sample_size, None where not told.

    Raises UserError for what is no number, or none that can be one.
    """
    found = {n: config.get(n) for n in ("scaling_factor", "shift_factor")}
    side = config.get("sample_size")
    found["sample_size"] = min(side) if isinstance(side, list) and side else side
    for name, x in found.items():
        if x is None:
            continue
        is_number = type(x) in (int, float) and math.isfinite(x)
        if not is_number or (x <= 0 and name != "shift_factor"):
            raise UserError(
                f"{shown(folder / CONFIG)} has {name} = {shown(repr(config[name]))}; "
                "scaling_factor and sample_size are numbers above 0, shift_factor is a "
                "number. Put there what the autoencoder was saved with."
            )
    return found


def form_of(config: Mapping[str, Any], folder: pathlib.Path) -> Form:
    """The architecture that a config tells; UserError for one that is not read here."""
    strange = [
        f"{name} = {config[name]!r}"
        for name, usual in KINDS.items()
        if set(np.atleast_1d(config.get(name, usual))) != {usual}
    ]
    strange += [n for n in ("latents_mean", "latents_std") if config.get(n) is not None]
    if strange:
        raise UserError(
            f"{shown(folder / CONFIG)} has {', '.join(strange)}, which is not read "
            f"here; an {CLASS} of Stable Diffusion has {KINDS}, and one scale for all."
        )
    told = USUAL | {name: config[name] for name in Form._fields if name in config}
    try:
        found = Form(**told)  # type: ignore[arg-type]
        found = found._replace(block_out_channels=tuple(found.block_out_channels))
        numbers = (*found[:2], *found.block_out_channels, *found[3:6])
        if not found.block_out_channels or not all(int(x) == x > 0 for x in numbers):
            raise ValueError("widths are whole numbers above 0")
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{shown(folder / CONFIG)} is no whole config of an {CLASS} "
            f"({writing.reason(error)}); save the model once more."
        ) from error
    return found


def write(
    folder: pathlib.Path, form: Form, params: Mapping[str, Any], side: int, scale: float
) -> None:
    """Saves an autoencoder as diffusers does.

    side: of the images that it was trained on. scale: the scaling_factor.
    """
    levels = len(form.block_out_channels)
    told = {
        "_class_name": CLASS,
        **form._asdict(),
        "act_fn": "silu",
        "down_block_types": levels * [KINDS["down_block_types"]],
        "up_block_types": levels * [KINDS["up_block_types"]],
        "sample_size": side,
        "scaling_factor": scale,
        "shift_factor": None,
    }
    weights.write(folder / WEIGHTS, layout.to_state(params), {"format": "pt"})
    writing.as_json(folder / CONFIG, told)
