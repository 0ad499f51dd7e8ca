"""Is damage to a checkpoint noticed? Every file of one, damaged in every way.

python -m studies.damage --workdir=runs/smoke --out=results/damage.json

Of the newest checkpoint of a run, which must have another one, each file is deleted,
cut short at three places, and has one bit turned at three places, one damage at a time.
Each time it is loaded in the ways that training and sampling do, and what comes back is
compared, to the bit, with what the undamaged checkpoints hold:

- harmless: the same as without the damage, which lies where nothing is read from;
- fallback: the checkpoint before, and the damage is said;
- refused: an error that speaks of the damage;
- misleading: the checkpoint before without a word, or an error of something else;
- silent: other numbers, as if nothing had happened.

All in one process, on a copy of the run; a minute or two for the smoke preset's 47
files. Without --out it only prints the table.
"""

import argparse
import collections
import contextlib
import functools
import io
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import FOLDER, Checkpoints
from mt_diffusion.files import writing
from mt_diffusion.inference import restoring
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state

Loaded = tuple[int, ConfigDict, Any]
Loader = Callable[[pathlib.Path], Loaded]
OUTCOMES = ("harmless", "fallback", "refused", "misleading", "silent")


def by_training(workdir: pathlib.Path) -> Loaded:
    """Step, config and whole state, as a run that continues reads them."""
    found = Checkpoints(workdir).newest(lambda config: shapes(config.to_json()))
    if found is None:
        raise UserError("there is no checkpoint, it says.")
    return found


@functools.cache
def shapes(config: str) -> dict[str, Any]:
    """Of the parts of a run's state; its config is traced once, not for each damage."""
    fields = ConfigDict(json.loads(config))
    experiment, optimizer = experiments.build(fields), build_optimizer(fields)
    return abstract_state(experiment, optimizer, sharding.make_mesh()).saved


def by_sampling(workdir: pathlib.Path) -> Loaded:
    """Step, config and averaged parameters, as sampling reads them."""
    mesh = sharding.make_mesh()
    step, config, _, params = restoring.restore(workdir, {}, True, mesh)
    return step, config, params


LOADERS: dict[str, Loader] = {"training": by_training, "sampling": by_sampling}


def damages(size: int) -> Iterator[tuple[str, Callable[[bytes], bytes | None]]]:
    """(kind, what becomes of a file's bytes) of all damages to a file of that size."""
    yield "delete", lambda content: None
    if not size:
        return
    for place in sorted({0, size // 2, size - 1}):
        yield "truncate", lambda content, place=place: content[:place]
        yield "flip", lambda content, place=place: flipped(content, place)


def flipped(content: bytes, place: int) -> bytes:
    """With one bit turned."""
    changed = bytearray(content)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


def outcome(load: Loader, workdir: pathlib.Path, sound: dict[int, Loaded]) -> str:
    """What comes of loading; sound: what each undamaged checkpoint holds, by step."""
    newest, said = max(sound), io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            step, config, arrays = load(workdir)
    except UserError as error:
        return "refused" if "broken" in str(error) else "misleading"
    except Exception:
        return "misleading"
    if not same((step, config, arrays), sound[step]):
        return "silent"
    if step == newest:
        return "harmless"
    is_said = f"checkpoint {newest} is broken" in said.getvalue()
    return "fallback" if is_said else "misleading"


def same(one: Loaded, other: Loaded) -> bool:
    """Whether two checkpoints hold the same, to the bit."""
    if one[1].to_json() != other[1].to_json():
        return False
    leaves = [jax.tree.leaves(jax.device_get(loaded[2])) for loaded in (one, other)]
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*leaves, strict=True)
    )


def without(workdir: pathlib.Path, step: int, load: Loader) -> Loaded:
    """What is loaded where the checkpoint of a step is not there."""
    folder = workdir / FOLDER / str(step)
    folder.rename(workdir / "aside")
    found = load(workdir)
    (workdir / "aside").rename(folder)
    return found


def measure(workdir: pathlib.Path, most: int | None = None) -> list[dict[str, str]]:
    """A row for each damage and loader; workdir: is damaged, and mended again.

    most: how many files are tried, evenly spread; all where None.
    """
    newest = max(Checkpoints(workdir).steps)
    sound = {}
    for name, load in LOADERS.items():
        both = load(workdir), without(workdir, newest, load)
        sound[name] = {loaded[0]: loaded for loaded in both}
    root, rows = workdir / FOLDER / str(newest), []
    files = sorted(p for p in root.rglob("*") if p.is_file())
    if most is not None:
        files = [files[i] for i in np.linspace(0, len(files) - 1, most).astype(int)]
    for path in Progress(files, "damage", unit="file"):
        whole = path.read_bytes()
        for kind, change in damages(len(whole)):
            damaged = change(whole)
            path.unlink() if damaged is None else path.write_bytes(damaged)
            for name, load in LOADERS.items():
                came = outcome(load, workdir, sound[name])
                file = path.relative_to(root).as_posix()
                rows.append(dict(file=file, damage=kind, load=name, outcome=came))
            path.write_bytes(whole)
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """As Markdown: how many of each kind came to what."""
    counts = collections.Counter((r["damage"], r["load"], r["outcome"]) for r in rows)
    lines = [f"| damage | loaded by | {' | '.join(OUTCOMES)} |", "|---" * 7 + "|"]
    for kind, name in sorted({key[:2] for key in counts}):
        found = " | ".join(str(counts[kind, name, o]) for o in OUTCOMES)
        lines.append(f"| {kind} | {name} | {found} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table; writes it and what is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "run"
        shutil.copytree(args.workdir / FOLDER, copy / FOLDER)
        rows = measure(copy)
    text = table(rows)
    print(text)
    wrong = [r for r in rows if r["outcome"] in ("misleading", "silent")]
    files = len({r["file"] for r in rows})
    if args.out:
        facts = {"files": files, "damages": len(rows), "wrong": wrong, "table": text}
        writing.as_json(args.out, facts)
    print(f"{files} files, {len(rows)} damages loaded, {len(wrong)} of them wrong")
    for row in wrong:
        print(row)


if __name__ == "__main__":
    main()
