"""Every modality keeps the contract of protocol.py, alone and in a config's network.

--modality=CONFIG.py[:PRESET] runs it for all modalities of a config of your own.
"""

import copy
import dataclasses
import functools
import pathlib
import re
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import image_label
from mt_diffusion.command import overrides
from mt_diffusion.data import pipeline, sources
from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.modalities.contract import check as contract
from mt_diffusion.modalities.kinds import Identity
from mt_diffusion.modalities.label import Codebook
from mt_diffusion.models.layers import PooledMLP
from mt_diffusion.protocol import Code, Known, Modality
from mt_diffusion.training import objective

LOOKED_AT, NUM = 200, 4  # examples, for some with a value; as many are enough
SMALL = dict(
    model_channels=8, channel_mult=(1,), attention_resolutions=(), num_groups=4
)
BUILT_IN = {  # a config, and what differs in its only modality
    "masked-X": ("masked_image", {}),
    "codebook-U": ("image_label", {}),
    "shared-label": (
        "image_label",
        {"kind": "label.SharedUNet", "frame": "read", "energy": 256.0},
    ),
    "label-E": ("image_label", {"head_kind": "E", "conditions": True}),
    "masked-U": ("masked_image", {"conditions": False}),
    "paired-X": ("image_transition", {}),
    "projection": ("image_representation", {}),
    "shared-vector": (
        "image_representation",
        {"kind": "representation.SharedUNet", "frame": "read", "energy": 4.0},
    ),
    "generator": (
        "image_representation",
        {
            "kind": "representation.Pretrained",
            "generator": "tests.modalities.test_contract:generate",
            "frame": "read",
        },
    ),
}
BUILT_IN |= {"text": ("text", {})}
IN_NETWORKS = list(BUILT_IN)[:4]  # planes, drift alone, shared U-Net, tokens


def generate(vectors):
    """A frozen generator: the vector, again and again."""
    return jnp.tile(vectors, (1, 4)).reshape(-1, 8, 8, 1)


def pytest_generate_tests(metafunc):
    """The settings: those built in, or the config that --modality names."""
    if "setting" in metafunc.fixturenames:
        own = metafunc.config.getoption("modality")
        alone = metafunc.function is test_modalities_keep_their_contract
        settings = [own] if own else (BUILT_IN if alone else IN_NETWORKS)
        metafunc.parametrize("setting", settings, scope="module")


@pytest.fixture(scope="module")
def parts(setting):
    """What a config describes, and its own data."""
    if setting not in BUILT_IN:
        return build(read(setting))
    file, changes = BUILT_IN[setting]
    config = read(f"configs/{file}.py")
    config.unet.update(SMALL)
    (fields,) = config.modalities.values()
    fields.update(changes)
    return build(config)


def read(path):
    return overrides.base_config(["", f"--config={path}"])


def build(config):
    config.objective.tasks = ""  # all, so that every head has a gradient
    experiments.check(config)
    source = sources.open_source(config.data, "train")
    experiment = experiments.build(experiments.resolve(config, source))
    return types.SimpleNamespace(
        experiment=experiment,
        source=source,
        loss=jax.jit(
            functools.partial(loss, objective.build(config, experiment)),
            compiler_options={"xla_backend_optimization_level": 0},  # compiles sooner
        ),
        params=noisy_params(experiment) | experiment.tables,
    )


def noisy_params(experiment):
    """Parameters none of which is zero, as an output layer's are at the start."""
    init = functools.partial(experiments.init_params, experiment=experiment)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype),
        jax.eval_shape(init, jax.random.key(0)),
    )


def loss(objective, params, batch, present):
    """Terms and gradients; present: of the only modality that drifts and is read."""
    draws = objective.draw(jax.random.key(2), batch)
    presence = {n: jnp.zeros_like(p) for n, p in draws.present.items()} | present
    draws = draws.replace(present=presence, known=presence)
    counts = objective.counts(batch, draws)

    def of_params(learned):
        variables = params | {"params": learned}
        return objective.loss(variables, batch, draws, counts, None)

    grads, terms = jax.grad(of_params, has_aux=True)(params["params"])
    return terms, {"params": grads}


def examples_with(modality, source):
    """Some examples of the data that have a value of this modality."""
    seen = (source[i] for i in range(min(len(source), LOOKED_AT)))
    rng = np.random.default_rng(0)
    found = [e for e in seen if modality.preprocess(e, rng) is not None]
    assert found, f"none of the first {LOOKED_AT} examples has a {modality.name}"
    return found[:NUM]


def batch_with(modality, parts):
    """A batch of these, repeated to an even number."""
    examples = examples_with(modality, parts.source) * 2
    experiment = parts.experiment
    one = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    rng = np.random.default_rng(0)
    batch = [one(example, rng) for example in examples]
    return jax.tree.map(lambda *x: jnp.stack(x), *batch)


def change(values, where):
    """Other values, far away, in those examples."""
    return jnp.where(over(where, values) > 0, 100 * values + 100, values)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), a, b)


# Each modality alone


def features_of(experiment):
    """Shapes of the blocks that heads read, without B."""
    planes = sum(m.num_planes for m in experiment.modalities)
    tokens = [m.token_shape for m in experiment.modalities if m.token_shape]
    *size, channels = experiment.shape
    x = jnp.zeros((1, *size, channels + planes))
    given = {"tokens": jnp.zeros((1, *tokens[0]))} if tokens else {}
    unet = experiment.network.unet.clone(parent=None)
    run = functools.partial(unet.init_with_output, jax.random.key(0), **given)
    (_, features), _ = jax.eval_shape(run, x, jnp.zeros(1))
    return {name: block.shape[1:] for name, block in features.items()}


def test_modalities_keep_their_contract(parts):
    for m in parts.experiment.modalities:
        examples = examples_with(m, parts.source)
        contract.check(m, examples, features_of(parts.experiment))


# In the network


def test_encoders_have_no_parameters(parts):
    names = {m.name for m in parts.experiment.modalities}
    prefixes = ("heads", "null_tokens", "null_planes", "log_variance", "evidence")
    prefixes += ("token_places",)  # of the network: whose tokens are, and where
    allowed = {f"{prefix}_{n}" for prefix in prefixes for n in names}
    assert parts.params["params"].keys() <= allowed | {"unet"}


def test_absent_values_add_nothing(parts):
    for m in parts.experiment.modalities:
        batch = batch_with(m, parts)
        everywhere = jnp.ones(len(batch.z0), bool)
        changed = change(batch.values[m.name], everywhere)
        others = batch.replace(values=batch.values | {m.name: changed})
        for present, is_same in ((~everywhere, True), (everywhere, False)):
            losses = [
                parts.loss(parts.params, b, {m.name: present})[0]["eps"]
                for b in (batch, others)
            ]
            assert np.isfinite(losses).all()
            assert np.allclose(*losses, 1e-5) == is_same, m.name


def test_unavailable_values_count_for_nothing(parts):
    for m in parts.experiment.modalities:
        batch = batch_with(m, parts)
        there = jnp.arange(len(batch.z0)) % 2 == 0
        batch = batch.replace(available=batch.available | {m.name: there})
        values = batch.values[m.name]
        placeholders = jnp.broadcast_to(jnp.asarray(m.placeholder()), values.shape)
        found = [
            parts.loss(
                parts.params,
                batch.replace(values=batch.values | {m.name: some}),
                {m.name: there},
            )
            for some in (
                jnp.where(over(there, values) > 0, values, placeholders),
                change(values, ~there),
            )
        ]
        close(*found)


def test_heads_learn(parts):
    for m in parts.experiment.modalities:
        batch = batch_with(m, parts)
        present = {m.name: jnp.ones(len(batch.z0), bool)}
        terms, grads = parts.loss(parts.params, batch, present)
        assert np.isfinite(jax.tree.leaves(terms)).all()
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        of_head = jax.tree.leaves(grads["params"][f"heads_{m.name}"])
        assert all(np.any(g) for g in of_head), m.name


# The contract can be broken


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quarters(Identity):
    """A sound modality: mean brightness of the image's four quarters, in [0, 1]."""

    def preprocess(self, example, rng):
        noisy = example["image"] / 255 + 0.01 * rng.random()
        quarters = noisy.reshape(2, 4, 2, 4).mean(axis=(1, 3))
        return quarters.reshape(4).astype(np.float32)

    def placeholder(self):
        return np.zeros(4, np.float32)

    def encode(self, value):
        latent = value.reshape(-1, 2, 2, 1).repeat(4, axis=1).repeat(4, axis=2)
        return Code(latent=latent, planes=latent)

    def head(self):
        return PooledMLP(4, 8)

    def nll(self, prediction, value):
        return jnp.mean((prediction - value) ** 2, axis=1)

    def log_likelihood(self, prediction, value):
        return -jnp.sum((prediction - value) ** 2, axis=1) / self.std**2

    def mean(self, prediction):
        return prediction

    def postprocess(self, value):
        return value

    def show(self, item):
        return str(item)


SOUND = Quarters


class Frozen(nn.Module):
    """A head that has parameters, and does not use them."""

    @nn.compact
    def __call__(self, features):
        return 0 * PooledMLP(4, 8)(features)


def changed_in_place(self, example, rng):
    example["image"] += 1
    return SOUND.placeholder(self)


BROKEN = {
    "nothing to preprocess": (dict(preprocess=lambda s, e, r: None), "has a value"),
    "preprocess is random": (
        dict(preprocess=lambda s, e, r: np.random.random(4).astype(np.float32)),
        "one seed",
    ),
    "preprocess changes": (dict(preprocess=changed_in_place), "changes its example"),
    "preprocess is double": (dict(preprocess=lambda s, e, r: np.ones(4)), "float32"),
    "preprocess is not finite": (
        dict(preprocess=lambda s, e, r: np.full(4, np.nan, np.float32)),
        "not finite",
    ),
    "preprocess needs a feature": (
        dict(preprocess=lambda s, e, r: np.full(4, e["label"], np.float32)),
        "raises KeyError",
    ),
    "placeholder of a shape": (
        dict(placeholder=lambda s: np.zeros(3, np.float32)),
        "one shape",
    ),
    "placeholder in double": (dict(placeholder=lambda s: np.zeros(4)), "float64"),
    "placeholder is not finite": (
        dict(placeholder=lambda s: np.full(4, np.nan, np.float32)),
        "not finite",
    ),
    "encode gives an array": (dict(encode=lambda s, v: v), "no Code"),
    "latent of a shape": (
        dict(encode=lambda s, v: Code(latent=v, planes=SOUND.encode(s, v).planes)),
        "its shape promises",
    ),
    "no latent, no tokens": (
        dict(encode=lambda s, v: Code(planes=SOUND.encode(s, v).planes)),
        "no latent, no tokens",
    ),
    "encode looks around": (
        dict(encode=lambda s, v: SOUND.encode(s, v - v.mean(axis=0, keepdims=True))),
        "encode of an example depends on the others",
    ),
    "encode is random": (
        dict(encode=lambda s, v: SOUND.encode(s, v + np.float32(np.random.random()))),
        "two codes",
    ),
    "encode is of numpy": (
        dict(encode=lambda s, v: SOUND.encode(s, jnp.asarray(np.sort(v)))),
        "raises TracerArrayConversionError",
    ),
    "tokens not given": (dict(token_shape=(2, 3)), "token_shape promises"),
    "planes not given": (dict(num_planes=2), "num_planes promises"),
    "nothing to read": (dict(num_planes=0), "conditions is True"),
    "head of a width": (dict(head=lambda s: PooledMLP(3, 8)), r"nll\(.*raises"),
    "head does not learn": (dict(head=lambda s: Frozen()), "are 0 for all"),
    "nll of the batch": (
        dict(nll=lambda s, p, v: jnp.mean((p - v) ** 2)),
        "nll of 3 examples is float32",
    ),
    "nll looks around": (
        dict(nll=lambda s, p, v: SOUND.nll(s, p, v) * jnp.mean(v)),
        "nll of an example depends on the others",
    ),
    "nll of a placeholder": (
        dict(nll=lambda s, p, v: SOUND.nll(s, p, v) / jnp.sum(v, axis=1)),
        "not finite",
    ),
    "nll is a likelihood": (
        dict(nll=lambda s, p, v: -SOUND.nll(s, p, v)),
        "-log_likelihood goes from",
    ),
    "log_likelihood of the batch": (
        dict(log_likelihood=lambda s, p, v: jnp.sum(p)),
        "log_likelihood of 3 examples is",
    ),
    "log_likelihood is none": (
        dict(log_likelihood=lambda s, p, v: SOUND.nll(s, p, v)),
        "-log_likelihood goes from",
    ),
    "no mean": (dict(mean=Modality.mean), "no method 'mean'"),
    "mean of a shape": (dict(mean=lambda s, p: p[:, :2]), "mean gives float32"),
    "mean looks around": (
        dict(mean=lambda s, p: p - jnp.mean(p)),
        "mean of an example depends on the others",
    ),
    "mean is another's": (dict(mean=lambda s, p: -p), "the square of encode"),
    "scale is no number": (dict(scale=float("nan")), "its scale is nan"),
    "no draw": (dict(draw=Modality.draw), "guess is 'coherent'.*no values"),
    "draw of a shape": (dict(draw=lambda s, k, p: p[:, :2]), "draw gives float32"),
    "draw is not finite": (
        dict(draw=lambda s, k, p: SOUND.draw(s, k, p) / 0),
        "a draw's code is not finite",
    ),
    "draw is random": (
        dict(draw=lambda s, k, p: SOUND.draw(s, k, p) + np.float32(np.random.random())),
        "draw gives two values of one key",
    ),
    "draw of one key": (
        dict(draw=lambda s, k, p: p + jax.random.normal(k[0], p.shape)),
        "draw of an example depends on the others",
    ),
    "draw is the mean": (dict(draw=lambda s, k, p: p), "the same of 8 keys"),
    "known without a mask": (
        dict(known=lambda s, v: Known(SOUND.encode(s, v).latent, v)),
        "a mask of one channel",
    ),
    "items are lost": (dict(postprocess=lambda s, v: v[:1]), "postprocess of 2"),
    "pictures are floats": (
        dict(show=lambda s, item: np.zeros((8, 8, 1))),
        "show gives float64",
    ),
    "pictures are flat": (
        dict(show=lambda s, item: np.zeros((8, 8), np.uint8)),
        "show gives uint8",
    ),
}


def check(cls):
    fields = dict(frame="read", guess="coherent", loss_weight=1.0)
    fields |= dict(drift="ramp", drift_scale=1.0, conditions=True, std=0.1)
    drawn = np.random.default_rng(0).integers(200, size=(2, 8, 8, 1))
    examples = [{"image": image.astype(np.uint8), "label": 1} for image in drawn]
    before = copy.deepcopy(examples)
    modality = cls(name="quarters", shape=(8, 8, 1), **fields)
    contract.check(modality, examples, {"mid": (4, 4, 16), "out": (8, 8, 8)})
    jax.tree.map(np.testing.assert_array_equal, before, examples)


def test_a_sound_modality_keeps_it():
    check(type("Sound", (SOUND,), {"num_planes": 1}))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_promise_is_found(what):
    overrides, words = BROKEN[what]
    broken = type("Broken", (SOUND,), {"num_planes": 1} | overrides)
    with pytest.raises(UserError, match=words):
        check(broken)


# That of evidence as well

READS = Codebook  # a sound modality that looks for its code in z_t


def at_drift_1(self, y_t, level):
    """It takes its code to be in z_t even where it can't be."""
    drifts = {name: jnp.ones_like(x) for name, x in level.drifts.items()}
    return READS.evidence(self, y_t, level._replace(drifts=drifts))


def found(**changes):
    """An `evidence` some of whose parts are others."""

    def evidence(self, y_t, level):
        sound = READS.evidence(self, y_t, level)
        return sound._replace(**{n: of(getattr(sound, n)) for n, of in changes.items()})

    return evidence


def encode_by_a_constant(self, value):
    codes = jnp.asarray(READS.images.func(self))
    return Code(latent=jnp.einsum("bk,khwc->bhwc", value, codes))


BROKEN_EVIDENCE = {
    "latent of a shape": (
        dict(evidence=found(latent=lambda x: x[:, :4])),
        r"evidence of 3 examples gives .*promise a latent \(8, 8, 1\)",
    ),
    "vector of a size": (dict(evidence_size=7), r"promise .* a vector \[7\]"),
    "gain of the batch": (
        dict(evidence=found(gain=lambda x: jnp.sum(x))),
        "a gain for each",
    ),
    "evidence is not finite": (
        dict(evidence=found(gain=lambda x: jnp.log(0 * x))),
        "evidence is not finite",
    ),
    "evidence looks around": (
        dict(evidence=lambda s, y, at: READS.evidence(s, y - y[:1], at)),
        "evidence of an example depends on the others",
    ),
    "evidence is random": (
        dict(
            evidence=lambda s, y, at: READS.evidence(
                s, y + np.random.normal(size=y.shape).astype(np.float32), at
            )
        ),
        "evidence finds something else under jax.jit",
    ),
    "evidence of nothing": (dict(evidence=at_drift_1), "what has no part in z_t"),
    "nothing is found": (
        dict(evidence=found(latent=lambda x: 0 * x)),
        "does not find a code 10000 times as strong",
    ),
    "certain of another": (
        dict(certain=lambda s, v, latent: READS.certain(s, v, 0 * latent)),
        "with the latent that it is told",
    ),
    "certain is another thing": (
        dict(certain=lambda s, v, latent: v),
        "certain of 3 examples gives",
    ),
    "combine is not finite": (
        dict(combine=lambda s, p, gain: p / 0),
        "combine gives what is not finite",
    ),
    "combine looks around": (
        dict(combine=lambda s, p, gain: p + gain - gain.mean()),
        "combine of an example depends on the others",
    ),
    "combine of a shape": (
        dict(combine=lambda s, p, gain: p[:, :1] + gain[:, :1]),
        "raises|mean gives",
    ),
    "tables that are none": (dict(tables=("class_names",)), "no finite array"),
    "tables that nothing reads": (
        dict(encode=encode_by_a_constant),
        "encode makes the same of other tables",
    ),
}


def check_evidence(cls):
    config = image_label.get_config()
    fields = config.modalities.label.to_dict() | {"class_names": tuple("abc")}
    del fields["kind"]
    modality = cls(name="label", shape=(8, 8, 1), **fields)
    image = np.zeros((8, 8, 1), np.uint8)
    examples = [{"image": image, "label": i} for i in (0, 2)]
    contract.check(modality, examples, {"mid": (4, 4, 16), "out": (8, 8, 8)})


def test_a_sound_modality_that_looks_for_its_code_keeps_it():
    """Before it has measured anything, too."""
    check_evidence(type("Sound", (READS,), {}))


@pytest.mark.parametrize("what", BROKEN_EVIDENCE)
def test_a_broken_promise_of_evidence_is_found(what):
    overrides, words = BROKEN_EVIDENCE[what]
    with pytest.raises(UserError, match=words):
        check_evidence(type("Broken", (READS,), overrides))


# The example of the documentation


def test_the_modality_of_the_documents_keeps_it(tmp_path, monkeypatch):
    text = pathlib.Path("docs/extending.md").read_text()
    _, _, section = text.partition("# A modality of your own")
    module, config = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]
    (tmp_path / "depth.py").write_text(module)
    (tmp_path / "depth_config.py").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "depth", raising=False)
    parts = build(read(tmp_path / "depth_config.py"))
    (depth,) = parts.experiment.modalities
    assert depth.name == "depth"
    maps = np.random.default_rng(0).integers(256, size=(3, *depth.shape))
    maps = maps.astype(np.uint8)
    np.testing.assert_array_equal(depth.postprocess(depth.take(maps)), maps)
    test_modalities_keep_their_contract(parts)
    test_absent_values_add_nothing(parts)
    test_unavailable_values_count_for_nothing(parts)
    test_heads_learn(parts)
