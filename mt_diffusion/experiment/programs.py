"""Programs, kept between processes below the user's cache folder.

JAX keeps what it compiled. Here is what comes before: a walk as StableHLO, for tracing
and lowering it in Python takes as long as all else of a second start together.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing

MOST = 64  # traced programs that are kept, of half a megabyte each: the newest
DIGEST = 32  # bytes before a traced program, by which damage is seen
LIBRARIES = ("flax", "jax", "jaxlib", "numpy", "optax", "scipy")
PACKAGE = pathlib.Path(__file__).parents[1]
# What JAX makes of the same Python depends on these.
ASKED = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)


def keep() -> None:
    """Lets this process keep programs, and use those of others.

    They lie where JAX_COMPILATION_CACHE_DIR says, or who set that option of JAX, else
    in the user's cache folder; nowhere with JAX_ENABLE_COMPILATION_CACHE=false, and
    where that folder can't be made.
    """
    Traced.are_kept = True
    if asked("jax_compilation_cache_dir"):
        return
    cache = writing.user_cache("xla")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # of which JAX would warn at every program
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class Traced:
    """A function, traced once for all processes that ask for it by its name.

    name: whatever decides what it computes, besides the shapes of its arguments, this
    package and the libraries; '' where that can't be said, and nothing is kept.
    options: of `jax.jit`, for programs that are compiled ahead. donates: whether these
    may use up their first argument.
    """

    are_kept = False  # in this process, by `keep`

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        donates: bool = False,
        **options: Any,
    ):
        self._function, self._name = function, name
        self._donates, self._options = donates, options
        self._programs: dict[str, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """What the function gives; jitted, for where nothing is kept."""
        place = folder() if self._name else None
        if place is None:
            return self._function(*args)
        key = self._key(args)
        if key not in self._programs:
            self._programs[key] = jax.jit(self._kept(place / key, args))
        return self._programs[key](*jax.tree.leaves(args))

    def compiled(self, *args: Any) -> Callable[..., Any]:
        """The function for arguments of these shapes, compiled now."""
        place = folder() if self._name else None
        if place is None:
            function = self._of_leaves(args)
        else:
            function = self._kept(place / self._key(args), args)
        donated = range(len(jax.tree.leaves(args[0])) if self._donates else 0)
        jitted = jax.jit(function, donate_argnums=tuple(donated), **self._options)
        program = jitted.lower(*jax.tree.leaves(args)).compile()
        return lambda *args: program(*jax.tree.leaves(args))

    def _of_leaves(self, args: Any) -> Callable[..., Any]:
        """The function of the leaves of such arguments."""
        tree = jax.tree.structure(args)
        return lambda *leaves: self._function(*jax.tree.unflatten(tree, leaves))

    def _key(self, args: Any) -> str:
        """Stands for the program for such arguments."""
        leaves, tree = jax.tree.flatten(args)
        shapes = [f"{jax.typeof(x)} {getattr(x, 'sharding', '')}" for x in leaves]
        return digest([surroundings(), self._name, str(tree), *shapes])

    def _kept(self, path: pathlib.Path, args: Any) -> Callable[..., Any]:
        """The function of leaves at that path, written where it is not there or whole.

        Also the first process runs what it wrote, so that all run the same.
        """
        text = read(path)
        if text is None:
            flat = jax.jit(self._of_leaves(args))
            text = bytes(export.export(flat)(*jax.tree.leaves(args)).serialize())
            write(path, text)
        return export.deserialize(bytearray(text)).call


def named(what: str, origin: str) -> str:
    """The name of what an experiment's origin decides; '' where that can't be said."""
    return origin and f"{what} of {origin}"


def remembered(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, as JSON has it; made once for all processes.

    name: as of `Traced`.
    """
    place = folder() if name else None
    if place is None:
        return make()
    path = place / digest([surroundings(), name])
    text = read(path)
    if text is None:
        write(path, text := json.dumps(make()).encode())
    return json.loads(text)


def folder() -> pathlib.Path | None:
    """Where traced programs are; None where none is kept.

    On accelerators and in jobs of several processes this was not tried.
    """
    is_on = Traced.are_kept and asked("jax_enable_compilation_cache")
    cache = asked("jax_compilation_cache_dir")
    if not (is_on and cache) or "://" in cache:
        return None
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    return pathlib.Path(cache) / "traced"


def digest(parts: Sequence[str]) -> str:
    """Stands for texts, in their order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)} {part}".encode())
    return total.hexdigest()[:DIGEST]


def surroundings() -> str:
    """This package, the libraries, and what was asked of JAX."""
    return f"{of_package()} {[asked(name) for name in ASKED]}"


def asked(name: str) -> Any:
    """What an option of JAX is; None for one that this JAX has not."""
    return getattr(jax.config, name, None)


@functools.cache
def of_package() -> str:
    """The digest of all code of this package, and the versions of what it calls."""
    code = [path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))]
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    return digest([sys.version, *versions, *code])


def read(path: pathlib.Path) -> bytes | None:
    """What `write` wrote; None where it is not there, or not whole."""
    try:
        found = path.read_bytes()
        os.utime(path)  # those that nobody reads go first
    except OSError:
        return None
    text = found[DIGEST:]
    return text if found[:DIGEST] == hashlib.sha256(text).digest() else None


def write(path: pathlib.Path, text: bytes) -> None:
    """Keeps a program, if it can be, and the newest of the others."""
    try:
        writing.make_folder(path.parent, f"the cache {path.parent}")
        with writing.draft_of(path) as draft:
            draft.write_bytes(hashlib.sha256(text).digest() + text)
        kept = sorted(path.parent.glob("[!.]*"), key=lambda p: p.stat().st_mtime)
        for old in kept[:-MOST]:
            old.unlink(missing_ok=True)
    except (UserError, OSError):
        return  # without a cache it is traced again, as it always was
