"""What follows from measured programs: what fits, and how fast it can be at best."""

import dataclasses
from typing import Any, NamedTuple

from mt_diffusion.preflight.measure import Measurement
from mt_diffusion.preflight.topology import Chip, Target


@dataclasses.dataclass(frozen=True)
class Line:
    """Bytes per device by images of a microbatch: base + slope * images."""

    base: float
    slope: float

    def __call__(self, images: float) -> float:
        """Bytes at so many images per device."""
        return self.base + self.slope * images


class Work(NamedTuple):
    """Of a run on each device: images, operations, bytes of memory, bytes sent."""

    images: float
    flops: float
    traffic: float
    sent: float


def roofline(work: Work, chip: Chip) -> dict[str, Any]:
    """Seconds by each limit of the chip, and images per second at best.

    At best means that the slowest of arithmetic, memory and links never waits for
    another.
    """
    seconds = {
        "arithmetic": work.flops / chip.flops,
        "memory": work.traffic / chip.bandwidth,
        "links": work.sent / chip.links,
    }
    slowest = max(seconds, key=lambda name: seconds[name])
    at_best = {"images_per_second": work.images / seconds[slowest], "limit": slowest}
    return {f"{name}_seconds": value for name, value in seconds.items()} | at_best


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a preflight has found.

    per_device: images of a step on each device. num_microbatches: its parts; steps: of
    the sampler. pair: images per device of `small` and `large`, both in one part. step:
    the config's own step; None where it was not compiled, as it would not fit.
    filled: the share of the matrix units' work that is none on padded channels.
    """

    target: Target
    fsdp: int
    per_device: int
    num_microbatches: int
    num_parameters: int
    steps: int
    pair: tuple[int, int]
    small: Measurement
    large: Measurement
    step: Measurement | None
    sampler: Measurement
    filled: float | None = None

    @property
    def own(self) -> int:
        """Images of the config's own microbatch, per device."""
        return self.per_device // self.num_microbatches

    @property
    def by_image(self) -> Line:
        """Memory by the images of a microbatch, through `small` and `large`."""
        slope = (self.large.total - self.small.total) / (self.pair[1] - self.pair[0])
        return Line(self.small.total - slope * self.pair[0], slope)

    @property
    def counted(self) -> Measurement:
        """The program whose work stands for all: without loops, and compiled.

        Of the two sizes the one nearer to the config's own microbatch.
        """
        is_nearer = abs(self.pair[1] - self.own) < abs(self.pair[0] - self.own)
        return self.large if is_nearer and self.large.compiled else self.small

    @property
    def work(self) -> Work:
        """Of the config's own step, from that of `counted`; what it sends, if known.

        Of a step in several parts the compiler counts one alone, if they are a loop.
        """
        found, sender = self.counted, self.step or self.counted
        times = self.per_device * len(self.target.devices) / found.images
        sent = sum(c.sent for c in sender.collectives)
        return Work(self.per_device, times * found.flops, times * found.traffic, sent)

    @property
    def images_per_second(self) -> float | None:
        """Of training, at best, on each device; None where its chip is not known."""
        chip = self.target.chip
        return roofline(self.work, chip)["images_per_second"] if chip else None

    @property
    def sampler_work(self) -> Work:
        """Of a run of the sampler, of whose loop the compiler counts one step."""
        found, steps = self.sampler, self.steps
        sent = sum(c.sent for c in found.collectives)
        images = found.images / len(self.target.devices)
        return Work(images, steps * found.flops, steps * found.traffic, sent)

    @property
    def total(self) -> float:
        """Bytes of the config's own step, measured, else by the line."""
        if self.step is not None:
            return self.step.total
        return self.predict(self.num_microbatches)

    @property
    def fits(self) -> bool | None:
        """Whether step and sampler fit; None where the memory is not known."""
        memory = self.target.memory
        if memory is None:
            return None
        refused = any(
            m is not None and not m.compiled for m in (self.step, self.sampler)
        )
        return not refused and max(self.total, self.sampler.total) <= memory

    def predict(self, num_microbatches: int) -> float:
        """Bytes of a step in so many microbatches, by the line."""
        more = self.accumulation(num_microbatches)
        return self.by_image(self.per_device / num_microbatches) + more

    def accumulation(self, num_microbatches: int) -> float:
        """Bytes that so many microbatches need on top of one of them.

        As measured; else the gradients again, float32 and whole, which are summed.
        """
        if num_microbatches == 1:
            return 0
        if self.step is None or self.num_microbatches == 1:
            return 4 * self.num_parameters
        return self.step.total - self.by_image(self.own)

    @property
    def largest(self) -> int | None:
        """The largest microbatch that fits, in images per device, in so many parts."""
        by_image, memory = self.by_image, self.target.memory
        if memory is None or by_image.slope <= 0:
            return None
        left = memory - by_image.base - self.accumulation(self.num_microbatches)
        return max(int(left // by_image.slope), 0)

    @property
    def needed(self) -> int | None:
        """The fewest microbatches with which the step fits; None if with none."""
        if self.target.memory is None:
            return None
        for parts in range(1, self.per_device + 1):
            even = self.per_device % parts == 0
            if even and self.predict(parts) <= self.target.memory:
                return parts
        return None

    def summary(self) -> dict[str, Any]:
        """All of it as JSON."""
        by_image, work = self.by_image, self.work
        parts = ("small", "large", "step", "sampler")
        programs = {name: getattr(self, name) for name in parts}
        facts = {
            "topology": self.target.name,
            "devices": len(self.target.devices),
            "quick": self.target.quick,
            "fsdp": self.fsdp,
            "batch_size": self.per_device * len(self.target.devices),
            "num_microbatches": self.num_microbatches,
            "num_parameters": self.num_parameters,
            "memory": self.target.memory,
            "fits": self.fits,
            "is_compiled": self.step is not None,
            "total": self.total,
            "bytes_per_image": by_image.slope,
            "bytes_without_images": by_image.base,
            "largest_microbatch": self.largest,
            "needed_microbatches": self.needed,
            "flops_per_image": work.flops / work.images,
            "flops_per_byte": work.flops / max(work.traffic, 1),
            "matrix_units_filled": self.filled,
            "flops_per_sample": self.sampler_work.flops / self.sampler_work.images,
            "programs": {n: m and dataclasses.asdict(m) for n, m in programs.items()},
        }
        if chip := self.target.chip:
            facts["roofline"] = roofline(work, chip)
            facts["sampler_roofline"] = roofline(self.sampler_work, chip)
        return facts
