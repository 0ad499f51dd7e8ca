"""Tables of Arrow, as Hugging Face's `datasets` keeps them, and Parquet files as such.

Rows are read at random from files that are mapped into memory. Nothing is run: these
are read by pyarrow alone, which knows no code that a file could name.
"""

import contextlib
import functools
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from mt_diffusion.errors import UserError, needs
from mt_diffusion.files import decoding, writing
from mt_diffusion.files.names import shown
from mt_diffusion.files.within.parts import Size, cached

PARQUET = ".parquet"
ROWS = 64  # of a Parquet file that are in memory at a time
BYTES, PATH = "bytes", "path"  # of an image, as `datasets` has it


class Table:
    """The rows of some Arrow files, one after the other, opened in each process.

    name: for people.
    """

    def __init__(self, name: str, files: Sequence[pathlib.Path]):
        """Raises UserError, when it is read first, for files that are no tables."""
        self.name, self._files = name, tuple(files)

    def __getstate__(self) -> dict:
        return {"name": self.name, "_files": self._files}

    @functools.cached_property
    def rows(self) -> Any:
        """All of them, a pyarrow.Table."""
        pa = arrow()
        parts = []
        for path in self._files:
            stream = arrow_of(path)
            with (
                explained(path),
                pa.ipc.open_stream(pa.memory_map(str(stream))) as file,
            ):
                part = file.read_all()
                part.validate(full=True)  # or what lies would be read elsewhere
                parts.append(part)
        names = parts[0].schema.names
        if any(part.schema != parts[0].schema for part in parts):
            raise UserError(f"the files of {shown(self.name)} have other columns.")
        if len(set(names)) < len(names):
            raise UserError(f"{shown(self.name)} has two columns of one name.")
        return pa.concat_tables(parts)

    @functools.cached_property
    def features(self) -> Mapping[str, Any]:
        """{column: what it is} as `datasets` describes it; {} where it does not."""
        found = (self.rows.schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            described = json.loads(found)
            features = described.get("info", {}).get("features", {})
        except (ValueError, AttributeError, RecursionError):
            return {}
        return features if isinstance(features, dict) else {}

    def column(self, name: str) -> Any:
        """One of its columns, a pyarrow.ChunkedArray."""
        return self.rows.column(name)

    def images(self) -> list[str]:
        """Names of the columns that hold files; if some are said to be images, these.

        They are bytes, or structures with a field of that name.
        """
        found = [f.name for f in self.rows.schema if is_bytes(bytes_type(f.type))]
        said = [name for name in found if is_image(self.features.get(name))]
        return said or found

    def cells(self, name: str) -> "list[Cell]":
        """The files in a column of `images`, of those rows that have one."""
        pa, column = arrow(), self.column(name)
        paths = [""] * len(column)
        if pa.types.is_struct(column.type):
            fields = {field.name: field.type for field in column.type}
            if PATH in fields and pa.types.is_string(fields[PATH]):
                paths = pa.compute.struct_field(column, PATH).to_pylist()
            column = pa.compute.struct_field(column, BYTES)
        sizes = pa.compute.binary_length(column).to_pylist()
        return [
            Cell(self, name, i, size, path or "")
            for i, (size, path) in enumerate(zip(sizes, paths, strict=True))
            if size is not None
        ]


class Cell(NamedTuple):
    """A file in a row of a table; path: what it was called, '' where nobody knows."""

    table: Table
    column: str
    row: int
    size: int
    path: str

    def __str__(self) -> str:
        name = f" ({self.path})" if self.path else ""
        return f"{self.table.name}: row {self.row}{name}"

    @property
    def suffix(self) -> str:
        """Of its path, as '.png'."""
        return pathlib.PurePosixPath(self.path).suffix

    def stat(self) -> Size:
        """Its size."""
        return Size(self.size)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes."""
        return io.BytesIO(self.content)

    @property
    def content(self) -> bytes:
        """Its bytes."""
        found = self.table.column(self.column)[self.row].as_py()
        return found[BYTES] if isinstance(found, dict) else found


def arrow() -> Any:
    """pyarrow; raises UserError where it is not installed."""
    with needs("hf", "config.data.source = 'hf'"):
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    return pyarrow


def is_image(feature: Any) -> bool:
    """Whether `datasets` calls a column one of images."""
    return isinstance(feature, Mapping) and feature.get("_type") == "Image"


def is_bytes(kind: Any) -> bool:
    """Whether a type is that of bytes."""
    types = arrow().types
    return types.is_binary(kind) or types.is_large_binary(kind)


def bytes_type(kind: Any) -> Any:
    """The type of the bytes of a column that may hold files; itself where it can't."""
    pa = arrow()
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return fields.get(BYTES, kind)
    return kind


def arrow_of(path: pathlib.Path) -> pathlib.Path:
    """A file of Arrow's stream; of a Parquet file a copy in the user's cache.

    Rows of Parquet lie compressed, some thousand together, and can't be read alone.
    """
    if path.suffix.lower() != PARQUET:
        return path
    pa = arrow()
    with explained(path):
        copy = cached(path, "arrow", ".arrow")
        if copy.is_file():
            return copy
        file = pa.parquet.ParquetFile(path)
    writing.make_folder(copy.parent, f"{copy.parent}, for what {shown(path)} holds,")
    with file, writing.draft_of(copy) as draft:
        with pa.ipc.new_stream(str(draft), file.schema_arrow) as stream:
            for batch in batches(path, file):
                stream.write_batch(batch)
    return copy


def batches(path: pathlib.Path, file: Any) -> Iterator[Any]:
    """The rows of a Parquet file, some at a time; UserError for what can't be read."""
    with explained(path):
        yield from file.iter_batches(batch_size=ROWS)


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Makes of what is raised where a table is read a UserError that names it."""
    try:
        yield
    except (arrow().ArrowException, *decoding.BROKEN) as error:
        said = shown(str(error) or type(error).__name__)
        raise UserError(
            f"{shown(path)} can't be read as a table ({said[:200]}); make it anew."
        ) from error
