"""What a preflight has found, for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ml_collections import ConfigDict

from mt_diffusion.preflight.collectives import Collective
from mt_diffusion.preflight.report import Report, roofline
from mt_diffusion.preflight.topology import GIB

T = TypeVar("T")

NAMES = {
    "parameters": "parameters",
    "average": "their average (EMA)",
    "optimizer": "optimiser",
    "codes": "codes of modalities",
    "batch": "batch",
}


def text(report: Report) -> str:
    """All of it, in lines of at most 88 characters."""
    target, sampler = report.target, report.sampler
    devices = len(target.devices)
    lines = [
        f"{target.name}: {devices} devices, mesh data {devices // report.fsdp} x fsdp "
        f"{report.fsdp}; {report.num_parameters:,} parameters",
        f"global batch {report.per_device * devices:,}: on each device "
        f"{report.num_microbatches} x {report.own} "
        "images",
        "",
        *memory(report),
        "",
        *training(report),
        "",
        f"sampler, {sampler.images:,} images in {report.steps} steps, compiled in "
        f"{clock(sampler.seconds)}",
        f"  {'memory per device':<25} {gib(sampler.total)}",
    ]
    if sampler.compiled:
        work = report.sampler_work
        lines.append(
            f"  {'operations':<25} {work.flops / work.images:.3g} FLOP per image"
        )
        lines += sent(sampler.collectives)
        if target.chip:
            lines.append(at_best(roofline(work, target.chip)))
    return "\n".join(lines)


def policies(found: Mapping[str, Report], chosen: str) -> str:
    """What each way of config.unet.remat needs, and which one is taken."""
    lines = ["config.unet.remat   memory per device   largest microbatch   at best"]
    for name, report in found.items():
        most, speed = report.largest, report.images_per_second
        cells = [f"{gib(report.total):>17}", f"{'' if most is None else most:>18}"]
        cells.append("" if speed is None else f"{speed:.3g} images/s per device")
        fits = ", does not fit" if report.fits is False else ""
        lines.append("   ".join([f"  {name:<15}", *cells]) + fits)
    return "\n".join([*lines, f"taken: --config.unet.remat={chosen}"])


def memory(report: Report) -> list[str]:
    """Bytes per device of the config's own step, by what they are."""
    step, by_image = report.step, report.by_image
    held = report.large.held | (step.held if step else {})
    lines = ["memory per device"]
    lines += [f"  {NAMES[name]:<25} {gib(size)}" for name, size in held.items()]
    if step and step.compiled:
        rest = step.total - step.temporary - sum(held.values())
        lines.append(f"  {'activations, temporary':<25} {gib(step.temporary)}")
        lines.append(f"  {'padding, program':<25} {gib(rest)}")
    of = "" if report.target.memory is None else f" of {gib(report.target.memory)}"
    verdict = {True: ": fits", False: ": DOES NOT FIT", None: ""}[report.fits]
    how = "" if step else " (by the two sizes below; not compiled)"
    lines.append(f"  {'total':<25} {gib(report.total)}{of}{verdict}{how}")
    each = f"  {'of each image':<25} {gib(by_image.slope)}"
    lines.append(f"{each}, from microbatches of {report.pair[0]} and {report.pair[1]}")
    if report.largest is not None:
        lines.append(f"  {'largest microbatch':<25} {report.largest} images")
    return lines


def training(report: Report) -> list[str]:
    """Work of the config's own training step on each device."""
    found, work = report.step or report.counted, report.work
    programs = each_once([report.small, report.large, report.step])
    took = ", ".join(clock(m.seconds) for m in programs)
    how = ", with --quick" if report.target.quick else ""
    lines = [f"training step (programs compiled in {took}{how})"]
    if not report.counted.compiled:
        return [*lines, "  all are too large"]
    lines.append(f"  {'operations':<25} {work.flops / work.images:.3g} FLOP per image")
    intensity = work.flops / max(work.traffic, 1)
    lines.append(f"  {'arithmetic intensity':<25} {intensity:.3g} FLOP per byte")
    lines += sent(found.collectives)
    if chip := report.target.chip:
        lines.append(at_best(roofline(work, chip)))
    if chip and report.filled:
        lines.append(
            f"  {'matrix units':<25} {report.filled:.0%} filled, for channels are "
            f"padded to multiples of {chip.side}"
        )
    return lines


def sent(collectives: Sequence[Collective]) -> list[str]:
    """One line for each kind and dtype."""
    return [
        f"  {c.kind:<25} {c.bytes / 1e6:.4g} MB of {c.dtype}, {c.count} times"
        for c in collectives
    ] or [f"  {'between devices':<25} nothing"]


def at_best(found: dict) -> str:
    """The roofline."""
    names = ("arithmetic", "memory", "links")
    parts = ", ".join(f"{n} {1e3 * found[f'{n}_seconds']:.3g} ms" for n in names)
    speed = f"{found['images_per_second']:.3g} images/s"
    return f"  {'at best per device':<25} {speed} ({parts})"


def advice(report: Report, config: ConfigDict) -> str:
    """Which knobs help a step that does not fit."""
    had, devices = report.target.memory, len(report.target.devices)
    assert had is not None  # as nothing fails to fit in what is not known
    sampler = report.sampler
    if report.total <= had and sampler.total > had:
        return (
            f"sampling {sampler.images} images at a time needs {gib(sampler.total)} "
            f"per device, and there are {gib(had)}; lower "
            f"--config.sampling.batch_size = {config.sampling.batch_size}."
        )
    knobs = []
    if report.needed:
        knobs.append(
            f"more microbatches (--config.train.num_microbatches={report.needed})"
        )
    if config.unet.remat != "blocks":
        knobs.append("recomputed activations (--config.unet.remat=blocks)")
    if config.unet.dtype == "float32":
        knobs.append("half precision (--config.unet.dtype=bfloat16)")
    if report.fsdp < devices:
        knobs.append(
            f"parameters and optimiser in parts (--config.mesh.fsdp, up to {devices})"
        )
    if report.fsdp > 1 and config.mesh.gather == "step":
        knobs.append(
            "no more whole parameters than a block's (--config.mesh.gather=block "
            "--config.unet.remat=pointwise)"
        )
    return (
        f"the training step needs {gib(report.total)} per device, and there are "
        f"{gib(had)}. What helps: {'; '.join(knobs) or 'a smaller network'}."
    )


def markdown(rows: Sequence[dict]) -> str:
    """Summaries, each with its `config` and `slice`, as a table."""
    heads = ["config", "slice", "batch", "microbatches", "parameters, EMA, optimiser"]
    heads += ["an image", "all", "fits", "largest microbatch", "GFLOP per image"]
    heads += [
        "FLOP per byte",
        "collectives per step",
        "images/s per chip at best",
        "compiled in",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(cells(row))} |" for row in rows])


def cells(row: dict) -> list[str]:
    """One row of that table."""
    programs = row["programs"]
    found = programs["step"] or programs["large"]
    held = sum(v for name, v in found["held"].items() if name != "batch")
    each = row["batch_size"] // row["devices"] // row["num_microbatches"]
    collectives = [Collective(**c) for c in found["collectives"]]
    kinds = [
        f"{c.kind} {c.bytes / 1e6:.0f} MB {c.dtype}"
        for c in collectives
        if c.bytes >= 1e6
    ]
    speed = row["roofline"]
    return [
        row["config"],
        row["slice"],
        f"{row['batch_size']:,}",
        f"{row['num_microbatches']} x {each}",
        gib(held),
        gib(row["bytes_per_image"]),
        gib(row["total"]) + ("" if row["is_compiled"] else " (by the line)"),
        "yes" if row["fits"] else "no",
        str(row["largest_microbatch"]),
        f"{row['flops_per_image'] / 1e9:.0f}",
        f"{row['flops_per_byte']:.0f}",
        ", ".join(kinds),
        f"{speed['images_per_second']:.0f} ({speed['limit']})",
        ", ".join(clock(p["seconds"]) for p in each_once(programs.values()))
        + (", with --quick" if row["quick"] else ""),
    ]


def each_once(programs: Iterable[T | None]) -> list[T]:
    """Programs that there are; a step in one part may also be one of the two sizes."""
    found = []
    for program in programs:
        if program is not None and program not in found:
            found.append(program)
    return found


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB" if size >= 0.01 * GIB else f"{size / 2**20:.2f} MiB"


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
