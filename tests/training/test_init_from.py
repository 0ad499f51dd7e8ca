"""A new run that starts from trained parameters: a workdir's, or guided-diffusion's."""

import functools
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import image_label, masked_image
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.parallel import sharding
from mt_diffusion.training import init_from, loop
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state, new_state

KEY = 5


class Source:
    """Noisy images of ten classes."""

    class_names = [str(i) for i in range(10)]

    def __init__(self, config):
        size = config.data.image_size
        self.shape = (size, size, config.data.channels)

    def __len__(self):
        return 20

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(256, size=self.shape, dtype=np.uint8)
        return {"image": image, "label": i % 10}


def resolved(config):
    return experiments.resolve(config.lock(), Source(config))


def add_masked(config, **fields):
    """Another modality, which drifts in all states that there are."""
    config.modalities.seen = masked_image.masked_image(config) | fields
    for state in config.presence.values():
        state.seen = "read"


def tiny(**unet):
    config = image_label.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.unet.update(model_channels=8, num_groups=4, **unet)
    return config


def shapes_of(config):
    experiment = experiments.build(config)
    return jax.eval_shape(lambda: init_params(jax.random.key(KEY), experiment))


def open_run(config, workdir):
    """What the training loop opens."""
    experiment, optimizer = experiments.build(config), build_optimizer(config)
    abstract = abstract_state(experiment, optimizer, sharding.make_mesh())
    key = jax.random.key(KEY)
    init = functools.partial(new_state, key, experiment, optimizer, abstract)
    is_new = not Checkpoints(workdir).steps
    return loop.open_run(config, workdir, is_new, init, abstract)


def write_run(workdir, config):
    """A run's checkpoint of step 7 with drawn parameters, averaged ones; the latter."""
    rng, shapes = np.random.default_rng(0), shapes_of(config)
    draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    params, averages = (jax.tree.map(draw, shapes) for _ in range(2))
    checkpoints = Checkpoints(workdir, keep=1)
    state = {"step": jnp.asarray(7), "params": params, "ema_params": averages}
    checkpoints.save(7, state, config)
    checkpoints.close()
    return averages


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, averaged parameters) of a trained run of `tiny`."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, write_run(workdir, resolved(tiny()))


def continued(config, origin):
    config = config.unlock()
    config.init_from = str(origin)
    return resolved(config)


# From a workdir


def test_a_new_run_begins_with_averages_and_resumes_without_them(run, tmp_path):
    workdir, averages = tmp_path / "new", run[1]
    source = shutil.copytree(run[0], tmp_path / "source")
    config = continued(tiny(), source)
    with open_run(config, workdir) as (checkpoints, state):
        begins_with(state, averages)
        moved = state.replace(step=state.step + 1)
        checkpoints.save(1, moved.saved, config)
    shutil.rmtree(source)
    with open_run(config, workdir) as (_, state):
        assert int(state.step) == 1
        jax.tree.map(np.testing.assert_array_equal, state.params, moved.params)


def begins_with(state, averages):
    """Parameters and averages are those, each with buffers of its own."""
    assert int(state.step) == 0
    leaves = zip(
        *map(jax.tree.leaves, (state.params, state.ema_params, averages)), strict=True
    )
    for param, average, expected in leaves:
        np.testing.assert_array_equal(param, expected)
        np.testing.assert_array_equal(average, expected)
        assert param.sharding.is_fully_replicated and len(param.devices()) == 8
        buffers = [
            shard.data.unsafe_buffer_pointer()
            for shard in (*param.addressable_shards, *average.addressable_shards)
        ]
        assert len(set(buffers)) == 16  # the step donates both trees


def test_parameters_of_another_head_stay_as_initialised(run, capsys):
    config = tiny()
    config.modalities.label.head_kind = "E"
    config = continued(config, run[0])
    loaded = init_from.load(config, shapes_of(config))
    lines = capsys.readouterr().out.splitlines()
    assert "step 7, averaged" in lines[0] and len(lines) == 6
    assert "loaded: evidence_label: 352 in 1 arrays" in lines[1]  # (10 + 1) x 32
    assert "loaded: unet: " in lines[2]
    assert "new, as initialised: heads_label: " in lines[3] and "more)" in lines[3]
    assert "unused: heads_label: 634 in 6 arrays" in lines[4]  # 16 + 288 + 330
    assert "differs: config.modalities.label.head_kind: 'M' there, 'E'" in lines[5]
    averages = flatten_dict(run[1])
    assert loaded.keys() == {p for p in averages if p[1] != "heads_label"}
    for path, value in loaded.items():
        np.testing.assert_array_equal(value, averages[path])

    class State(types.SimpleNamespace):
        replace = staticmethod(lambda **parts: types.SimpleNamespace(**parts))

    twos = jax.tree.map(lambda x: np.full(x.shape, 2.0, x.dtype), shapes_of(config))
    own = jax.device_put(twos)
    state = init_from.begin(State(params=own, ema_params=own), loaded)
    for path, value in flatten_dict(state.params).items():
        np.testing.assert_array_equal(value, loaded.get(path, 2.0 + 0 * value))


def test_a_modality_is_added_to_a_trained_network(run, capsys):
    config = tiny()
    add_masked(config, conditions=False)
    config = continued(config, run[0])
    loaded = init_from.load(config, shapes_of(config))
    assert loaded.keys() == flatten_dict(run[1]).keys()
    out = capsys.readouterr().out
    assert "new, as initialised: heads_seen" in out and "unused: none" in out


@pytest.mark.parametrize(
    "unet, words",
    [
        ({"model_channels": 16}, "unet.model_channels .8 there, 16 now"),
        ({"learn_variance": True}, "unet.out.out_2.bias.*unet.learn_variance .False"),
    ],
)
def test_a_network_of_other_widths_is_refused(run, unet, words):
    config = tiny()
    config.unet.update(unet)
    config = continued(config, run[0])
    with pytest.raises(UserError, match=f"does not fit.*{words}"):
        init_from.load(config, shapes_of(config))


def test_what_shapes_do_not_show_is_said(run, capsys):
    config = tiny()
    config.unet.num_heads = 1
    config.diffusion.schedule = "linear"
    config.modalities.label.class_names = ["zero", *Source.class_names[1:]]
    add_masked(config, conditions=False)
    config = continued(config, run[0])
    init_from.load(config, shapes_of(config))
    lines = capsys.readouterr().out.splitlines()
    differs = [line.split("config.")[1] for line in lines if "differs:" in line]
    measured = [
        line for line in differs if line.startswith("modalities.label.measured")
    ]
    assert len(measured) == 3  # with what drifts now: sources, means, covariance
    differs = [line for line in differs if line not in measured]
    assert differs[0] == "diffusion.schedule: 'cosine' there, 'linear' now"
    assert differs[1].startswith("modalities.label.class_names: ['0', '1'")
    assert differs[2] == "modalities.label.heads.E.num_heads: 2 there, 1 now"
    assert differs[3] == "unet.num_heads: 2 there, 1 now" and len(differs) == 4


def test_the_same_classes_in_another_order_are_refused(run, monkeypatch):
    config = tiny()
    config.modalities.label.class_names = Source.class_names[::-1]
    monkeypatch.setattr(Source, "class_names", Source.class_names[::-1])
    config = continued(config, run[0])
    with pytest.raises(UserError, match="label.class_names .*another order .9, 8, 7"):
        init_from.load(config, shapes_of(config))


def test_planes_that_the_source_had_not_are_refused(run):
    config = tiny()
    add_masked(config)
    config = continued(config, run[0])
    words = r"input_blocks_0_0.kernel has shape \(3, 3, 1, 8\) there and \(3, 3, 3, 8\)"
    with pytest.raises(UserError, match=f"{words}.*modalities.seen.conditions"):
        init_from.load(config, shapes_of(config))


@pytest.mark.parametrize("exists", [True, False])
def test_a_source_without_checkpoint_leaves_no_trace(tmp_path, exists):
    source, workdir = tmp_path / "source", tmp_path / "new"
    if exists:
        source.mkdir()
    config = continued(tiny(), source)
    words = "has no checkpoint" if exists else "is no folder"
    refused = pytest.raises(UserError, match=f"init_from = .*source {words}")
    with refused, open_run(config, workdir):
        pass
    assert sorted(tmp_path.iterdir()) == [source] * exists


# From guided-diffusion


def reference(name):
    """(state dict, our config of the same U-Net, all arrays) of a reference."""
    data = dict(np.load(f"tests/data/adm_unet_{name}.npz"))
    state = {k[len("param/") :]: data[k] for k in data if k.startswith("param/")}
    theirs = json.loads(str(data["config"]))
    config = image_label.get_config("digits")
    config.data.update(image_size=theirs["image_size"], channels=3)
    config.unet.update({n: x for n, x in theirs.items() if n in config.unet})
    config.unet.update(num_groups=32, learn_variance=True)
    config.unet.channel_mult = tuple(theirs["channel_mult"])
    config.unet.attention_resolutions = tuple(theirs["attention_resolutions"])
    return state, config, data


def test_the_network_is_guided_diffusions(tmp_path, capsys):
    state, config, data = reference("updown")
    np.savez(tmp_path / "adm.npz", **state)
    config = continued(config, f"adm:{tmp_path}/adm.npz")
    shapes = shapes_of(config)
    loaded = init_from.load(config, shapes)
    nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params = unflatten_dict(flatten_dict(nothing) | loaded)
    network = experiments.build(config).network
    t = jnp.asarray(data["t"], jnp.int32) + 1  # ours counts from 1
    found = jax.jit(network.apply)(params, jnp.asarray(data["x"]), t, {}, {})
    np.testing.assert_allclose(found.out, data["out"][..., :3], atol=2e-5)
    np.testing.assert_allclose(found.v, data["out"][..., 3:], atol=2e-5)
    out = capsys.readouterr().out
    assert "new, as initialised: heads_label" in out and "unused: none" in out


def test_what_guided_diffusion_has_not_is_new_and_its_classes_unused(tmp_path, capsys):
    state, config, _ = reference("class")
    config.modalities.label.update(kind="label.SharedUNet", frame="read", energy=256.0)
    np.savez(tmp_path / "adm.npz", **state)
    config = continued(config, f"adm:{tmp_path}/adm.npz")
    shapes = shapes_of(config)
    loaded = init_from.load(config, shapes)
    new = flatten_dict(shapes).keys() - loaded.keys()
    blocks = {path[2] for path in new if path[1] == "unet"}
    assert blocks and all(block.endswith("_cross") for block in blocks)
    tokens = {"null_tokens_label", "token_places_label"}
    assert {p[1] for p in new} == {"unet", "heads_label"} | tokens
    assert len(loaded) == len(state) - 1
    out = capsys.readouterr().out
    assert "unused: unet: 1,280 in 1 arrays (unet.label_emb.weight)" in out


def without_learned_variance(config):
    config.unet.learn_variance = False


def wider(config):
    config.unet.model_channels = 64


def with_planes(config):
    add_masked(config)


def grey(config):
    config.data.channels = 1


@pytest.mark.parametrize(
    "change, words",
    [
        (without_learned_variance, r"out_2.bias has shape \(6,\) there and \(3,\)"),
        (wider, "input_blocks_0_0.*and [0-9]+ more.*config.unet.*model_channels"),
        (with_planes, r"input_blocks_0_0.*3, 3, 3, 32.*3, 3, 7, 32.*conditions=false"),
        (grey, r"\(3, 3, 1, 32\).*config.data.channels"),
    ],
)
def test_another_u_net_is_refused(tmp_path, change, words):
    state, config, _ = reference("updown")
    change(config)
    np.savez(tmp_path / "adm.npz", **state)
    config = continued(config, f"adm:{tmp_path}/adm.npz")
    with pytest.raises(UserError, match=f"adm.npz does not fit: .*{words}"):
        init_from.load(config, shapes_of(config))


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    config = continued(tiny(), f"adm:{tmp_path}/other.npz")
    with pytest.raises(UserError, match="nothing in .*other.npz .*unet.weights"):
        init_from.load(config, shapes_of(config))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_new_modality_whose_codes_change_others_is_told(seed):
    """`group`, which comes before `label` unless its seed does not."""
    saved = resolved(tiny())
    config = saved.copy_and_resolve_references().unlock()
    config.modalities.group = config.modalities.label.to_dict()
    config.modalities.group.codes.seed = seed
    for state in config.presence.values():
        state.group = state.label
    found = init_from.other_codes(config, saved)
    assert init_from.other_codes(saved, saved) == []
    if seed:
        assert found == []
    else:
        (line,) = found
        assert line.startswith("config.modalities.label: its codes,")
        assert line.endswith("codes.seed = 1 changes none)")
