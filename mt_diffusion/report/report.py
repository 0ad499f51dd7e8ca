"""`--mode=report` and `--mode=compare`: pages for a browser, each a single file."""

import json
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.files import writing
from mt_diffusion.report import figures, record, tables
from mt_diffusion.report.figures import Figure
from mt_diffusion.report.record import Run
from mt_diffusion.training.logs import METRICS

TEMPLATES = pathlib.Path(__file__).parent / "templates"
MOST_DRAWS = 6  # of an evaluation, that are shown


def write(workdir: pathlib.Path, defaults: ConfigDict | None = None) -> pathlib.Path:
    """Writes workdir/report/index.html; returns its path.

    defaults: a config whose fields the run's are compared with, so that those that
    differ come first. Raises UserError for a workdir without metrics, or one that can't
    be written to.
    """
    run = load(workdir)
    usual = {} if defaults is None else flatten(json.loads(defaults.to_json()))
    changed, unchanged = tables.settings(run.config, usual)
    page = render(
        "report.html.j2",
        title=run.name,
        run=run,
        command=f"python -m mt_diffusion.main --workdir={shlex.quote(str(workdir))}",
        facts=tables.facts(run),
        changed=changed,
        unchanged=unchanged,
        grids=figures.grids(run),
        losses=figures.losses(run),
        loss_key=figures.key(["train, moving average", "test"]),
        shares=figures.shares(run),
        share_key=figures.key(figures.share_names(run)),
        speed=figures.speed(run),
        bounds=run.bounds and tables.bounds(run.bounds),
        levels=run.reading and tables.levels(run.reading),
        **evaluated(run),
    )
    home = exported.home(workdir)
    path = home / "report" / "index.html"
    writing.make_folder(path.parent, f"--workdir={workdir}", home)
    writing.text(path, page)
    return path


def again(workdir: pathlib.Path, defaults: ConfigDict | None = None) -> None:
    """Writes the page of a run anew, after something was measured of it.

    An exported model, of which nothing was logged, has no page.
    """
    if (workdir / METRICS).exists():
        print(f"wrote {write(workdir, defaults)}")


def load(workdir: pathlib.Path) -> Run:
    """The run in a workdir, without what is in its files of JSON but makes no sense."""
    run = record.load(workdir)

    def sound(
        field: str, *makers: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any] | None:
        found = getattr(run, field)
        try:
            for make in makers if found else ():
                make(found)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            print(
                f"passed over the {field} in {workdir}, whose file is broken "
                f"({error!r}); make it again"
            )
            return None
        return found

    return run._replace(
        bounds=sound("bounds", tables.bounds),
        reading=sound("reading", tables.levels),
        evaluation=sound("evaluation", tables.manifest, tables.metrics),
    )


def evaluated(run: Run) -> dict[str, Any]:
    """What the page says of the newest evaluation."""
    if run.evaluation is None:
        return dict(manifest=[], metrics={}, others="", draws=[], neighbours=None)
    return {
        "manifest": tables.manifest(run.evaluation),
        "metrics": tables.metrics(run.evaluation),
        "others": ", ".join(f"{step:,}" for step in run.evaluated[:-1]),
        "draws": draws(run),
        "neighbours": neighbours(run),
    }


def draws(run: Run) -> list[Figure]:
    """Samples of each draw of the evaluation."""
    assert run.folder is not None
    found = []
    for path in sorted(run.folder.glob("*/grid.png"))[:MOST_DRAWS]:
        words = figures.kind_in_words(path.parent.name)
        alt = f"Grid of evaluated samples. {words}."
        found.append(figures.picture(path, path.parent.name, words, alt))
    return found


def neighbours(run: Run) -> Figure | None:
    """Samples beside the nearest training images."""
    assert run.folder is not None
    path = run.folder / "neighbours.png"
    if not path.exists():
        return None
    words = "each sample (framed) beside the training images nearest to it"
    alt = f"Grid of pictures: {words}."
    return figures.picture(path, "Nearest training images", words, alt)


def compare(workdirs: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Writes one page with several runs side by side to the file `out`; returns it.

    Raises UserError for no run, one without metrics, or an `out` that can't be written.
    """
    if not workdirs:
        raise UserError("--runs is empty: name workdirs, separated by commas.")
    if out.is_dir():
        raise UserError(f"--out={out} is a folder; name a file, such as runs.html.")
    loaded = [load(workdir) for workdir in workdirs]
    short = [run.name for run in loaded]
    names = short if len(set(short)) == len(short) else list(map(str, workdirs))
    if len(set(names)) < len(names):
        raise UserError(f"--runs names a workdir twice: {', '.join(names)}.")
    runs = dict(zip(names, loaded, strict=True))
    page = render(
        "compare.html.j2",
        title=f"{len(runs)} runs",
        runs=runs,
        facts={name: dict(tables.facts(run)) for name, run in runs.items()},
        differing=tables.differing(runs),
        final_losses=tables.final_losses(runs),
        metrics=tables.compared(runs),
        curves=figures.overlaid(runs),
        run_key=figures.key(names),
        grids=side_by_side(runs),
    )
    writing.make_folder(out.parent, f"--out={out}")
    writing.text(out, page)
    return out


def side_by_side(runs: dict[str, Run]) -> dict[str, list[Figure]]:
    """{kind in words: the last grid of each run that has it}."""
    found: dict[str, list[Figure]] = {}
    for name, run in runs.items():
        for kind, paths in run.pictures.items():
            step, words = max(paths), figures.kind_in_words(kind)
            alt = f"Grid of samples of {name} at step {step:,}. {words}."
            figure = figures.picture(
                paths[step], name, f"step {step:,}", alt, figures.SIDE_BY_SIDE
            )
            found.setdefault(words, []).append(figure)
    return found


def render(template: str, **values: Any) -> str:
    """A page by its template; all text in `values` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
