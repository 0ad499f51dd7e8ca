"""Weights in files, by the names that they have elsewhere: PyTorch's state dicts."""

import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.files import arrays, paths, writing
from mt_diffusion.files.names import shown

NUMBERS = "fiub"
KINDS = {"F64", "F32", "F16", "BF16", "BOOL"}  # of safetensors
KINDS |= {f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64)}
INDEX = ".safetensors.index.json"  # of weights in several files
PICKLED = {".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".safetensors"}
MOST = 5  # names that are written out


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The state dict in a .pt, .pth, .npz or .safetensors file, float32.

    Raises UserError for a file that is none, and where a package is missing to read it.
    """
    if file.suffix not in READERS:
        raise UserError(f"{file} is no checkpoint: give one of {', '.join(READERS)}.")
    if not file.is_file():
        raise UserError(f"{file} does not exist; give the path of a checkpoint.")
    try:
        with paths.at_hand(file) as here:
            state = READERS[file.suffix](here)
        found = {name: as_float32(name, x) for name, x in state.items()}
    except ImportError as error:
        raise UserError(
            f"reading {file} needs {error.name}: `pip install {error.name}`, or "
            "convert it elsewhere to .npz or .safetensors, names kept."
        ) from error
    except Exception as error:  # whatever a damaged file makes its reader raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{shown(file)} can't be read as a state dict, an array for each name "
            f"({shown(reason[0])[:200]}); download or convert it once more."
        ) from error
    check_finite(found, file)
    return found


def read_saved(folder: pathlib.Path, stem: str) -> dict[str, np.ndarray]:
    """The weights of a folder as `save_pretrained` writes them: one file, or several.

    stem: `model` of transformers, `diffusion_pytorch_model` of diffusers. Safetensors
    alone. Raises UserError where there are none, or a part is missing.
    """
    whole = folder / f"{stem}.safetensors"
    index = folder / f"{stem}{INDEX}"
    if whole.is_file() or not index.is_file():
        if not whole.is_file():
            others = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED)
            there = f" (it has {_some(others)}, which are not read)" if others else ""
            raise UserError(
                f"{shown(folder)} has no {whole.name}{there}. Give the folder of a "
                "model that was saved as safetensors (save_pretrained with "
                "safe_serialization=True)."
            )
        return read(whole)
    told = read_table(index).get("weight_map")
    if not isinstance(told, dict) or not all(is_part(x) for x in told.values()):
        raise UserError(
            f"{shown(index)} does not say in which file beside it each weight is, as "
            "weight_map; download it once more."
        )
    parts = sorted(set(told.values()))
    if missing := [name for name in parts if not (folder / name).is_file()]:
        raise UserError(
            f"{shown(folder)} lacks {_some(missing)} of the {len(parts)} files that "
            f"{index.name} names; download them too."
        )
    found: dict[str, np.ndarray] = {}
    for name in parts:
        found |= read(folder / name)
    return found


def is_part(name: Any) -> bool:
    """Whether an index may name this file: one beside it, of safetensors."""
    path = pathlib.PurePath(str(name))
    return path.name == str(name) and path.suffix == ".safetensors"


def read_json(path: pathlib.Path) -> Any:
    """What a file of JSON says; UserError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} can't be read as JSON ({error}).") from error


def read_table(path: pathlib.Path) -> dict[str, Any]:
    """A file of JSON that holds a table; UserError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{shown(path)} holds no table of JSON; download it once more.")
    return found


def as_float32(name: str, x: np.ndarray) -> np.ndarray:
    """Numbers of any width, half-precision ones too; ValueError for anything else."""
    x = np.asarray(x)
    if x.dtype.kind not in NUMBERS and x.dtype.name != "bfloat16":
        raise ValueError(
            f"{name} is {x.dtype}, of which the numbers are not known; save it as "
            "float32"
        )
    with np.errstate(over="ignore"):  # which is then not finite
        return x.astype(np.float32)


def check_finite(state: Mapping[str, np.ndarray], file: pathlib.Path) -> None:
    """Raises UserError where a weight is NaN or infinite, as float32."""
    wrong = [name for name, x in state.items() if not np.isfinite(x).all()]
    if wrong:
        raise UserError(
            f"{shown(file)} has weights that are not finite as float32, in "
            f"{_some(wrong)}: it is damaged, or of a training that failed. Download it "
            "once more, or take another one."
        )


def read_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz file; none may be pickled."""
    with paths.at_hand(file) as here:
        arrays.headers(here)
        with open(here, "rb") as opened, np.load(opened, allow_pickle=False) as found:
            return dict(found)


def kept(file: pathlib.Path) -> dict[str, np.ndarray] | None:
    """What was kept in a .npz file so as not to be made again, if it still can be read.

    None where there is none, and for a broken one, which is said.
    """
    if not file.exists():
        return None
    try:
        return read_npz(file)
    except Exception as error:  # whatever a damaged file makes its reader raise
        print(f"{file} is broken, so it is made again ({error})")
        return None


def read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a .safetensors file."""
    with safetensors.safe_open(file, "np") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    if strange := sorted(kinds - KINDS):
        raise ValueError(f"it holds {', '.join(strange)}; save it as F16, BF16 or F32")
    return safetensors.numpy.load_file(file)


def read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a PyTorch state dict; code in it is not run."""
    import torch

    tensors = torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def facts(file: pathlib.Path) -> dict[str, str]:
    """What the header of a .safetensors file says beside its arrays."""
    with paths.at_hand(file) as here, safetensors.safe_open(here, "np") as opened:
        return opened.metadata() or {}


def rounded(state: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Weights as float32, float16 or bfloat16.

    Raises UserError, with their names, where some are too large for it.
    """
    with np.errstate(over="ignore"):  # looked at below
        found = {n: np.asarray(x).astype(jnp.dtype(dtype)) for n, x in state.items()}
    if large := [n for n, x in found.items() if not np.isfinite(x).all()]:
        raise UserError(
            f"weights in {_some(large)} are not finite as {dtype}; take float32 or "
            "bfloat16, or a checkpoint from before they were lost."
        )
    return found


def widened(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights as they are after reading: float32."""
    return {name: np.asarray(x, np.float32) for name, x in state.items()}


def write(
    file: pathlib.Path, state: Mapping[str, np.ndarray], facts: Mapping[str, str]
) -> None:
    """Writes weights to a .safetensors file, with facts in its header, or a .npz."""
    named: Mapping[str, Any] = state  # NumPy's types take a name for an option's
    with writing.draft_of(file) as draft, open(draft, "wb") as opened:
        if file.suffix == ".npz":
            np.savez(opened, **named)
        else:
            whole = {name: np.ascontiguousarray(x) for name, x in state.items()}
            opened.write(safetensors.numpy.save(whole, dict(facts)))


def check_writable(file: pathlib.Path, dtype: str) -> None:
    """Raises UserError for a suffix that weights have not, or bfloat16 in a .npz."""
    if file.suffix not in WRITTEN:
        raise UserError(
            f"--out={file} is to be a file of weights: let it end in "
            f"{' or '.join(WRITTEN)}."
        )
    if file.suffix == ".npz" and dtype == "bfloat16":
        raise UserError(
            f"--out={file}: .npz knows no bfloat16; take .safetensors, or float16."
        )


WRITTEN = (".safetensors", ".npz")
READERS = {
    ".pt": read_torch,
    ".pth": read_torch,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}


def check(
    found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], what: str
) -> None:
    """Raises UserError, opened by `what`, where names or shapes of weights differ.

    Both are {name: shape}. Names the missing, the unused and the misshapen.
    """
    missing, unused = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    misshapen = [
        f"{name} has shape {tuple(found[name])} for {tuple(wanted[name])}"
        for name in found.keys() & wanted.keys()
        if tuple(found[name]) != tuple(wanted[name])
    ]
    if missing or unused or misshapen:
        raise UserError(
            f"{what}: missing {_some(missing)}, unused {_some(unused)}, "
            f"misshapen {_some(misshapen)}."
        )


def _some(names: Collection[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{sorted(names)[:MOST]}{more}"


def digest(state: Mapping[str, np.ndarray]) -> str:
    """16 hexadecimal digits that stand for all names, shapes and values of weights."""
    total = hashlib.sha256()
    for name, x in sorted(state.items()):
        total.update(f"{name} {x.dtype} {x.shape} ".encode() + x.tobytes())
    return total.hexdigest()[:16]
