"""The layers of the project: imports point downwards only."""

import ast
import pathlib

PACKAGE = "mt_diffusion"
LAYERS = [
    {"errors"},
    {"writing", "devices", "exits", "training.preemption"}
    | {"preflight.topology", "preflight.collectives"},
    {"diffusion.schedule", "diffusion.likelihood", "data.files", "diffusion.presence"}
    | {"models.layers", "training.sharding", "data.vectors", "data.representers"}
    | {"data.weights"}
    | {"evaluation.quality", "evaluation.metrics"},
    {"diffusion.aggregation", "diffusion.spacing", "models.unet"}
    | {"modalities.evidence", "modalities.codes", "modalities.tokens"}
    | {"models.classifier"}
    | {"data.pairs", "data.views"}
    | {"evaluation.features", "evaluation.uncertainty"},
    {"modalities.base", "diffusion.process"},
    {"modalities.image", "modalities.guess", "modalities.kinds"}
    | {"modalities.promises", "diffusion.prediction", "pictures", "overrides"}
    | {"diffusion.solvers", "diffusion.variance"},
    {"modalities.masked_image", "modalities.label", "options", "translate"}
    | {"modalities.contract_of_evidence"}
    | {"diffusion.weighting"}
    | {"modalities.paired_image", "modalities.representation"}
    | {"models.mt_diffusion", "models.adm", "data.sources"}
    | {"evaluation.inception", "evaluation.lpips"},
    {"diffusion.bound", "diffusion.sampler", "diffusion.guidance", "data.pipeline"}
    | {"modalities.leak", "modalities.cluster", "modalities.contract"}
    | {"models.denoiser"}
    | {"evaluation.supervised"},
    {"diffusion.objective"},
    {"experiment", "guiding"},
    {"believer"},
    {"calibration"},
    {"generation", "training.state", "training.checkpoint", "training.watch"}
    | {"training.optimizer"},
    {"training.step", "training.gradient_share", "training.resume"},
    {"training.look", "training.init_from"}
    | {"evaluation.record"}
    | {"preflight.program"},
    {"training.loop", "sampling", "precompute"}
    | {"evaluation.plots"}
    | {"preflight.measure"},
    {"bounding", "reading"}
    | {"evaluation.reference", "evaluation.convnet"}
    | {"preflight.report"},
    {"evaluation.real", "evaluation.draws", "evaluation.figures"}
    | {"preflight.tables"},
    {"evaluation.judges.image", "evaluation.judges.label", "evaluation.tables"}
    | {"evaluation.judges.pixels", "evaluation.judges.vector"},
    {"evaluation.evaluate", "evaluation.report", "preflight.preflight"},
    {"main"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def modules():
    for path in pathlib.Path(PACKAGE).rglob("*.py"):
        name = ".".join(path.with_suffix("").parts[1:])
        if path.name != "__init__.py":
            yield name, ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(PACKAGE):
            base = node.module[len(PACKAGE) + 1 :]
            for alias in node.names:
                joined = f"{base}.{alias.name}".lstrip(".")
                yield joined if joined in LEVEL else base
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith(PACKAGE + ".")]
            yield from (name[len(PACKAGE) + 1 :] for name in names)


def test_every_module_has_a_layer_and_imports_only_below_it():
    found = dict(modules())
    # A user's own modality, a subclass of a label too, needs no line above.
    own = {n for n in found if n.startswith("modalities.")} - LEVEL.keys()
    level = LEVEL | dict.fromkeys(own, LEVEL["modalities.leak"])
    assert found.keys() == level.keys()
    upwards = [
        f"{name} imports {other}"
        for name, tree in found.items()
        for other in imported(tree)
        if level[other] >= level[name]
    ]
    assert upwards == []


def test_packages_import_nothing():
    for path in pathlib.Path(PACKAGE).rglob("__init__.py"):
        assert path.read_text() == ""


def test_no_module_outside_modalities_names_a_modality():
    """A new modality is a new file and a config: nothing branches on its name."""
    names = {"masked_image", "label", "MaskedImage", "Codebook", "SharedUNet"}
    names |= {"representation", "Projection", "Pretrained"}
    names |= {"image_b", "paired_image", "PairedImage"}
    for name, tree in modules():
        if name.startswith("modalities.") or name in (
            "main",
            "data.sources",
            "data.pairs",
        ):
            continue  # help texts, and the feature of a data set that holds classes
        words = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & names, name
