"""Preflight: counts of compiled programs against closed forms, and the verdicts."""

import contextlib
import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from configs import ddpm, image_label, image_transition
from mt_diffusion.data.kinds import tfds
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.models import attention
from mt_diffusion.parallel import sharding
from mt_diffusion.preflight import (
    collectives,
    measure,
    preflight,
    program,
    tables,
    topology,
)
from mt_diffusion.preflight.measure import Measurement
from mt_diffusion.preflight.report import Report, Work, roofline
from mt_diffusion.preflight.topology import Chip, Target

NUM_DEVICES = 8
SPLIT, WHOLE = PartitionSpec("x"), PartitionSpec()


def get_config():
    """A U-Net of one level, wide enough that products are nearly all of its work."""
    config = image_label.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.unet.update(model_channels=96, num_heads=4)
    config.train.batch_size = 16 * NUM_DEVICES
    config.sampling.update(batch_size=NUM_DEVICES, num_steps=4)
    return config


def target(memory=None, **limits):
    if limits:
        chip = Chip(
            **dict(memory=memory, flops=1e12, bandwidth=1e12, links=1e12) | limits
        )
    else:
        chip = None
    return Target("simulated", jax.devices(), chip, memory)


@pytest.fixture(scope="module")
def step():
    """The training step, compiled for eight devices, and its number of parameters."""
    config = program.resolve(get_config())
    mesh = sharding.make_mesh(1)
    lowered = program.lower_training(config, mesh, config.train.batch_size, 1)
    return measure.compile_and_look(lowered, NUM_DEVICES, {})


def conv(n, channels, features):
    """Multiplications and additions of a 3x3 convolution: of pixels that there are."""
    return 2 * channels * features * (3 * n - 2) ** 2


def count_by_hand(config):
    """FLOPs per image of a training step of a U-Net of one level: see its shapes.

    One image in `bare_every` is looked at again, as far as the middle block.
    """
    n, c, k = config.data.image_size, config.unet.model_channels, 10
    pixels, emb, channels = n**2, 4 * c, config.data.channels

    def res(inputs):
        skip = 0 if inputs == c else 2 * pixels * inputs * c
        return conv(n, inputs, c) + conv(n, c, c) + 2 * emb * 2 * c + skip

    attention = 2 * pixels * c * (3 * c + c) + 2 * 2 * pixels**2 * c
    dense = 2 * (c * emb + emb * emb) + 2 * (c * emb + emb * k)
    to_middle = 3 * res(c) + 2 * attention + dense
    rest = 2 * res(2 * c) + 2 * attention + conv(n, c, channels)
    first = conv(n, channels, c)  # whose input needs no gradient
    again = (3 * to_middle + 2 * first) / config.objective.bare_every
    return 3 * (to_middle + rest) + 2 * first + again


def test_operations_are_those_of_convolutions_attention_and_dense_layers(step):
    each = step.flops / (step.images / NUM_DEVICES)
    assert each == pytest.approx(count_by_hand(get_config()), rel=0.05)


def twins(config):
    """Bytes of gradients that others equal, and that need not be sent.

    In the two blocks that have a skip with parameters: of its bias, and of the bias of
    the convolution to which the skip is added.
    """
    return 2 * 4 * config.unet.model_channels


def test_data_parallel_training_reduces_each_gradient_once_in_float32(step):
    reduced = {(c.kind, c.dtype): c for c in step.collectives}
    assert {kind for kind, _ in reduced} == {"all-reduce"}
    assert {dtype for _, dtype in reduced} <= {"f32", "s32"}  # s32: available labels
    gradients = step.held["parameters"] - twins(get_config())
    assert gradients <= reduced["all-reduce", "f32"].bytes <= gradients + 4 * 8  # terms
    assert reduced["all-reduce", "f32"].sent == pytest.approx(
        2 * 7 / 8 * gradients, rel=1e-3
    )


@pytest.mark.parametrize("fsdp", [pytest.param(1, marks=pytest.mark.wide), 4])
def test_gradients_are_summed_once_for_all_parts_of_a_batch(fsdp):
    """Though it computes in bfloat16; of what is split, each device gets its part."""
    config = ddpm.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.unet.update(dtype="bfloat16", model_channels=32)
    config, mesh = program.resolve(config), sharding.make_mesh(fsdp)
    lowered = program.lower_training(config, mesh, 4 * NUM_DEVICES, 2)
    found = measure.compile_and_look(lowered, NUM_DEVICES, {})
    moved = {(c.kind, c.dtype): c.bytes for c in found.collectives}
    assert not any(dtype == "bf16" for kind, dtype in moved if "reduce" in kind)
    experiment = experiments.build(config)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    places = sharding.by_shape(mesh, shapes)
    split, whole = [], []
    for x, place in zip(*map(jax.tree.leaves, (shapes, places)), strict=True):
        (split if "fsdp" in place.spec else whole).append(4 * x.size)
    assert bool(split) == (fsdp > 1)
    assert moved.get(("reduce-scatter", "f32"), 0) == sum(split)
    reduced = moved["all-reduce", "f32"] - (sum(whole) + sum(split) / fsdp)
    assert 0 <= reduced <= 4 * 8 + 4 * 2 * len(split)  # terms; norms of what is split


def test_state_and_temporaries_add_up(step):
    config = get_config()
    images = config.train.batch_size // NUM_DEVICES
    assert step.held["average"] == step.held["parameters"]
    assert step.held["optimizer"] == pytest.approx(2 * step.held["parameters"], abs=99)
    assert step.held["batch"] == images * (8 * 8 * 4 + 10 * 4 + 1)
    assert step.total > sum(step.held.values()) + step.temporary


def split_over(num):
    mesh = jax.make_mesh((num,), ("x",), devices=jax.devices()[:num])
    return mesh, lambda spec: NamedSharding(mesh, spec)


def compiled(function, spec, num=NUM_DEVICES, shape=(16, 24)):
    """HLO of a function whose argument is split over the devices."""
    mesh, of = split_over(num)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=of(SPLIT))
    mapped = jax.shard_map(
        functools.partial(function, num), mesh=mesh, in_specs=SPLIT, out_specs=spec
    )
    return jax.jit(mapped).lower(x).compile().as_text()


def all_reduce(num, x):
    return jax.lax.psum(x, "x")


def all_gather(num, x):
    return jax.lax.all_gather(x, "x", axis=0, tiled=True)


def reduce_scatter(num, x):
    return jax.lax.psum_scatter(x, "x", scatter_dimension=1, tiled=True)


def permute(num, x):
    return jax.lax.ppermute(x, "x", [(i, (i + 1) % num) for i in range(num)])


def mean(x):
    """Over all devices; a loop's carry keeps saying that it may differ on each."""
    return jax.lax.pcast(jax.lax.pmean(jnp.sin(x), "x"), "x", to="varying")


def scan(num, x):
    return jax.lax.scan(lambda x, _: (mean(x), None), x, length=5)[0]


def nested(num, x):
    turn = lambda i, x: jax.lax.fori_loop(0, 3, lambda _, x: mean(x), x)  # noqa: E731
    return jax.lax.fori_loop(0, 4, turn, x)


@pytest.mark.parametrize("num", [2, 8])
@pytest.mark.parametrize(
    ("function", "spec", "kind", "times", "whole", "share"),
    [
        (all_reduce, WHOLE, "all-reduce", 1, "local", lambda n: 2 * (n - 1) / n),
        (all_gather, SPLIT, "all-gather", 1, "global", lambda n: (n - 1) / n),
        (reduce_scatter, SPLIT, "reduce-scatter", 1, "local", lambda n: (n - 1) / n),
        (permute, SPLIT, "collective-permute", 1, "local", lambda n: 1),
        (scan, SPLIT, "all-reduce", 5, "local", lambda n: 2 * (n - 1) / n),
        (nested, SPLIT, "all-reduce", 12, "local", lambda n: 2 * (n - 1) / n),
    ],
)
def test_collectives_of_small_programs(num, function, spec, kind, times, whole, share):
    found = collectives.find(compiled(function, spec, num), num)
    size = 16 * 24 * 4 // (num if whole == "local" else 1)
    (one,) = found
    assert (one.kind, one.dtype, one.count) == (kind, "f32", times)
    assert one.bytes == times * size
    assert one.sent == pytest.approx(times * size * share(num))


HLO = """HloModule made_by_hand, is_scheduled=true

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%x, %y)
}

%wrapped (p: f32[8,128]) -> f32[2,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %rs = f32[2,128]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%body (s: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %s = (s32[]{:T(128)}, bf16[64]{0:T(256)(128)(2,1)}) parameter(0)
  %g = bf16[64]{0:T(256)(128)(2,1)} get-tuple-element(%s), index=1
  %r = bf16[64]{0} all-reduce(%g), replica_groups={{0,1},{2,3}}, to_apply=%add
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %t = (s32[]{:T(128)}, bf16[64]{0:T(256)(128)(2,1)}) tuple(%i, %r)
}

%condition (s: (s32[], bf16[64])) -> pred[] {
  %s = (s32[]{:T(128)}, bf16[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%little (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %r = f32[4]{0} all-reduce(%q), replica_groups={{0,1,2,3}}, to_apply=%add
}

%much (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %r = f32[4]{0} all-reduce(%q), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %r2 = f32[4]{0} all-reduce(%r), replica_groups={{0,1,2,3}}, to_apply=%add
}

ENTRY %main (a: f32[8,128], b: f32[4], c: (s32[], bf16[64])) -> f32[4] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[4]{0} parameter(1)
  %c = (s32[], bf16[64]) parameter(2)
  %s = ((f32[8,128]{1,0}), f32[2,128]{1,0:T(2,128)}, u32[]) async-start(%a), calls=%wrapped
  %d = f32[2,128]{1,0} async-done(%s), calls=%wrapped
  %gs = (f32[2,128]{1,0:T(2,128)}, f32[8,128]{1,0:T(8,128)}) all-gather-start(%d), replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  %gd = f32[8,128]{1,0:T(8,128)S(1)} all-gather-done(%gs)
  %ps = (s8[100]{0}, s8[100]{0}, u32[], u32[]) collective-permute-start(%e), source_target_pairs={{0,1}}
  %pd = s8[100]{0} collective-permute-done(%ps)
  %two = (f32[2]{0}, /*index=1*/pred[3]{0}) all-reduce(%u, %v), to_apply=%add
  %w = (s32[], bf16[64]) while(%c), condition=%condition, body=%body
  ROOT %o = f32[4]{0} conditional(%p, %b, %b), branch_computations={%little, %much}
}
"""  # noqa: E501


def test_collectives_of_a_program_as_a_tpu_has_them():
    found = {(c.kind, c.dtype): c for c in collectives.find(HLO, 8)}
    bytes_of = {key: c.bytes for key, c in found.items()}
    assert bytes_of == {
        ("reduce-scatter", "f32"): 8 * 128 * 4,
        ("all-gather", "f32"): 8 * 128 * 4,
        ("collective-permute", "s8"): 100,
        ("all-reduce", "bf16"): 7 * 64 * 2,
        ("all-reduce", "f32"): 2 * 4 + 2 * 4 * 4,  # once, and the costlier branch
        ("all-reduce", "pred"): 3,
    }
    assert found["reduce-scatter", "f32"].sent == 3 / 4 * 8 * 128 * 4
    assert found["all-gather", "f32"].sent == 3 / 4 * 8 * 128 * 4
    assert found["all-reduce", "bf16"].sent == 2 * 1 / 2 * 7 * 64 * 2
    assert found["all-reduce", "pred"].sent == 2 * 7 / 8 * 3
    assert found["all-reduce", "bf16"].count == 7


def test_a_loop_of_unknown_turns_is_refused_if_it_sends():
    unknown = HLO.replace("constant(7)", "add(%i, %i)")
    with pytest.raises(ValueError, match="how often"):
        collectives.find(unknown, 8)
    silent = unknown.replace("bf16[64]{0} all-reduce(%g)", "bf16[64]{0} negate(%g)")
    assert all(c.dtype != "bf16" for c in collectives.find(silent, 8))


GIB = 2**30


def measured(total, images=8, **fields):
    held = {"parameters": GIB, "average": GIB, "optimizer": 2 * GIB, "batch": 0}
    return Measurement("step", images, True, total, held, **fields)


def report(**fields):
    """16 images on each of 8 devices; 2 GiB of each image on top of 5 GiB."""
    defaults = dict(
        target=target(memory=16 * GIB),
        fsdp=1,
        per_device=16,
        num_microbatches=1,
        num_parameters=GIB // 4,
        steps=10,
        pair=(1, 2),
        small=measured(7 * GIB),
        large=measured(9 * GIB, images=16),
        step=None,
        sampler=measured(GIB),
    )
    return Report(**defaults | fields)


def test_what_fits_follows_from_two_sizes():
    """5 GiB, 1 for a sum of gradients, and 2 of each image, of which 16 hold five."""
    found = report()
    assert found.total == (5 + 2 * 16) * GIB
    assert found.fits is False
    assert found.largest == 5
    assert report(target=target(memory=17 * GIB)).largest == 6
    assert report(target=target(memory=17 * GIB), num_microbatches=2).largest == 5
    assert found.needed == 4  # of 4 images: 5 + 1 + 8
    assert report(per_device=5).fits is True
    assert report(target=target(memory=4 * GIB)).needed is None
    assert report(num_microbatches=2).total == (5 + 1 + 2 * 8) * GIB
    assert report(target=target()).fits is None


def test_what_a_measured_step_needs_for_its_parts_decides_what_fits():
    """5 GiB, 2 of each of four images, and 3 that only the whole step shows."""
    found = report(num_microbatches=4, step=measured(16 * GIB))
    assert found.accumulation(4) == 3 * GIB and found.accumulation(1) == 0
    assert found.largest == 4
    assert report(num_microbatches=1, step=measured(9 * GIB)).accumulation(2) == GIB


def test_a_step_that_is_one_of_the_two_sizes_is_shown_once():
    small, large = measured(1, seconds=61), measured(2, seconds=62)
    found = report(small=small, large=large, step=large)
    assert "compiled in 1:01, 1:02)" in tables.text(found)
    found = report(small=small, large=large, step=measured(3, seconds=63))
    assert "compiled in 1:01, 1:02, 1:03)" in tables.text(found)


def test_the_advice_names_the_knobs_that_are_left():
    config = get_config()
    text = tables.advice(report(), config)
    for knob in ("num_microbatches=4", "remat=blocks", "dtype=bfloat16", "fsdp"):
        assert knob in text
    config.unet.update(remat="blocks", dtype="bfloat16")
    none = report(fsdp=8, target=target(memory=4 * GIB))
    assert "mesh.gather=block" in tables.advice(none, config)
    config.mesh.gather = "block"
    text = tables.advice(none, config)
    assert "smaller network" in text and "num_microbatches" not in text
    wide = report(per_device=1, sampler=measured(17 * GIB))
    assert "sampling.batch_size" in tables.advice(wide, config)


def test_the_slowest_limit_decides_the_speed():
    work = Work(images=12, flops=3e12, traffic=4e12, sent=6e9)
    chip = Chip(memory=1, flops=1e12, bandwidth=2e12, links=1e9)
    fast = roofline(work, chip)
    assert fast["limit"] == "links" and fast["images_per_second"] == 2
    slow = roofline(work, dataclasses.replace(chip, links=1e12))
    assert slow["limit"] == "arithmetic" and slow["images_per_second"] == 4


def test_work_is_that_of_all_microbatches_and_of_all_sampling_steps():
    """Of what is sent only the step itself knows: parts may be added up first."""
    sends = [collectives.Collective("all-reduce", "f32", 1, 1.0, n) for n in (3.0, 5.0)]
    large = measured(9 * GIB, 16, flops=2.0, traffic=4.0, collectives=(sends[0],))
    step = measured(9 * GIB, 128, flops=1.0, traffic=1.0, collectives=(sends[1],))
    sampler = measured(GIB, 40, flops=6.0, traffic=7.0)
    found = report(large=large, num_microbatches=8, step=step, sampler=sampler)
    assert found.work == Work(16, 8 * 2.0, 8 * 4.0, 5.0)
    assert dataclasses.replace(found, step=None).work.sent == 3.0
    assert dataclasses.replace(found, num_microbatches=16).counted is found.small
    assert found.sampler_work == Work(5, 10 * 6.0, 10 * 7.0, 0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mt_diffusion" / "preflight"


def test_a_compiled_program_is_looked_at_once(cache, monkeypatch):
    x = jax.ShapeDtypeStruct((8,), jnp.float32)
    one = program.Program("one", jax.jit(jnp.sin).lower(x), 1, {"parameters": 0})
    other = dataclasses.replace(one, lowered=jax.jit(jnp.cos).lower(x))
    quick = dataclasses.replace(target(), quick=True)
    first = measure.measure(one, target())
    assert measure.measure(other, quick).flops == first.flops
    seen = []
    look = lambda p, *_: seen.append(p) or first  # noqa: E731
    monkeypatch.setattr(measure, "compile_and_look", look)
    assert measure.measure(one, target()) == first and not seen
    measure.measure(other, target())
    measure.measure(one, dataclasses.replace(target(), name="another"))
    assert len(seen) == 2
    monkeypatch.setenv("XLA_FLAGS", "--another")
    measure.measure(one, target())
    assert len(seen) == 3
    for _ in range(2):
        measure.measure(one, quick)
    assert len(seen) == 4


@dataclasses.dataclass(frozen=True)
class StandIn:
    """In place of a lowered program."""

    text: str

    def as_text(self):
        return self.text


@pytest.fixture
def stand_ins(cache, monkeypatch):
    """Programs that need 4 MiB, and 1 MiB for each image at a time; their parts."""
    parts_seen = []

    def lower_training(config, mesh, images, parts):
        parts_seen.append(parts)
        return program.Program("step", StandIn(f"{images} {parts}"), images, {})

    def lower_sampling(config, mesh):
        return program.Program("sampler", StandIn("8 1"), 8, {})

    def look(lowered, num_devices, options):
        images, parts = map(int, lowered.lowered.text.split())
        total = (4 + images / num_devices / parts) * 2**20
        fields = dict(held={}, flops=images / num_devices, traffic=1.0)
        return Measurement(lowered.name, images, True, total, **fields)

    monkeypatch.setattr(program, "lower_training", lower_training)
    monkeypatch.setattr(program, "lower_sampling", lower_sampling)
    monkeypatch.setattr(measure, "compile_and_look", look)
    found = target(memory=64 * 2**20, links=1.0)
    monkeypatch.setattr(topology, "find", lambda name: found)
    return parts_seen


def test_a_step_that_fits_is_compiled_and_written_down(stand_ins, tmp_path, capsys):
    config, out = get_config(), tmp_path / "out" / "found.json"
    preflight.preflight(config, "v5e-16", (), out)
    found = json.loads(out.read_text())
    assert found["fits"] and found["is_compiled"]
    assert found["total"] == (4 + 16) * 2**20
    assert found["flops_per_image"] == 1
    assert found["bytes_per_image"] == 2**20
    assert ": fits" in capsys.readouterr().out
    assert stand_ins == [1, 1]  # of 8 images and of 16, which are the step's own


def test_a_step_that_does_not_fit_ends_with_the_knob_that_helps(stand_ins, tmp_path):
    config, out = get_config(), tmp_path / "found.json"
    config.train.batch_size = 128 * NUM_DEVICES
    with pytest.raises(UserError, match=r"num_microbatches=4\)") as error:
        preflight.preflight(config, "v5e-16", (2, 4), out)
    assert json.loads(out.read_text())["is_compiled"] is False
    assert "remat=blocks" in str(error.value)
    config.train.num_microbatches = 4
    preflight.preflight(config, "v5e-16", (2, 4), None)
    assert stand_ins == [1, 1, 1, 1, 4]


@pytest.mark.parametrize(
    "memory, taken", [(64, "none"), (17, "pointwise"), (11, "blocks"), (3, "blocks")]
)
def test_the_fastest_way_that_fits_is_taken(
    memory, taken, cache, monkeypatch, tmp_path, capsys
):
    """Ways that keep 1, 3/4 and 1/4 MiB of an image, at 1, 2 and 3 operations."""
    ways = {"none": (1.0, 1.0), "pointwise": (0.75, 2.0), "blocks": (0.25, 3.0)}

    def lower_training(config, mesh, images, parts):
        text = f"{config.unet.remat} {images} {parts}"
        return program.Program("step", StandIn(text), images, {})

    def look(lowered, num_devices, options):
        way, images, parts = lowered.lowered.text.split()
        kept, flops = ways[way]
        each = int(images) / num_devices / int(parts)
        fields = dict(held={}, flops=flops * each, traffic=0.0)
        total = (2 + kept * each) * 2**20
        return Measurement(lowered.name, int(images), True, total, **fields)

    monkeypatch.setattr(program, "lower_training", lower_training)
    sampler = program.Program("sampler", StandIn("none 8 8"), 8, {})
    monkeypatch.setattr(program, "lower_sampling", lambda *_: sampler)
    monkeypatch.setattr(measure, "compile_and_look", look)
    found = target(memory=memory * 2**20, links=1.0)
    monkeypatch.setattr(topology, "find", lambda name: found)
    config, out = get_config(), tmp_path / "found.json"
    ends = pytest.raises(UserError) if memory == 3 else contextlib.nullcontext()
    with ends:
        preflight.preflight(config, "v5e-16", (), out, all_remat=True)
    told = json.loads(out.read_text())
    assert told["total"] == (2 + 16 * ways[taken][0]) * 2**20
    said = capsys.readouterr().out
    assert f"taken: --config.unet.remat={taken}" in said
    assert said.count("does not fit") == {64: 0, 17: 1, 11: 2, 3: 3}[memory]
    assert config.unet.remat == "none"


def test_what_can_not_be_looked_at_is_refused(stand_ins):
    config = get_config()
    for wrong in ((2,), (4, 4), (0, 1), (1.5, 2), (1, 2, 3)):
        with pytest.raises(UserError, match="--microbatches"):
            preflight.preflight(config, "v5e-16", wrong, None)
    config.train.batch_size += 1
    with pytest.raises(UserError, match="multiple"):
        preflight.preflight(config, "v5e-16", (), None)
    assert stand_ins == []


def test_data_that_tfds_describes_need_not_be_here(monkeypatch, tmp_path):
    features = {"label": types.SimpleNamespace(names=["cat", "dog"])}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features),
        data_path=tmp_path / "none",
        data_dir=tmp_path,
    )
    monkeypatch.setattr(tfds, "find_builder", lambda data: builder)
    config = image_transition.get_config("imagenet64")
    config.modalities.update(image_label.get_config("imagenet64").modalities)
    for state in config.presence.values():
        state.label = "unread"
    resolved = program.resolve(config)
    assert resolved.modalities.label.class_names == ("cat", "dog")
    config.data.vectors = "vectors.npz"  # of which nothing is known
    with pytest.raises(UserError, match="download"):
        program.resolve(config)
    config.data.update(vectors="", source="folder", path=str(tmp_path / "none"))
    with pytest.raises(UserError, match="no folder"):
        program.resolve(config)


def test_the_sampler_of_a_config_is_lowered_for_all_devices():
    config = program.resolve(get_config())
    found = program.lower_sampling(config, sharding.make_mesh(1))
    assert found.images == NUM_DEVICES
    assert "while" in found.lowered.as_text()


def test_attention_is_that_of_the_devices_that_are_compiled_for(monkeypatch):
    """An NVIDIA machine that plans for TPUs has a kernel that they have not."""
    asked = []
    monkeypatch.setattr(attention, "takes_cudnn", lambda _, d: bool(asked.append(d)))
    config, mesh = (
        program.resolve(get_config()),
        sharding.make_mesh(1, jax.devices()[4:]),
    )
    program.lower_training(config, mesh, mesh.size, 1)
    assert asked.pop() is jax.devices()[4]  # after parameters, whose shapes are alike
    asked.clear()
    program.lower_sampling(config, mesh)
    assert asked.pop() is jax.devices()[4]


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5),
        ("the total memory required for HLO temporaries (512.00M) exceeds", 0.5),
        ("something else", None),
    ],
)
def test_a_refusal_tells_what_is_needed(message, size):
    assert measure.parse_refusal(message) == (size and size * GIB)


def test_topologies_by_name(monkeypatch):
    asked = []

    def get(name, platform, **options):
        asked.append((name, options))
        if name == "v5e:3x5":
            raise RuntimeError("INVALID_ARGUMENT: not divisible")
        if name == "v6e:4x4":
            raise RuntimeError("JAX TPU support not installed; cannot generate")
        return topologies.TopologyDescription(jax.devices())

    monkeypatch.setattr(topologies, "get_topology_desc", get)
    with pytest.raises(UserError, match="limits"):
        topology.find("v4-32")  # made of CPUs here
    assert asked == [("v4:2x2x4", {"chip_config_name": "megacore"})]
    with pytest.raises(UserError, match="v99-3 names no slice.*v5e-16"):
        topology.find("v99-3")
    assert len(asked) == 1
    with pytest.raises(UserError, match="v5e:3x5.*v5e-16"):
        topology.find("v5e:3x5")
    with pytest.raises(UserError, match="pip install"):
        topology.find("v6e-16")
    with pytest.raises(UserError, match="limits"):
        topology.find("v5litepod-16")  # as Cloud calls a v5e
    assert asked[-1] == ("v5e:4x4", {})
    assert topology.find("").devices == jax.devices()
    sizes = {name: shape for name, shape in topology.SLICES.items()}
    for name, shape in sizes.items():
        chips = int(name.split("-")[1]) // (2 if name.startswith("v4") else 1)
        assert np.prod([int(n) for n in shape.split(":")[1].split("x")]) == chips
