"""All subsets of the three modalities of `configs/joint.py`, given to one checkpoint.

python -m studies.any_to_any WORKDIR OUT [flags of --mode=sample]

For each of the 8 subsets of image, masked image and label, the test examples give what
is in the subset, and the rest is generated, into OUT/SUBSET. scikit-learn's support
vector machine judges whether image and label agree, and the hidden pixels are compared
with the true ones, as studies/digits.py does. Prints a table.
"""

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image

from studies import digits

VARIABLES = ("image", "masked_image", "label")


def write_given(out: pathlib.Path) -> dict[str, str]:
    """What to give of each test example, as text after --given=NAME=."""
    images, labels = digits.load("test")
    if not (out / "masked").exists():
        digits.mask(out / "masked")
        (out / "images").mkdir()
        for i, image in enumerate(images):
            PIL.Image.fromarray(image).save(out / "images" / f"{i:04d}.png")
    return {
        "image": str(out / "images"),
        "masked_image": str(out / "masked"),
        "label": ",".join(map(str, labels)),
    }


def judge(samples: pathlib.Path, svc: digits.SVC) -> tuple[float, float, float]:
    """Agreement of image and label, and of the label with the true one; error share.

    The share is that of the training mean's squared error over the hidden pixels.
    """
    found = np.load(samples, allow_pickle=False)
    image, label = found["image"][..., 0], found["label"]
    true, true_label = digits.load("test")
    hidden = digits.draw_masks(len(true))
    mean = np.broadcast_to(digits.load("train")[0].mean(0), true.shape)
    error, trivial = (
        np.mean((guess.astype(np.float64) - true)[hidden] ** 2)
        for guess in (image, mean)
    )
    agree = np.mean(svc.predict(digits.flat(image)) == label)
    return float(agree), float(np.mean(label == true_label)), float(error / trivial)


def main() -> None:
    """Samples what is not there yet, and prints the table."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    workdir, out, flags = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    values, svc = write_given(out), digits.judge()
    num = len(digits.load("test")[0])
    print("| given | image and label agree | label is the true one | hidden error |")
    print("|---|---|---|---|")
    for size in range(len(VARIABLES) + 1):
        for subset in itertools.combinations(VARIABLES, size):
            folder = out / ("-".join(subset) or "nothing")
            if not (folder / "samples.npz").exists():
                command = [sys.executable, "-m", "mt_diffusion.main", "--mode=sample"]
                command += [f"--workdir={workdir}", f"--out={folder}", *flags]
                command += [f"--num_samples={num}"]
                command += [f"--given={name}={values[name]}" for name in subset]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            agree, right, error = judge(folder / "samples.npz", svc)
            right = f"{right:.1%}" if subset else "-"
            error = f"{error:.2f}" if subset else "-"
            given = ", ".join(subset) or "nothing"
            print(f"| {given} | {agree:.1%} | {right} | {error} |", flush=True)


if __name__ == "__main__":
    main()
