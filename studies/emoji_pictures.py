"""Pictures of emoji for the documents, from what the study has drawn.

python -m studies.emoji_pictures --out=runs/emoji [--seed=0] [--only=words,...]

Which held-out emoji are shown is a rule, and no choice: evenly over all of a group, and
over the groups. Twemoji's pictures are CC-BY 4.0, Noto Emoji's Apache-2.0
(assets/LICENSES.md).
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

from mt_diffusion.files import writing
from mt_diffusion.inference.drawing import captions, pictures
from studies.emoji_judge import HANDS, Held

NAMES = {"twitter": "Twemoji", "google": "Noto Emoji"}
COLUMNS, WORDS = 14, 24
MARGIN, LABEL = 4, 150  # pixels
WAYS = {  # what is given to `anything`: how that is told; words with a guidance of 2
    "nothing": "from nothing",
    "label": "from the group",
    "text x2": "from the words",
    "label text": "from group and words",
    "image_b": "from Noto's",
    "image_b text x2": "from Noto's and words",
}


def spread(held: Held, num: int) -> list[int]:
    """So many held-out emoji, in turn of each group and evenly over it."""
    groups = sorted(set(held.groups))
    places = {
        g: [
            i
            for i, x in enumerate(held.groups)
            if x == g and "tone" not in held.captions[i]
        ]
        for g in groups
    }
    each = -(-num // len(groups))
    found = [
        places[g][int(len(places[g]) * (k + 0.5) / each)]
        for k in range(each)
        for g in groups
        if len(places[g]) > k
    ]
    return sorted(set(found[:num]))


def sheet(rows: Sequence[tuple[str, np.ndarray]]) -> PIL.Image.Image:
    """Rows of pictures uint8 [N, H, W, 3], each behind its name; '' is a gap."""
    tiles = [[pictures.enlarge(x) for x in images] for _, images in rows]
    side = next(row[0].width for row in tiles if row) + MARGIN
    heights = [side if row else 2 * MARGIN for row in tiles]
    width = LABEL + side * max(map(len, tiles))
    whole = PIL.Image.new("RGB", (width, sum(heights) + MARGIN), "white")
    draw, top = PIL.ImageDraw.Draw(whole), MARGIN
    for (name, _), row, height in zip(rows, tiles, heights, strict=True):
        text, font = captions.fitted(name, LABEL - 2 * MARGIN)
        draw.text((MARGIN, top + height // 2 - 8), text, pictures.GENERATED, font)
        for i, tile in enumerate(row):
            whole.paste(tile, (LABEL + i * side, top))
        top += height
    return whole


def hands(out: pathlib.Path, seed: int, held: Held) -> PIL.Image.Image:
    """Each hand from the other; the primary one guided by 2."""
    some = spread(held, COLUMNS)
    rows: list[tuple[str, np.ndarray]] = []
    ways = {"image": ("image_b", *HANDS), "image_b x2": ("image", *HANDS[::-1])}
    for given, (made, source, wanted) in ways.items():
        rows += [("", np.zeros((0, 1, 1, 3), np.uint8))] if rows else []
        rows += [
            (f"{NAMES[source]}, given", held.images[source][some]),
            (
                f"{NAMES[wanted]}, made",
                drawn(out, "transition", seed, given)[made][some],
            ),
            (f"{NAMES[wanted]}, true", held.images[wanted][some]),
        ]
    return sheet(rows)


def six_ways(out: pathlib.Path, seed: int, held: Held) -> PIL.Image.Image:
    """The same emoji, by the one model of four modalities."""
    some = spread(held, COLUMNS)
    made = {name: drawn(out, "anything", seed, given) for given, name in WAYS.items()}
    rows = [(name, found["image"][some]) for name, found in made.items()]
    return sheet([*rows, (f"{NAMES[HANDS[0]]}, true", held.images[HANDS[0]][some])])


def words(out: pathlib.Path, seed: int, held: Held) -> PIL.Image.Image:
    """Pictures of words, beside the true ones."""
    made = drawn(out, "text", seed, "text x2")["image"]
    tiles = [
        pictures.tile(
            {
                "made": made[i],
                "true": held.images[HANDS[0]][i],
                "text": held.captions[i],
            },
            ["text"],
        )
        for i in spread(held, WORDS)
    ]
    return pictures.page(tiles, "made | true | text (given, guided by 2)", columns=8)


def drawn(out: pathlib.Path, run: str, seed: int, given: str) -> dict[str, np.ndarray]:
    """What a run of the study has drawn."""
    folder = out / "draws" / f"{run}_{seed}" / given.replace(" ", "-")
    return dict(np.load(folder / "samples.npz", allow_pickle=False))


PICTURES = {"hands": hands, "words": words, "six_ways": six_ways}


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=pathlib.Path, default=writing.user_cache("emoji")
    )
    parser.add_argument("--out", type=pathlib.Path, default="runs/emoji")
    parser.add_argument("--assets", type=pathlib.Path, default="assets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(PICTURES), help="(%(default)s)")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(PICTURES):
        parser.error(f"no pictures {sorted(unknown)}; there are {', '.join(PICTURES)}")
    held = Held(args.data, "test")
    for name in args.only.split(","):
        picture = PICTURES[name](args.out, args.seed, held)
        picture.save(args.assets / f"emoji_{name}.webp", quality=80)


if __name__ == "__main__":
    main()
