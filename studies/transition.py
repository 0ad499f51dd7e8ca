"""Figures of image transition on digits: pairs of a digit and its edges, as files.

python -m studies.transition pairs FOLDER             writes test images and pairs
python -m studies.transition given SAMPLES.npz KEY FOLDER
                        KEY (image or image_b) as generated for the other one of FOLDER
python -m studies.transition joint SAMPLES.npz        pairs generated from nothing
"""

import argparse
import pathlib

import numpy as np
import PIL.Image

from mt_diffusion.data.pairs import edges
from studies.digits import flat, load

FOLDERS = {"image": "a", "image_b": "b"}


def both(split: str) -> dict[str, np.ndarray]:
    """{variable: uint8 [N, 8, 8]} of the real pairs."""
    images, _ = load(split)
    return {"image": images, "image_b": edges_of(images)}


def edges_of(images: np.ndarray) -> np.ndarray:
    """The second images, uint8 [N, 8, 8], of images uint8 [N, 8, 8]."""
    return np.stack([edges(image[..., None])[..., 0] for image in images])


def mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """Over all pixels, of grey levels from 0 to 16."""
    return float(np.mean((flat(a) - flat(b)) ** 2))


def pairs(folder: pathlib.Path) -> None:
    """Writes the test images as FOLDER/a/*.png, the second ones as FOLDER/b/*.png."""
    for name, images in both("test").items():
        (folder / FOLDERS[name]).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            PIL.Image.fromarray(image).save(folder / FOLDERS[name] / f"{i:04d}.png")
    print(f"wrote {len(images)} pairs of test images to {folder}/a and {folder}/b")


def given(samples: pathlib.Path, key: str, folder: pathlib.Path) -> None:
    """Error of what was generated, against predicting the training mean.

    Also of the mean of all draws where each image was given several times: the squared
    error of one draw is about twice that of the mean, which is the least that there is.
    """
    paths = sorted((folder / FOLDERS[key]).glob("*.png"))
    found = np.load(samples, allow_pickle=False)[key]
    if not paths or len(found) % len(paths):
        raise SystemExit("generate equally many for every image of the folder")
    true = np.stack([np.asarray(PIL.Image.open(path)) for path in paths])
    draws = found.reshape(-1, *true.shape)
    trivial = np.broadcast_to(both("train")[key].mean(0), true.shape)
    error = mean_square(trivial, true)
    one = mean_square(draws, np.broadcast_to(true, draws.shape))
    print(f"mean squared error of the training mean {error:.2f}")
    print(f"... of one draw                         {one:.2f} ({one / error:.3f})")
    if len(draws) > 1:
        mean = mean_square(draws.mean(0), true)
        print(f"... of the mean of {len(draws):2} draws             ", end="")
        print(f"{mean:.2f} ({mean / error:.3f})")


def joint(samples: pathlib.Path) -> None:
    """Error of generated second images against those that belong to the first."""
    found = np.load(samples, allow_pickle=False)
    images, second = (found[name][..., 0] for name in FOLDERS)
    belongs = edges_of(images)
    shuffled = np.random.default_rng(0).permutation(second)
    ours, other = (mean_square(x, belongs) for x in (second, shuffled))
    print(f"pairs                                   {len(images)}")
    print(f"mean squared error of shuffled pairs    {other:.2f}")
    print(f"... of the generated pairs              {ours:.2f} ({ours / other:.3f})")


def main() -> None:
    """Runs the named part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("pairs")
    part.add_argument("folder", type=pathlib.Path)
    part.set_defaults(run=lambda args: pairs(args.folder))
    part = parts.add_parser("given")
    part.add_argument("samples", type=pathlib.Path)
    part.add_argument("key", choices=FOLDERS)
    part.add_argument("folder", type=pathlib.Path)
    part.set_defaults(run=lambda args: given(args.samples, args.key, args.folder))
    part = parts.add_parser("joint")
    part.add_argument("samples", type=pathlib.Path)
    part.set_defaults(run=lambda args: joint(args.samples))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
