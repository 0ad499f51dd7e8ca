"""`--mode=export`: a trained model in a form that others read.

own: a folder that is read wherever a workdir is. hub: the same without what is of this
machine, for the Hugging Face hub. adm: the U-Net by guided-diffusion's names.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import paths, weights, writing
from mt_diffusion.inference import calibration, reading, restoring
from mt_diffusion.models import adm
from mt_diffusion.models.mt_diffusion import TABLES
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.report import card, hub, public
from mt_diffusion.training import init_from, watch

NAMED = "_name_or_path"
DTYPES = ("float32", "float16", "bfloat16")


class Trained(NamedTuple):
    """A model as `restoring.restore` gives it, with averaged parameters."""

    workdir: pathlib.Path
    step: int
    config: ConfigDict
    experiment: Experiment
    params: Any
    mesh: Mesh


def of_workdir(workdir: pathlib.Path, elsewhere: Mapping[str, str]) -> Trained:
    """The newest one of a workdir; elsewhere: what lies where its config does not say.

    As {field: value}, of config.data and of the space.
    """
    mesh = sharding.make_mesh()
    return Trained(workdir, *restoring.restore(workdir, elsewhere, True, mesh), mesh)


def export(
    model: Trained,
    out: pathlib.Path,
    form: str = "own",
    dtype: str = "float32",
    license: str = "",
    push: str = "",
    captions: bool = False,
) -> None:
    """Writes a model to `out`: a new folder, or for adm a file.

    form: own, hub or adm. dtype: one of DTYPES, of the numbers in the file. license:
    for the card, as apache-2.0. push: USER/NAME on the hub, where it is then uploaded
    to; nothing is sent without. captions: whether those of training data go there, too,
    where they may be nobody else's. Raises UserError for what can't be, before it
    writes.
    """
    send = check(form, dtype, push, out)
    if captions and form != "hub":
        raise UserError(
            f"--with_captions is for --format=hub, and --format={form} is asked for: "
            "own has them in any case, and adm none. Leave it out."
        )
    FORMS[form](model, out, dtype, license, captions)
    if send:
        send(out)


def check(
    form: str, dtype: str, push: str, out: pathlib.Path
) -> Callable[[pathlib.Path], None] | None:
    """Raises UserError for what can't be; what uploads a folder where that is asked."""
    for what, value, known in (("format", form, FORMS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise UserError(f"--{what}={value} is none of {', '.join(known)}.")
    if push and form != "hub":
        raise UserError(
            f"--push={push} uploads what --format=hub writes, and --format={form} is "
            "asked for; take that, or leave --push out."
        )
    if push and paths.is_remote(out):
        raise UserError(
            f"--push={push} uploads a folder of this machine, and --out={out} is none; "
            "name one here, or leave --push out."
        )
    return hub.sender(push) if push else None


def own(
    model: Trained, out: pathlib.Path, dtype: str, license: str, captions: bool
) -> None:
    """A folder with all that is known of the model, which loads as a workdir does."""
    folder(model, model.config, out, dtype, license, evaluation_of(model))


def to_hub(
    model: Trained, out: pathlib.Path, dtype: str, license: str, captions: bool
) -> None:
    """The same, as others may see it."""
    evaluation = public.evaluation_of(evaluation_of(model))
    config = public.config_of(model.config, captions)
    folder(model, config, out, dtype, license, evaluation)


def folder(
    model: Trained,
    config: ConfigDict,
    out: pathlib.Path,
    dtype: str,
    license: str,
    evaluation: dict[str, Any] | None,
) -> None:
    """An exported model with that config, looked at by reading it back."""
    bar = Progress(what="export", total=4, unit="part")
    with draft_of_folder(out) as draft, bar:
        config = with_autoencoder(model, config, draft)
        exported.write(draft, model.step, config, model.params, dtype)
        bar.update()
        copy_known(model, draft)
        # As others will; and what was measured of other numbers is measured anew.
        _, _, experiment, params = restoring.restore(draft, {}, True, model.mesh)
        bar.update()
        known = model.config, model.experiment, params, model.mesh
        digest = exported.facts(draft)["digest"]  # as reading it has found
        calibration.find(draft, model.step, True, *known, digest)
        bar.update()
        card.write(draft, out.name, config, experiment, params, evaluation, license)
        bar.update()
    size = sum(paths.size(p) or 0 for p in paths.files(out))
    print(f"wrote {out}, {size / 1e6:.1f} MB; --workdir={out} reads it")


@contextlib.contextmanager
def draft_of_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """What to write instead of a folder; it takes that name once it is whole."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"--out={out} exists already; name another folder, or remove that one."
        )
    writing.make_folder(out.parent, f"--out={out}")
    if paths.is_remote(out):
        with writing.explained(out), tempfile.TemporaryDirectory() as here:
            draft = pathlib.Path(here)
            yield draft
            # The weights last: a folder without them is no model.
            files = sorted(paths.files(draft), key=lambda p: p.name == exported.WEIGHTS)
            for file in files:
                writing.upload(file, out / file.relative_to(draft))
        return
    draft = pathlib.Path(tempfile.mkdtemp(prefix=".draft_", dir=out.parent))
    try:
        with writing.explained(out):
            yield draft
            draft.chmod(0o755)  # as other folders; mkdtemp's are for its user alone
            draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def evaluation_of(model: Trained) -> dict[str, Any] | None:
    """The newest metrics.json of a model; None for none, and for a broken one."""
    folder = exported.home(model.workdir) / "evaluation" / str(model.step)
    with contextlib.suppress(FileNotFoundError):
        try:
            return json.loads((folder / "metrics.json").read_bytes())
        except ValueError as error:
            print(f"passed over {folder}/metrics.json, which is broken ({error})")
    return None


def with_autoencoder(
    model: Trained, config: ConfigDict, draft: pathlib.Path
) -> ConfigDict:
    """A config whose autoencoder, if it has one, comes along in the folder."""
    files = model.experiment.space.files()
    if not files:
        return config
    (draft / exported.AUTOENCODER).mkdir()
    for file in files:
        copied = draft / exported.AUTOENCODER / file.name
        shutil.copyfile(file, copied)
        if file.suffix == ".json":  # diffusers notes there from which path it was read
            told = weights.read_json(file)
            writing.as_json(copied, {n: told[n] for n in told if n != NAMED})
    kept = config.copy_and_resolve_references()
    kept.primary.space.autoencoder = exported.AUTOENCODER
    return kept


def copy_known(model: Trained, draft: pathlib.Path) -> None:
    """What was measured of these parameters, chosen for them, and logged.

    But for what a link leads out of the folder to, which may be no part of a model.
    """
    for name in (calibration.file_of(model.step, True), watch.METRICS):
        for path in exported.kept(model.workdir, name):
            root = path.parents[name.count("/")].resolve()
            is_here = path.is_file() and path.resolve().is_relative_to(root)
            if is_here and not (draft / name).exists():
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(path.read_bytes())
    facts = {"step": model.step, "averaged": True}
    with contextlib.suppress(UserError):  # none were chosen
        levels = reading.load_levels(model.workdir, facts)
        writing.as_json(draft / reading.FILE, facts | {"levels": levels})


def to_adm(
    model: Trained, out: pathlib.Path, dtype: str, license: str, captions: bool
) -> None:
    """The U-Net's weights in a file; beside it, what that needs and what it lacks."""
    if model.config.unet.transformer_depth:
        raise UserError(
            "--format=adm is for guided-diffusion, which has not the transformer "
            f"blocks of this model (config.unet.transformer_depth = "
            f"{model.config.unet.transformer_depth}); take --format=own."
        )
    beside = out.with_suffix(".json")
    weights.check_writable(out, dtype)
    for path in (out, beside):
        writing.claim_file(path)
    params = jax.device_get(model.params)["params"]
    state, crossing = adm.export(params["unet"])
    missing = {
        ("params", "unet", *path): flatten_dict(params["unet"])[path]
        for path in crossing
    }
    missing |= {
        ("params", *path): x
        for path, x in flatten_dict(params).items()
        if path[0] != "unet"
    }
    tables = flatten_dict(model.params.get(TABLES, {}))
    facts = {
        "unet": adm.arguments(
            model.config.unet.to_dict(),
            state["input_blocks.0.0.weight"].shape[1],
            state["out.2.weight"].shape[0],
        ),
        "num_groups": model.config.unet.num_groups,
        "diffusion": model.config.diffusion.to_dict(),
        "left_out": [exported.dotted(path) for path in sorted(missing)],
        "codes_left_out": [".".join(path) for path in sorted(tables)],
    }
    weights.write(out, weights.rounded(state, dtype), {"step": str(model.step)})
    writing.as_json(beside, facts)
    print(f"wrote {out}, {len(state)} arrays by guided-diffusion's names, and {beside}")
    for line in init_from.by_module(missing):
        print(f"left out, for the format has no name for it: {line}")
    for name in facts["codes_left_out"]:
        print(f"left out, for the format has no name for it: the fixed codes {name}")
    for line in otherwise(model):
        print(f"otherwise in guided-diffusion: {line}")


def otherwise(model: Trained) -> list[str]:
    """What the same weights mean there, where that is something else."""
    groups, predicted = model.config.unet.num_groups, model.config.diffusion.prediction
    found = []
    if groups != adm.NUM_GROUPS:
        found.append(
            f"normalisation has {adm.NUM_GROUPS} groups, and these weights want "
            f"{groups}: it computes other numbers, or refuses them"
        )
    if (patch := model.config.unet.patch) > 1:
        found.append(
            f"input and output are pictures, and these weights' are their patches of "
            f"{patch}x{patch} pixels, with all channels of these one after another"
        )
    if predicted != "eps":
        found.append(
            f"the output is read as the noise, and this network's is of prediction "
            f"{predicted}, of z_t without the codes that drift in it"
        )
    return found


FORMS = {"own": own, "hub": to_hub, "adm": to_adm}
