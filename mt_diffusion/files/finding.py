"""Image files below a folder, in natural order, and what else was there, counted."""

import collections
import functools
import importlib.util
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import PIL.Image

from mt_diffusion.errors import UserError
from mt_diffusion.files.names import natural, shown

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif"}
SUFFIXES |= {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"}
SUFFIXES |= {".heic", ".heif"}
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM") + (
    "JPEG2000",
    "AVIF",
    "HEIF",
)
HEIF = "pillow_heif"  # a package that not everybody has


class Found(NamedTuple):
    """What is below a folder.

    images: files, or parts of such, in natural order. left: {why: how many} of all
    others.
    """

    images: Sequence[Any]
    left: Mapping[str, int]

    def __str__(self) -> str:
        """How many were taken, by suffix, and how many were left, and why."""
        suffixes = collections.Counter(p.suffix.lower() for p in self.images)
        taken = counted(suffixes) or "none"
        return taken + (f"; left: {counted(self.left)}" if self.left else "")


def counted(counts: Mapping[str, int]) -> str:
    """As '1,203 .jpg, 12 .png', the most frequent first."""
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{num:,} {shown(what)}" for what, num in items)


def find(root: pathlib.Path) -> Found:
    """All images below a folder, also where links lead; no hidden ones.

    Raises UserError for a folder that can't be looked into.
    """
    images, left = [], collections.Counter[str]()
    for path, why in walk(root, ()):
        if why:
            left[why] += 1
        else:
            images.append(path)
    return Found(sorted(images, key=natural), left)


def with_suffix(root: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
    """{path below a folder: file} of all files with a suffix, in natural order."""
    found = [p for p, _ in walk(root, ()) if p.suffix.lower() == suffix and p.is_file()]
    found = [p for p in found if not p.name.startswith(".")]
    return {p.relative_to(root).as_posix(): p for p in sorted(found, key=natural)}


def walk(
    folder: pathlib.Path, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[pathlib.Path, str]]:
    """(file, why it is left, '' for an image) of all below a folder.

    above: what the system calls the folders that it lies in, for links may lead there.
    """
    try:
        here = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{shown(folder)} can't be looked into ({error.strerror}); give leave to "
            "read it, or point to another folder."
        ) from error
    above = (*above, (here.st_dev, here.st_ino))
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            yield path, "hidden"
        elif entry.is_dir():
            found = os.stat(path)
            if (found.st_dev, found.st_ino) in above:
                yield path, "links to a folder that they lie in"
            else:
                yield from walk(path, above)
        else:
            yield path, why_left(entry)


def why_left(entry: os.DirEntry) -> str:
    """Why something that is no folder is not taken; '' for an image file."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in SUFFIXES:
        return f"{suffix or 'without a suffix'} (no image)"
    if entry.is_file():
        return ""
    is_link = stat.S_ISLNK(entry.stat(follow_symlinks=False).st_mode)
    return "links to nothing" if is_link else f"{suffix} (no regular file)"


def folders(root: pathlib.Path) -> list[str]:
    """Names of the sub-folders of a folder, in natural order; no hidden ones."""
    names = (entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted((n for n in names if not n.startswith(".")), key=natural)


def image_files(path: str) -> list[pathlib.Path]:
    """The image `path`, or all images below the folder `path`, in natural order.

    Raises UserError where there is none.
    """
    root = pathlib.Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        what = "no image file" if root.exists() else "no file or folder"
        raise UserError(f"there is {what} {shown(path)}; {AN_IMAGE}")
    found = find(root)
    if not found.images:
        raise UserError(
            f"there is no image in the folder {shown(path)} ({found}); {AN_IMAGE}"
        )
    return list(found.images)


AN_IMAGE = f"images end in {sorted(SUFFIXES)}."


@functools.cache
def formats() -> tuple[str, ...]:
    """What image files may be, as Pillow calls it; no format that runs a program."""
    PIL.Image.init()
    if importlib.util.find_spec(HEIF):
        importlib.import_module(HEIF).register_heif_opener()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)
