"""Two labels and two vectors in one model, all of them read: none passes for another.

8x8 digits have no room for their codes; enlarged to 16x16 they have.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special

from configs import common, image_label, image_representation
from mt_diffusion import trust
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.modalities import codes
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel import sharding
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state, new_state, with_tables
from mt_diffusion.training.step import build_step

LABELS, VECTORS = ("cluster", "label"), ("pca", "rows")
NAMES = LABELS + VECTORS
K, D = 10, 16  # classes of each label, numbers of each vector
TOKEN = 8  # so that a vector has two


def rows(images):
    """A frozen encoder: the mean of each row of pixels."""
    return images.mean(axis=(2, 3))


def read_as_tokens(fields, family):
    """A modality's fields; dicts of their own, for configs keep what is shared."""
    return fields | {
        "codes": common.codes() | {"family": family},
        "tokens": common.tokens(TOKEN),
        "conditions": True,
    }


def config_of(size=16, family="highpass"):
    config = common.get_config("smoke")
    config.data.image_size = size
    config.unet.update(model_channels=8, num_groups=4, channel_mult=(1,))
    config.unet.attention_resolutions = ()  # but the middle block attends
    label, vector = image_label.label, image_representation.representation
    clustered = dict(num_clusters=K, vectors="pixels", centroids=())
    modalities = {
        "label": label(config),
        "cluster": label(config) | clustered | {"kind": "cluster.Cluster"},
        "pca": vector(config),
        "rows": vector(config)
        | {"vectors": "tests.modalities.test_four_modalities:rows"},
    }
    config.modalities = {
        name: read_as_tokens(fields, family) for name, fields in modalities.items()
    }
    shares = {"read": 0.4, "unread": 0.4, "absent": 0.2}
    config.presence = {
        state: {"share": share} | dict.fromkeys(NAMES, state)
        for state, share in shares.items()
    }
    return config


class Few(sources.Digits):
    """Some of the digits, for all of them take seconds."""

    def __init__(self, config):
        super().__init__(config.data, "train")

    def __len__(self):
        return 200


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def told(config):
    """As if resolved on data, of which only the sizes are known."""
    for name in LABELS:
        config.modalities[name].class_names = tuple(map(str, range(K)))
        config.modalities[name].frame = "none"
    for name in VECTORS:
        statistics = dict(vector_mean=(0.0,) * D, vector_std=(1.0,) * D)
        config.modalities[name].update(statistics | {"frame": "none"})
    return config


@pytest.fixture(scope="module")
def config():
    config = config_of()
    config.objective.bare_every = 0  # a program less
    return experiments.resolve(config, Few(config)).lock()


@pytest.fixture(scope="module")
def experiment(config):
    return experiments.build(config)


def units(experiment):
    """The codes of each as vectors of unit length, {name: [num, 256]}."""
    flat = {m.name: m.images.reshape(len(m.images), -1) for m in experiment.modalities}
    return {n: x / np.linalg.norm(x, axis=1, keepdims=True) for n, x in flat.items()}


def test_all_codes_are_orthogonal(experiment):
    found = np.concatenate([*units(experiment).values()])
    assert len(found) == 2 * K + 2 * D
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-6)


def test_no_modality_leaks_into_the_codes_of_another(config):
    """All may drift unread, so all are sources; the image alone is along the codes."""
    for name in NAMES:
        measured = config.modalities[name].measured
        assert set(measured.sources) == {""} | set(NAMES) - {name}
        covariance = np.abs(measured.covariance)
        assert covariance[0, 0] > 1e-4
        covariance[0, 0] = 0
        assert covariance.max() < 1e-8
        assert np.abs(measured.means[1:]).max() < 1e-5


# Evidence


@dataclasses.dataclass
class Recorder:
    """A network that keeps the evidence it is told."""

    modalities: tuple
    evidence: dict = None

    def apply(self, variables, y_t, t, codes, known, evidence, deterministic, rngs):
        self.evidence = evidence
        sizes = {m.name: len(m.images) for m in self.modalities}
        heads = {n: jnp.zeros((len(t), size)) for n, size in sizes.items()}
        return Output(0 * y_t, None, heads, {})


SPREAD, ABSENT = 0.4, 0.2  # of z_0 around its mean in each pixel; shares absent
SHARES = np.arange(1, K + 1) / np.arange(1, K + 1).sum()


def of_gaussian_images(config, experiment, mean):
    """The experiment whose z_0 ~ N(mean, SPREAD^2 I), which is all that leaks."""
    config = config.copy_and_resolve_references().unlock()
    for name, of_unit in units(experiment).items():
        config.modalities[name].measured = {
            "sources": ("",),
            "means": ((of_unit.astype(np.float64) @ mean).tolist(),),
            "covariance": ((SPREAD**2,),),
            "absent": ABSENT,
            "shares": SHARES.tolist(),
        }
    return experiments.build(config)


def hypotheses(experiment, drift):
    """What may have drifted, all at once: (which, log prior, mean, factors) of each.

    mean: [256], of the labels' codes. factors: [M, 256], of the vectors' variance.
    """
    images = {
        m.name: m.images.reshape(len(m.images), -1) for m in experiment.modalities
    }
    scaled = {name: drift[name] * x.astype(np.float64) for name, x in images.items()}
    prior = np.log([*((1 - ABSENT) * SHARES), ABSENT])
    of_vector = np.log([1 - ABSENT, ABSENT])
    for which in itertools.product(range(K + 1), range(K + 1), range(2), range(2)):
        seen = dict(zip(NAMES, which, strict=True))
        mean = sum(scaled[n][seen[n]] for n in LABELS if seen[n] < K)
        factors = [scaled[n] for n in VECTORS if not seen[n]]
        log_prior = sum(prior[seen[n]] for n in LABELS)
        log_prior += sum(of_vector[seen[n]] for n in VECTORS)
        yield seen, log_prior, mean, np.concatenate([np.zeros((0, 256)), *factors])


def by_brute_force(experiment, off, noise_variance, drift):
    """Posterior [B] of each hypothesis, and E[x | z_t, hypothesis] of each vector.

    off: z_t without the mean of its image, [B, 256]; densities are those of all of it.
    """
    known, logits, means, solvers = [], [], [], {}
    for seen, log_prior, mean, factors in hypotheses(experiment, drift):
        if len(factors) + 100 * seen["pca"] not in solvers:
            covariance = noise_variance * np.eye(256) + factors.T @ factors
            factor = scipy.linalg.cho_factor(covariance)
            determinant = 2 * np.log(np.diag(factor[0])).sum()
            inverse = scipy.linalg.cho_solve(factor, np.eye(256))
            solvers[len(factors) + 100 * seen["pca"]] = inverse, determinant
        inverse, determinant = solvers[len(factors) + 100 * seen["pca"]]
        rest = (off - mean) @ inverse
        square = np.sum(rest * (off - mean), axis=1)
        known.append(seen)
        logits.append(log_prior - (square + determinant) / 2)
        means.append(rest @ factors.T)
    return known, scipy.special.softmax(np.stack(logits), axis=0), means


def test_the_evidence_of_each_is_bayes_rule_with_all_others_in_z_t(
    x64, config, experiment
):
    rng, num, t = np.random.default_rng(0), 12, 990
    mean = rng.normal(0, 0.5, 256)
    experiment = of_gaussian_images(config, experiment, mean)
    alpha_bar = experiment.process.schedule.alpha_bar[t]
    drift = {n: a[t] for n, a in experiment.process.aggregation.alpha_tilde.items()}
    values = {n: np.eye(K)[rng.integers(K, size=num)] for n in LABELS}
    values |= {n: rng.standard_normal((num, D)) for n in VECTORS}
    off = np.sqrt(alpha_bar * SPREAD**2 + 1 - alpha_bar) * rng.standard_normal(
        (num, 256)
    )
    for m in experiment.modalities:
        latent = np.asarray(m.encode(jnp.asarray(values[m.name])).latent)
        here = rng.random((num, 1)) >= ABSENT
        off += drift[m.name] * here * latent.reshape(num, -1)

    model, network = experiment.denoiser, Recorder(experiment.modalities)
    model = Denoiser(model.modalities, model.process, network, model.prediction)
    z_t = (np.sqrt(alpha_bar) * mean + off).reshape(num, 16, 16, 1)

    @jax.jit
    def evidence(tables, z_t):
        model(tables, z_t, jnp.full(num, t), {}, {}, {})
        return network.evidence

    told = evidence(experiment.tables, jnp.asarray(z_t))
    variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
    known, posterior, means = by_brute_force(experiment, off, variance, drift)
    for name in LABELS:
        q = [posterior[[k[name] == i for k in known]].sum(axis=0) for i in range(K + 1)]
        np.testing.assert_allclose(told[name], np.stack(q, 1), atol=1e-5)
        assert np.any((np.max(q, axis=0) > 0.3) & (np.max(q, axis=0) < 0.9))
    for i, name in enumerate(VECTORS):
        there = [j for j, k in enumerate(known) if not k[name]]
        # pca's numbers come first where both are there.
        first = [D * (i and not known[j]["pca"]) for j in there]
        x = [means[j][:, f : f + D] for j, f in zip(there, first, strict=True)]
        expected = np.einsum("jb,jbd->bd", posterior[there], np.stack(x))
        found = np.asarray(told[name])
        np.testing.assert_allclose(found[:, :D], expected, atol=1e-5)
        absent = 1 - posterior[there].sum(axis=0)
        np.testing.assert_allclose(found[:, -1], absent, atol=1e-5)
        assert np.std(expected) > 0.1


# Tokens


FAR = 1e-3  # where rounding is 1e-6


def random_params(experiment):
    """Parameters none of which is zero, so that all passes the network."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes
    )


def predictor(experiment):
    """(params, {name: value} of all) -> what is predicted of one y_t."""
    y_t = jax.random.normal(jax.random.key(1), (1, 16, 16, 1))

    @jax.jit
    def predict(params, values):
        codes = experiment.network.apply(params, values, method="encode")
        known = {name: jnp.ones(1, bool) for name in NAMES}
        return experiment.network.apply(params, y_t, jnp.array([500]), codes, known).out

    return predict


def blocks_exchanged(modality, value):
    """The vector whose tokens are those of another, the other way round."""
    table = np.asarray(modality.as_tokens(jnp.eye(D))).reshape(D, D)  # orthogonal
    tokens = (value @ table).reshape(-1, 2, TOKEN)[:, ::-1].reshape(-1, D)
    return tokens @ table.T


def test_the_network_knows_whose_a_token_is_and_its_place(experiment):
    params, predict = random_params(experiment), predictor(experiment)
    one, two = jnp.eye(K)[1:2], jnp.eye(K)[2:3]
    drawn = np.random.default_rng(2).standard_normal((2, 1, D)).astype(np.float32)
    values = {"cluster": one, "label": two} | dict(zip(VECTORS, drawn, strict=True))
    swaps = [{"cluster": two, "label": one}, {"pca": drawn[1], "rows": drawn[0]}]
    turned = [
        {n: blocks_exchanged(experiment.variables[n], values[n])} for n in VECTORS
    ]
    before = predict(params, values)
    for changed in swaps + turned:
        assert np.abs(predict(params, values | changed) - before).max() > FAR

    # Without places the tokens of one vector are a set.
    places = {n: 0 * x for n, x in params["params"].items() if "token_places" in n}
    assert len(places) == len(NAMES)
    params = {"params": params["params"] | places}
    before = predict(params, values)
    for changed in turned:
        np.testing.assert_allclose(predict(params, values | changed), before, atol=1e-5)
    for changed in swaps:  # whose tables are others
        assert np.abs(predict(params, values | changed) - before).max() > FAR


# End to end


def test_without_room_it_is_said_which_modalities_need_how_much():
    words = (
        r"pca.codes: images of shape \(8, 8, 1\) have room for 28 .*'highpass', but 16 "
        r"of pca beside 10 of cluster, 10 of label make 36.*'white' \(room for 64\)"
    )
    with pytest.raises(UserError, match=words) as refused:
        experiments.build(told(config_of(size=8)))
    assert "\n" not in str(refused.value)
    found = units(experiments.build(told(config_of(size=8, family="white"))))
    found = np.concatenate([*found.values()])
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-6)


def test_tokens_of_sizes_that_differ_are_refused():
    config = told(config_of())
    config.modalities.rows.tokens.size = 4
    with pytest.raises(UserError, match="'pca': 8, 'rows': 4}; set one for all"):
        experiments.build(config)


def test_it_trains(config, experiment):
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    (batch,) = pipeline.training_batches(Few(config), preprocess, 8, 0)[:1]
    optimizer, mesh = build_optimizer(config), one_device()
    abstract = abstract_state(experiment, optimizer, mesh)
    start = new_state(jax.random.key(0), experiment, optimizer, abstract)
    state = with_tables(start, experiment, abstract)
    step = jax.jit(
        build_step(config, experiment, optimizer, mesh),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles sooner
    )
    for _ in range(3):
        state, terms = step(state, batch, jax.random.key(1))
        assert terms["skipped"] == 0
    first, last = (jax.device_get(s.params["params"]) for s in (start, state))
    for name in ("token_places", "null_tokens", "evidence", "heads"):
        for part in (f"{name}_{n}" for n in NAMES):
            before, after = first[part], last[part]
            moved = jax.tree.map(lambda a, b: np.any(a != b), before, after)
            assert all(jax.tree.leaves(moved)), part


def test_a_checkpoint_makes_the_same_codes(tmp_path, config, experiment, monkeypatch):
    monkeypatch.setattr(trust, "_trusted", {*trust._trusted, "tests"})
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, {"step": jnp.asarray(3)}, config)
    checkpoints.close()
    codes._make.cache_clear()
    again = experiments.build(Checkpoints(tmp_path).config(3))
    jax.tree.map(np.testing.assert_array_equal, again.tables, experiment.tables)
