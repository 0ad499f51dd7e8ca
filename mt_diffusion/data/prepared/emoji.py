"""Emoji in two hands, with their names: a data set that one command prepares.

  bash launch/emoji.sh            # or: python -m mt_diffusion.command.emoji

reads two npm packages (136 MB), and leaves a folder

  32/twitter/train/GROUP/1f600.png    64/...    and test, and the hand google
  captions.csv                        file,caption: several rows for each picture
  emoji.csv                           file,base,split,group,subgroup,name,class
  LICENSES/                           whose they are, and under which licences

The class, whose folder a picture is in, is its group, or with --label=subgroup that.
Pictures are on white; the same name is the same emoji in both hands. No two pictures of
one kind are in different splits (bases.py).
"""

import collections
import csv
import io
import json
import pathlib
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from mt_diffusion.data.prepared import bases
from mt_diffusion.errors import UserError
from mt_diffusion.files import download, images, locks, writing
from mt_diffusion.parallel.progress import Progress

NAME = "emoji"  # below the user's cache; configs/common.py knows it
VERSION = "16.0.0"
REGISTRY = "https://registry.npmjs.org"
HANDS = {  # bytes of the package, and what npm calls its integrity
    "twitter": (
        61_683_754,
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZew"
        "Wg8jBbuL2eyELQ==",
    ),
    "google": (
        74_344_091,
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkO"
        "PJCoT8DlPhfQ3A==",
    ),
}
SIZES = (32, 64)
LABELS = ("group", "subgroup")
LARGEST = 1 << 20  # bytes of a picture of 64x64, and more than any has
TEXTS = 1 << 24  # bytes of emoji.json, likewise
ATTRIBUTION = """# Whose pictures these are

The packages emoji-datasource-twitter and emoji-datasource-google, version {version}, of
Cal Henderson's emoji-data (MIT: emoji-data.txt) have collected them.

- `twitter`: Twemoji, copyright Twitter, Inc and other contributors, and of its
  continuation by jdecked: graphics under CC-BY 4.0,
  https://creativecommons.org/licenses/by/4.0/. Who shows them names Twemoji.
- `google`: Noto Emoji, copyright Google: images under the Apache License 2.0,
  https://www.apache.org/licenses/LICENSE-2.0 (the font, which is not here, under the
  SIL Open Font License 1.1), https://github.com/googlefonts/noto-emoji.
- Names, groups and sub-groups: Unicode's, and emoji-data's.

Here they are shrunk, and put on white.
"""


class Emoji(NamedTuple):
    """One picture, as it is called and filed."""

    file: str
    base: str
    group: str
    subgroup: str
    captions: tuple[str, ...]


def prepare(
    out: pathlib.Path,
    registry: str = REGISTRY,
    label: str = "",
    hands: Mapping | None = None,
) -> None:
    """Downloads, converts, and puts the folder `out` in its place once it is whole.

    label: one of LABELS; '': the first, or that of the folder that is there. hands:
    {hand: (bytes, integrity)} of the packages. Raises UserError for a download that
    fails, which the same call continues, and for another folder that is there.
    """
    work = out.parent / f"{out.name}.unfinished"
    if out.exists():
        check_whole(out, hands or HANDS, label)
        shutil.rmtree(work, ignore_errors=True)  # of a call that was cut off at its end
        print(f"{out} is there, and whole; remove it to make it anew.")
        tell_flags(out)
        return
    writing.make_folder(work, f"--out={out}")
    with locks.held(work, f"--out={out}"):
        packages = {
            hand: fetch(hand, size, integrity, work, registry)
            for hand, (size, integrity) in (hands or HANDS).items()
        }
        draft = work / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        described = read_texts(packages[next(iter(packages))])
        emoji = [e for entry in described for e in entries(entry)]
        pictures = {h: read_pictures(path, emoji) for h, path in packages.items()}
        everywhere = set.intersection(*map(set, pictures.values()))
        emoji = [e for e in emoji if e.file in everywhere]
        if not emoji:
            raise UserError(f"the packages in {work} have no emoji in common.")
        words = {e.file: e.captions for e in emoji}
        splits = bases.split({e.file: e.base for e in emoji}, words, pictures.values())
        write(draft, emoji, pictures, splits, label or LABELS[0])
        write_licences(draft / "LICENSES", next(iter(packages.values())))
        draft.replace(out)
    shutil.rmtree(work)
    counts = collections.Counter(splits.values())
    print(
        f"wrote {out}: {counts['train']:,} emoji to train on, {counts['test']:,} to "
        f"test on, each in the hands {' and '.join(pictures)}"
    )
    tell_flags(out)


def check_whole(out: pathlib.Path, hands: Iterable[str], label: str) -> None:
    """Raises UserError for a folder that is not one of ours, with all its files.

    And for one whose classes are by another label, unless none is asked for.
    """
    try:
        with open(out / "emoji.csv", newline="", encoding="utf8") as file:
            found = list(csv.DictReader(file))
        rows = [(r["split"], r["class"], r["file"]) for r in found]
        is_by = not label or all(r["class"] == r[label] for r in found)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"--out={out} is there, and holds no emoji as this version of the command "
            "prepares them; move it away, or name a folder that is not there yet."
        ) from error
    if not is_by:
        raise UserError(
            f"{out} is there, and its classes are not by --label={label}; move it "
            "away, or name a folder that is not there yet."
        )
    wanted = [out / "captions.csv"] + [
        out / str(size) / hand / split / of_class / f"{file}.png"
        for size in SIZES
        for hand in hands
        for split, of_class, file in rows
    ]
    if missing := [path for path in wanted if not path.is_file()]:
        raise UserError(
            f"{out} lacks {len(missing):,} of its {len(wanted):,} files, such as "
            f"{missing[0].relative_to(out)}; move it away, and call this once more."
        )


def tell_flags(out: pathlib.Path) -> None:
    """Prints how configs find it."""
    of_one, of_both = flags(out)
    print(f"train with --config=configs/text.py:emoji{of_one}")
    print(f"in both hands --config=configs/image_transition.py:emoji{of_one}{of_both}")


def flags(out: pathlib.Path) -> tuple[str, str]:
    """What says to a config where the emoji are, and besides where the second hand is.

    Each with a space before it; none where configs look themselves.
    """

    def flag(name: str, *parts: str) -> str:
        return f" {shlex.quote(f'--config.data.{name}={out.joinpath(*parts)}')}"

    if out.resolve() == writing.user_cache(NAME).resolve():
        return "", ""
    of_one = flag("path", "32", "twitter") + flag("captions", "captions.csv")
    return of_one, flag("pair_path", "32", "google")


def fetch(
    hand: str, size: int, integrity: str, folder: pathlib.Path, registry: str
) -> pathlib.Path:
    """The package of a hand, downloaded."""
    name = f"emoji-datasource-{hand}"
    file = f"{name}-{VERSION}.tgz"
    wanted = download.Wanted(f"{registry.rstrip('/')}/{name}/-/{file}", size, integrity)
    download.fetch(wanted, folder / file)
    return folder / file


def read_texts(package: pathlib.Path) -> list[dict]:
    """What emoji-data says of each base emoji."""
    with tarfile.open(package) as tar:
        return json.loads(_member(tar, "package/emoji.json", TEXTS))


def _member(tar: tarfile.TarFile, name: str, most: int) -> bytes:
    """A regular file of at most so many bytes; UserError where there is none."""
    info = tar.getmember(name) if name in tar.getnames() else None
    opened = tar.extractfile(info) if info and info.isreg() else None
    if info is None or opened is None or info.size > most:
        raise UserError(f"{tar.name!s} has no file {name} as emoji-data has it.")
    return opened.read()


def entries(entry: Mapping) -> Iterable[Emoji]:
    """An entry of emoji.json and its skin tones."""
    names = captions(entry)
    found = {entry["image"]: ""}
    for key, variation in entry.get("skin_variations", {}).items():
        tones = [bases.TONES[c] for c in key.split("-") if c in bases.TONES]
        found[variation["image"]] = ", " + " and ".join(tones)
    for image, tone in found.items():
        yield Emoji(
            file=pathlib.PurePosixPath(image).stem,
            base=bases.base_of(entry["unified"]),
            group=entry["category"],
            subgroup=entry["subcategory"],
            captions=tuple(name + tone for name in names),
        )


def captions(entry: Mapping) -> list[str]:
    """The name, and short names where they are others, as words."""
    words = [word for word in (entry.get("name"), *entry["short_names"]) if word]
    # Two letters of a country say nothing to an encoder, nor do the thumbs' +1 and -1.
    codes = r"[+-]1|(flag-)?[a-z]{2}" if entry["category"] == "Flags" else r"[+-]1"
    named = [word for word in words if not re.fullmatch(codes, word)]
    spelled = [re.sub(r"[_\W]+", " ", word).strip().lower() for word in named or words]
    kept = [s for s in spelled if s]
    return list(dict.fromkeys(kept or spelled[:1]))


def read_pictures(
    package: pathlib.Path, emoji: Sequence[Emoji]
) -> dict[str, np.ndarray]:
    """{file: uint8 [64, 64, 3], on white} of those that a package has."""
    wanted, found = {e.file for e in emoji}, {}
    bar = Progress(what=package.name, total=len(wanted), unit="picture")
    with tarfile.open(package) as tar, bar:
        for info in tar:
            path = pathlib.PurePosixPath(info.name)
            is_one = path.parent.name == "64" and path.suffix == ".png"
            opened = tar.extractfile(info) if info.isreg() else None
            if is_one and path.stem in wanted and opened and info.size <= LARGEST:
                with PIL.Image.open(io.BytesIO(opened.read()), formats=["PNG"]) as file:
                    pixels = np.asarray(file.convert("RGBA"))
                found[path.stem] = images.resize(pixels, (64, 64, 3))
                bar.update()
    return found


def write(
    out: pathlib.Path,
    emoji: Sequence[Emoji],
    pictures: Mapping[str, Mapping[str, np.ndarray]],
    splits: Mapping[str, str],
    label: str,
) -> None:
    """Pictures and tables."""
    for hand, found in pictures.items():
        for e in Progress(emoji, hand, unit="emoji"):
            for size in SIZES:
                folder = out / str(size) / hand / splits[e.file] / getattr(e, label)
                folder.mkdir(parents=True, exist_ok=True)
                pixels = images.resize(found[e.file], (size, size, 3))
                PIL.Image.fromarray(pixels).save(folder / f"{e.file}.png")
    rows = [("file", "caption")]
    rows += [(e.file, caption) for e in emoji for caption in e.captions]
    write_table(out / "captions.csv", rows)
    facts = [("file", "base", "split", *LABELS, "name", "class")]
    facts += [
        (e.file, e.base, splits[e.file], e.group, e.subgroup, e.captions[0])
        + (getattr(e, label),)
        for e in emoji
    ]
    write_table(out / "emoji.csv", facts)


def write_licences(folder: pathlib.Path, package: pathlib.Path) -> None:
    """Whose the pictures are, and under which licences."""
    folder.mkdir()
    writing.text(folder / "README.md", ATTRIBUTION.format(version=VERSION))
    with tarfile.open(package) as tar:
        licence = _member(tar, "package/LICENSE", LARGEST).decode("utf8")
    writing.text(folder / "emoji-data.txt", licence)


def write_table(path: pathlib.Path, rows: Iterable[Sequence[str]]) -> None:
    """A .csv."""
    with open(path, "w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows(rows)
