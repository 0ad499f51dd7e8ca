"""Figures of digits runs by an independent judge: scikit-learn, on files alone.

python -m studies.digits joint SAMPLES.npz           generated image-label pairs
python -m studies.digits given SAMPLES.npz           images generated for a label
python -m studies.digits mask FOLDER [--patches=5]   writes masked test images
python -m studies.digits restored SAMPLES.npz FOLDER what was restored from them
"""

import argparse
import pathlib

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from mt_diffusion.data.splits import holdout

NUM_PATCHES, PATCH = 5, 2  # hidden unless said, and their side


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Real images as uint8 [N, 8, 8], as the model has them, and their labels."""
    digits = load_digits()
    keep = holdout(len(digits.images), split)
    return np.round(digits.images[keep] * 255 / 16).astype(np.uint8), digits.target[
        keep
    ]


def flat(images: np.ndarray) -> np.ndarray:
    """[N, 64] on scikit-learn's own scale, 0 to 16."""
    return images.reshape(len(images), -1).astype(np.float64) * 16 / 255


def judge() -> SVC:
    """The support vector machine of scikit-learn's digits example, on training data."""
    images, labels = load("train")
    return SVC(gamma=0.001).fit(flat(images), labels)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to rows of a and of b."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of a matrix's square root is the sum of its eigenvalues' roots.
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0))
    distance = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(distance + np.trace(cov_a + cov_b) - 2 * roots.sum())


def joint(samples: pathlib.Path) -> None:
    """Agreement of image and label, classes, and distance of pixels to test images."""
    found = np.load(samples, allow_pickle=False)
    images, labels = flat(found["image"]), found["label"]
    svc = judge()
    (train, _), (test, test_labels) = load("train"), load("test")
    read = svc.predict(images)
    shuffled = np.random.default_rng(0).permutation(labels)
    counts = np.bincount(labels, minlength=10) / len(labels)
    print(f"pairs                                  {len(labels)}")
    accuracy = svc.score(flat(test), test_labels)
    print(f"SVC accuracy on real test images       {accuracy:.1%}")
    print(f"SVC agrees with the generated label    {np.mean(read == labels):.1%}")
    print(f"... with shuffled labels               {np.mean(read == shuffled):.1%}")
    print(
        "share of each class                    " + " ".join(f"{c:.1%}" for c in counts)
    )
    generated = frechet_distance(images, flat(test))
    real = frechet_distance(flat(train), flat(test))
    print(f"Frechet distance, generated to test    {generated:.1f}")
    print(
        f"... training to test                   {real:.1f} "
        f"(ratio {generated / real:.2f})"
    )


def given(samples: pathlib.Path) -> None:
    """How often the image shows the label that was asked for."""
    found = np.load(samples, allow_pickle=False)
    agree = judge().predict(flat(found["image"])) == found["label"]
    print(f"SVC finds the given label              {agree.mean():.1%} of {len(agree)}")


def draw_masks(num: int, patches: int = NUM_PATCHES) -> np.ndarray:
    """Bool [num, 8, 8]: which pixels patches of 2x2 at random places hide."""
    rng = np.random.default_rng(0)
    hidden = np.zeros((num, 8, 8), bool)
    for one in hidden:
        for row, column in rng.integers(8 - PATCH + 1, size=(patches, 2)):
            one[row : row + PATCH, column : column + PATCH] = True
    return hidden


def mask(folder: pathlib.Path, patches: int = NUM_PATCHES) -> None:
    """Writes each test image as a PNG, its hidden pixels transparent, and black."""
    folder.mkdir(parents=True, exist_ok=True)
    images, _ = load("test")
    for i, (image, hidden) in enumerate(
        zip(images, draw_masks(len(images), patches), strict=True)
    ):
        pixels = np.stack([np.where(hidden, 0, image), np.where(hidden, 0, 255)], -1)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:04d}.png")
    print(f"wrote {len(images)} masked test images to {folder}")


def restored(samples: pathlib.Path, folder: pathlib.Path) -> None:
    """Error over the hidden pixels, against filling in the training mean.

    Of one fill, and of the mean of all fills where each image was filled several times:
    a fill is a draw from what may be hidden, so its squared error is about twice that
    of the mean, which is the least that there is.
    """
    images, _ = load("test")
    filled = np.load(samples, allow_pickle=False)["image"][..., 0]
    files = sorted(folder.glob("*.png"))
    if len(files) != len(images) or len(filled) % len(images):
        raise SystemExit("restore every masked test image equally often")
    hidden = np.stack([np.asarray(PIL.Image.open(f))[..., 1] == 0 for f in files])
    fills = filled.reshape(-1, *images.shape)
    same = all(np.array_equal(fill[~hidden], images[~hidden]) for fill in fills)

    def error(guess: np.ndarray) -> float:
        difference = (guess.astype(np.float64) - images)[hidden]
        return float(np.mean((difference * 16 / 255) ** 2))

    mean = error(np.broadcast_to(load("train")[0].mean(0), images.shape))
    one = np.mean([error(fill) for fill in fills])
    print(f"mean squared error of the training mean {mean:.2f}")
    print(f"... of one fill                         {one:.2f} ({one / mean:.2f})")
    if len(fills) > 1:
        average = error(fills.mean(0))
        print(f"... of the mean of all fills            {average:.2f}", end=" ")
        print(f"({average / mean:.2f}, {len(fills)} fills)")
    print(f"seen pixels unchanged to the bit        {same}")


def main() -> None:
    """Runs the named part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["joint", "given", "mask", "restored"])
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    parser.add_argument("--patches", type=int, help="that `mask` hides (5)")
    args = parser.parse_args()
    options = {"patches": args.patches} if args.patches else {}
    globals()[args.part](*args.paths, **options)


if __name__ == "__main__":
    main()
