"""Every setting and variant on digits: trained, sampled and judged, as one table.

python -m studies.table --out=runs/table [--only=NAME,NAME]

Each row is one training by its default command with the options that stand in the
table, and figures printed by the other files of this folder. What a workdir below OUT
has already is not done again; OUT/NAME/figures.json holds what was measured. The table
is printed, and written to OUT/table.md.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
import sys

import PIL.Image

MAIN = "mt_diffusion.main"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that a command prints.

    sample: flags of --mode=sample that draw what `judge` reads; none to draw nothing.
    judge: module and arguments; {samples}, {work} and {out} are filled in. pattern: a
    group in the judge's text.
    """

    name: str
    sample: str | None
    judge: str
    pattern: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A training run: its config, options beside the defaults, and its figures."""

    config: str
    options: str
    figures: tuple[Figure, ...]


HEADING, WIDTH, TILES = 26, 480, (76, 90)  # of a grid, in pixels
PAIRS = "--num_samples=1000"
GIVEN = "--num_samples=500 --given=label=0,1,2,3,4,5,6,7,8,9"
AGREE = r"agrees with the generated label\s+([\d.]+%)"
SHARE = r"one (?:fill|draw)\s+[\d.]+ \(([\d.]+)\)"

JOINT = Figure("joint agreement", PAIRS, "digits joint {samples}", AGREE)
FRECHET = Figure(
    "Fréchet distance / training images'",
    PAIRS,
    "digits joint {samples}",
    r"\(ratio ([\d.]+)\)",
)
FRECHET_GIVEN = dataclasses.replace(
    FRECHET,
    name="the same, labels given",
    sample=f"{PAIRS} --given=label=0,1,2,3,4,5,6,7,8,9",
)
FOUND = Figure(
    "given label found", GIVEN, "digits given {samples}", r"given label\s+([\d.]+%)"
)
READ = Figure(
    "label read right",
    None,
    "main --mode=read --workdir={work}",
    r"label: .*right: ([\d.]+%)",
)
RESTORED, RESTORED_10 = (
    Figure(
        f"restoration error / training mean's, {patches} patches",
        f"--given=masked_image={{out}}/erased_{patches} --steps=10",
        f"digits restored {{samples}} {{out}}/erased_{patches}",
        SHARE,
    )
    for patches in (5, 10)
)


def transition(given: str, folder: str, made: str, what: str) -> Figure:
    """Error of one image of the pair from the other one."""
    return Figure(
        f"{what} error / training mean's",
        f"--given={given}={{out}}/pairs/{folder}",
        f"transition given {{samples}} {made} {{out}}/pairs",
        SHARE,
    )


def any_to_any(name: str, given: str, column: int, steps: int = 250) -> Figure:
    """A cell of studies/any_to_any.py's table."""
    skipped = r"[^|]*\|" * column
    return Figure(
        name,
        None,
        f"any_to_any {{work}} {{work}}/subsets_{steps} --steps={steps}",
        rf"\| {given} \|{skipped} ([\d.]+%?)",
    )


LABELS = (JOINT, FRECHET, FRECHET_GIVEN, FOUND, READ)
X = "--config.modalities.label.conditions=true"
SHARED = (
    "--config.modalities.label.kind=label.SharedUNet "
    "--config.modalities.label.frame=read --config.modalities.label.guess=mean "
    "--config.modalities.label.drift=ramp --config.modalities.label.energy=64"
)
FINE_TUNE = "--config.init_from={out}/label --config.train.num_steps=2000"
ROWS = {
    "masked": Row("masked_image", "", (RESTORED, RESTORED_10)),
    "masked_u": Row(
        "masked_image",
        "--config.modalities.masked_image.conditions=false",
        (RESTORED, RESTORED_10),
    ),
    "label": Row("image_label", "", LABELS),
    "label_x": Row("image_label", X, LABELS),
    "label_e": Row("image_label", "--config.modalities.label.head_kind=E", LABELS),
    "label_unet": Row("image_label", SHARED, LABELS),
    "label_tuned": Row(
        "image_label",
        f"{FINE_TUNE} --config.objective.tasks=image",
        (FRECHET_GIVEN, FOUND),
    ),
    "label_classifier": Row(
        "image_label", f"{FINE_TUNE} --config.objective.tasks=label", (READ,)
    ),
    "label_10": Row("image_label_10", "", (JOINT, FOUND, READ)),
    "transition": Row(
        "image_transition",
        "",
        (
            transition("image", "a", "image_b", "A to B"),
            transition("image_b", "b", "image", "B to A"),
            Figure(
                "joint error / shuffled pairs'",
                PAIRS,
                "transition joint {samples}",
                r"generated pairs\s+[\d.]+ \(([\d.]+)\)",
            ),
        ),
    ),
    "representation": Row(
        "image_representation",
        "",
        (
            Figure(
                "R@1 of images for test vectors",
                "--given=representation={out}/vectors/vectors.npy",
                "representation images {samples}",
                r"R@1, cosine\s+([\d.]+%)",
            ),
            Figure(
                "R@1 of vectors generated for test images",
                "--given=image={out}/vectors/images",
                "representation vectors {samples}",
                r"R@1, cosine\s+([\d.]+%)",
            ),
            Figure(
                "R@1 of joint pairs",
                "--num_samples=359",
                "representation images {samples}",
                r"R@1, cosine\s+([\d.]+%)",
            ),
        ),
    ),
    "joint": Row(
        "joint",
        "",
        (
            any_to_any("joint agreement", "nothing", 0),
            any_to_any("given label found", "label", 0),
            any_to_any("label generated for test images right", "image", 1),
            READ,
            any_to_any("restoration, mask given", "masked_image", 2, 10),
            any_to_any(
                "restoration, mask and label given", "masked_image, label", 2, 10
            ),
        ),
    ),
}


def run(module: str, text: str) -> str:
    """What a module prints, called with the arguments in `text`."""
    package = MAIN if module == "main" else f"studies.{module}"
    command = [sys.executable, "-m", package, *text.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return done.stdout


def prepare(out: pathlib.Path) -> None:
    """Writes what the test images give, once."""
    for folder, command in {
        "erased_5": "digits mask",
        "erased_10": "digits mask --patches=10",
        "pairs": "transition pairs",
        "vectors": "representation write",
    }.items():
        if not (out / folder).exists():
            module, *part = command.split()
            run(module, f"{' '.join(part)} {out / folder}")


def measure(name: str, out: pathlib.Path) -> None:
    """Trains a row, draws for each of its figures, and writes figures.json."""
    row, work = ROWS[name], out / name
    options = row.options.format(out=out)
    described = json.loads(json.dumps(dataclasses.asdict(row)))
    if (work / "figures.json").exists():
        if json.loads((work / "figures.json").read_text())["row"] == described:
            return
    run("main", f"--config=configs/{row.config}.py --workdir={work} {options}")
    figures, said = {}, {}
    for figure in row.figures:
        where = {"out": out, "work": work}
        if figure.sample is not None:
            flags = figure.sample.format(**where)
            name_of = hashlib.sha1(flags.encode()).hexdigest()[:8]
            samples = work / "drawn" / name_of
            where["samples"] = samples / "samples.npz"
            if not where["samples"].exists():
                run("main", f"--mode=sample --workdir={work} --out={samples} {flags}")
            picture(samples / "grid.png", work / "picture.png")
        command = figure.judge.format(**where)
        if command not in said:
            said[command] = run(*command.split(maxsplit=1))
        found = re.search(figure.pattern, said[command])
        if found is None:
            raise SystemExit(f"no {figure.name!r} in what {command!r} printed")
        figures[figure.name] = found[1]
    facts = {"row": described, "options": options, "figures": figures}
    (work / "figures.json").write_text(json.dumps(facts, indent=2) + "\n")


def picture(grid: pathlib.Path, out: pathlib.Path) -> None:
    """Its first tiles, without the heading; the first draw of a row has it."""
    if not out.exists():
        with PIL.Image.open(grid) as image:
            rows = image.height - HEADING
            height = next(h for h in TILES if rows % h == 0)
            right = min(WIDTH, image.width)
            image.crop((0, HEADING, right, HEADING + height)).save(out)


def table(out: pathlib.Path) -> str:
    """All rows that have figures, as Markdown."""
    lines = ["| run | config | options | figures | |", "|---|---|---|---|---|"]
    for name in ROWS:
        path = out / name / "figures.json"
        if path.exists():
            facts = json.loads(path.read_text())
            figures = "; ".join(f"{n} {x}" for n, x in facts["figures"].items())
            options = f"`{facts['options']}`" if facts["options"] else ""
            config = f"`configs/{facts['row']['config']}.py`"
            seen = (out / name / "picture.png").exists()
            image = f"![{name}]({name}/picture.png)" if seen else ""
            lines.append(f"| {name} | {config} | {options} | {figures} | {image} |")
    return "\n".join(lines)


def main() -> None:
    """Measures what has no figures yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default="runs/table")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, as label,joint")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(ROWS):
        parser.error(f"no rows {sorted(unknown)}; there are {', '.join(ROWS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(args.out)
    for name in args.only.split(","):
        measure(name, args.out)
        (args.out / "table.md").write_text(table(args.out) + "\n")
    print(table(args.out))


if __name__ == "__main__":
    main()
