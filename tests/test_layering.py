"""The house: folders, one above the other, and imports that point down alone."""

import ast
import pathlib

PACKAGE = pathlib.Path("mt_diffusion")
FLOORS = (
    ("errors",),
    ("protocol", "parallel", "trust"),
    ("files", "diffusion"),
    ("data", "models"),
    ("spaces",),
    ("modalities",),
    ("experiment",),
    ("inference",),
    ("training",),
    ("evaluation", "preflight"),
    ("report",),
    ("command",),
    ("main", "library"),
    ("demo",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    """(path, its tree) of every module but the package's own __init__."""
    for path in sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "__init__.py"}):
        yield path, ast.parse(path.read_text())


def room(path):
    """The folder, or the file at the top, that a module is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """Rooms that a module imports from, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n.split(".")[1] for n in names if n.startswith(f"{PACKAGE}."))


def test_imports_point_down_alone():
    rooms = {room(path) for path, _ in modules()}
    assert rooms == FLOOR.keys()
    upwards = [
        f"{path} imports {other}"
        for path, tree in modules()
        for other in imported(tree)
        if other != room(path) and FLOOR[other] >= FLOOR[room(path)]
    ]
    assert upwards == []


def test_rooms_are_small():
    """At most five files at the top, fifteen in a folder, 300 lines in a file."""
    folders = {path.parent for path, _ in modules()}
    for folder in folders:
        most = 5 if folder == PACKAGE else 15
        files = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(files) <= most, folder
    assert not [p for p, _ in modules() if len(p.read_text().splitlines()) > 300]


def test_packages_import_nothing():
    """The package's own gives `load` and `train` when they are asked for."""
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert not [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert path.parent == PACKAGE or not tree.body


def test_no_module_outside_modalities_names_a_modality():
    """A new modality is a new file and a config: nothing branches on its name."""
    names = {"masked_image", "label", "MaskedImage", "Codebook", "SharedUNet"}
    names |= {"representation", "Projection", "Pretrained"}
    names |= {"image_b", "paired_image", "PairedImage"}
    # Help texts, and the feature of a data set that holds classes.
    exempt = {PACKAGE / p for p in ("main.py", "data/classes.py", "data/pairs.py")}
    for path, tree in modules():
        if room(path) == "modalities" or path in exempt:
            continue
        words = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & names, path
