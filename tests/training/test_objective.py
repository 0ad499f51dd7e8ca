import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from mt_diffusion.diffusion import aggregation, prediction, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import presence
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.protocol import Batch, Code, Evidence, Modality
from mt_diffusion.training import objective

B, SHAPE = 64, (4, 4, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Toy(Modality):
    """A modality whose value is its code, and whose nll is its distance from zero."""

    name: str = "x"
    shape: tuple = SHAPE
    drift: str = "ramp"
    loss_weight: float = 0.5
    absent: float = 0.25
    unread: float = 0.25
    conditions: bool = True
    frame: str = "none"
    guess: str = "mean"

    def nll(self, prediction, value):
        return jnp.mean((prediction - value) ** 2, axis=(1, 2, 3))


class Recorder:
    """Stands for the network: keeps what it was asked, predicts constants.

    params: {'out', 'v', 'x', 'log_variances'}, each zero, or none, where it lacks.
    """

    def apply(self, params, *args, method=None, rngs=None):
        if method == "encode":
            (values,) = args
            return {n: Code(latent=v) for n, v in values.items()}
        self.y_t, self.t, self.codes, self.known, evidence, self.deterministic = args
        self.rngs = rngs
        zeros = jnp.zeros_like(self.y_t)
        v = zeros + params["v"] if "v" in params else None
        heads = {n: zeros + params.get(n, 0.0) for n in {*self.codes, *evidence}}
        log_variances = params.get("log_variances", {})
        return Output(zeros + params.get("out", 0.0), v, heads, log_variances)


def make(modalities=(Toy(),), schedule_name="cosine", predicts="eps", **settings):
    """The objective of these modalities; settings: what differs in its config."""
    table = schedule.build(schedule_name, 1000)
    tilde = {
        m.name: aggregation.weights(m.name, "ramp", 3.0, table) for m in modalities
    }
    rates = {m.name: dict(absent=m.absent, unread=m.unread) for m in modalities}
    experiment = experiments.Experiment(
        shape=SHAPE,
        primary=types.SimpleNamespace(name="image"),
        denoiser=Denoiser(
            modalities=tuple(modalities),
            process=Process(table, aggregation.Aggregation(tilde)),
            network=Recorder(),
            prediction=prediction.build(predicts),
        ),
        presence=presence.build(
            {"independent": rates}, {m.name: m.conditions for m in modalities}
        ),
    )
    config = common.digits()
    config.objective.update(settings)
    return objective.build(config, experiment)


def evaluate(loss, batch, params=None, seed=0):
    """(loss, terms) of a whole batch, without dropout."""
    draws = loss.draw(jax.random.key(seed), batch)
    return loss.loss(params or {}, batch, draws, loss.counts(batch, draws), None)


def batch_of(available):
    values = {"x": jnp.full((B, *SHAPE), 0.5)}
    return Batch(jnp.zeros((B, *SHAPE)), values, {"x": available})


EVERYWHERE = batch_of(jnp.ones(B, bool))
ALONE = Batch(jnp.zeros((B, *SHAPE)), {}, {})


def test_terms_are_means_and_the_loss_is_their_weighted_sum():
    total, terms = evaluate(make(), batch_of(jnp.arange(B) < B // 2))
    # Zeros predict noise of unit variance, and values of 0.5, at known errors.
    assert float(terms["eps"]) == pytest.approx(1, abs=4 * np.sqrt(2 / (B * 16)))
    assert float(terms["x"]) == pytest.approx(0.25)
    assert float(total) == pytest.approx(float(terms["eps"]) + 0.5 * 0.25)
    assert float(terms["loss"]) == float(total)


def test_missing_values_are_masked_out_of_drift_and_loss():
    some, none = make((Toy(absent=0.0),)), make()
    present = jnp.arange(B) % 2 == 0
    batch = batch_of(present)
    broken = batch.replace(values={"x": batch.values["x"].at[1::2].set(1e6)})
    _, terms = evaluate(some, broken)
    assert float(terms["x"]) == pytest.approx(0.25)
    _, terms = evaluate(none, batch_of(jnp.zeros(B, bool)))
    assert float(terms["x"]) == 0
    # An example's noise does not depend on presence, so what differs is the drift.
    network, process = some.denoiser.network, some.denoiser.process
    drift = process.aggregation.drift(batch.values, network.t)
    expected = jnp.where(present[:, None, None, None], drift, 0.0)
    difference = network.y_t - none.denoiser.network.y_t
    np.testing.assert_allclose(difference, expected, atol=1e-5)


def test_dropped_modalities_keep_their_loss():
    loss = make((Toy(absent=1.0, unread=0.0),))
    _, terms = evaluate(loss, EVERYWHERE)
    assert float(terms["x"]) == pytest.approx(0.25)
    assert not np.any(loss.denoiser.network.known["x"])


def test_presence_has_its_rates_and_reading_implies_drifting():
    available = {"x": jnp.ones(20_000, bool)}
    drawn = make().presence.draw(jax.random.key(0), available)
    present, known = (bits["x"] for bits in drawn)
    error = 4 * np.sqrt(0.25 / 20_000)
    assert float(present.mean()) == pytest.approx(0.75, abs=error)
    assert float(known.mean()) == pytest.approx(0.5, abs=error)
    assert not np.any(known & ~present)


def test_the_presence_of_one_modality_tells_nothing_of_another():
    loss = make((Toy("x", absent=0.5), Toy("y", absent=0.5)))
    ones = jnp.ones(20_000, bool)
    batch = Batch(jnp.zeros((20_000, 1, 1, 1)), {}, {"x": ones, "y": ones})
    present = loss.draw(jax.random.key(0), batch).present
    both = float((present["x"] & present["y"]).mean())
    assert both == pytest.approx(0.25, abs=4 * np.sqrt(0.19 / 20_000))


def test_only_conditioning_modalities_are_read():
    loss = make((Toy(conditions=False),))
    evaluate(loss, EVERYWHERE)
    assert loss.denoiser.network.known == {}


def test_there_is_dropout_where_it_has_a_key():
    loss = make()
    draws = loss.draw(jax.random.key(0), EVERYWHERE)
    counts = loss.counts(EVERYWHERE, draws)
    network = loss.denoiser.network
    loss.loss({}, EVERYWHERE, draws, counts, None)
    assert network.deterministic and not network.rngs
    loss.loss({}, EVERYWHERE, draws, counts, jax.random.key(1))
    assert not network.deterministic and set(network.rngs) == {"dropout"}


# What is predicted


def expected_error(loss, draws, seen):
    """Mean of (n_t - 0)^2 with n_t = eps + d_t / sigma_t where `seen`, else eps."""
    process, t = loss.denoiser.process, np.asarray(draws.t)
    tilde = process.aggregation.alpha_tilde["x"][t]
    noise = np.sqrt(1 - process.schedule.alpha_bar[t])
    drift = 0.5 * np.asarray(seen) * tilde / noise
    target = np.asarray(draws.eps, np.float64) + drift.reshape(-1, 1, 1, 1)
    return np.mean(target**2)


@pytest.mark.parametrize("frame", ["none", "read"])
@pytest.mark.parametrize("predicts", ["aggregate", "eps"])
def test_the_aggregate_noise_has_the_drift_that_is_left_in_what_is_read(
    predicts, frame
):
    """Zeros are wrong by all of it; by the noise alone in the paper's form."""
    loss = make((Toy(frame=frame),), predicts=predicts)
    draws = loss.draw(jax.random.key(0), EVERYWHERE)
    assert np.any(draws.known["x"]) and np.any(draws.present["x"] & ~draws.known["x"])
    _, terms = evaluate(loss, EVERYWHERE)
    left = draws.present["x"]
    if frame == "read":
        left = left & ~draws.known["x"]
    in_target = left if predicts == "aggregate" else jnp.zeros_like(left)
    expected = expected_error(loss, draws, in_target)
    assert float(terms["eps"]) == pytest.approx(expected, rel=1e-5)
    # What the network was shown: z_t without the drift that it is told.
    process = loss.denoiser.process
    latents = {"x": 0.5 * jnp.ones((B, *SHAPE)) * left[:, None, None, None]}
    shown = process.diffuse(EVERYWHERE.z0, latents, draws.t, draws.eps)
    np.testing.assert_allclose(loss.denoiser.network.y_t, shown, atol=1e-5)


@pytest.mark.parametrize("frame", ["none", "read"])
@pytest.mark.parametrize("predicts", prediction.PREDICTIONS)
def test_the_right_output_has_no_error_and_its_variance_is_bounded_alike(
    predicts, frame
):
    """Where out says the true z_0, L_vlb is that of a mean without error."""
    loss = make((Toy(frame=frame),), predicts=predicts)
    draws = loss.draw(jax.random.key(0), EVERYWHERE)
    denoiser = loss.denoiser
    evaluate(loss, EVERYWHERE)  # for what the network is shown
    step, y_t = denoiser.process.adjacent(draws.t), denoiser.network.y_t
    out = denoiser.prediction.target(step, y_t, EVERYWHERE.z0, draws.eps)
    _, terms = evaluate(loss, EVERYWHERE, {"out": out, "v": -jnp.ones(())})
    assert float(terms["eps"]) == pytest.approx(0, abs=1e-10)
    inside = draws.t > 1  # at t = 1 it is a likelihood, and no divergence
    some = jax.tree.map(lambda x: x[inside], (EVERYWHERE, draws))
    params = {"out": out[inside], "v": -jnp.ones(())}
    _, terms = loss.loss(params, *some, loss.counts(*some), None)
    assert float(terms["variance"]) == pytest.approx(0, abs=1e-6)


# Modalities that are looked for by their code


class Evident(Toy):
    """A toy whose code tells nothing."""

    has_evidence = True

    def evidence(self, y_t, level):
        return Evidence(jnp.zeros_like(y_t), jnp.zeros((len(y_t), 1)), jnp.zeros(()))

    def combine(self, prediction, gain):
        return prediction


def evident(**rates):
    return Evident(frame="evidence", conditions=False, **rates)


def test_heads_learn_nothing_where_their_code_tells():
    """Present everywhere: only what is looked at bare counts."""
    present = evident(absent=0.0, unread=1.0)
    for every, term in ((0, 0.0), (4, 0.25)):
        loss = make((present,), bare_every=every)
        params = {"x": jnp.array(0.0)}
        grads, terms = jax.grad(
            lambda p, loss=loss: evaluate(loss, EVERYWHERE, p), has_aux=True
        )(params)
        assert float(terms["x"]) == pytest.approx(term)
        assert bool(grads["x"]) == (every > 0)


def test_bare_examples_are_of_the_image_alone():
    loss = make((evident(absent=0.0, unread=1.0),), bare_every=4)
    draws = loss.draw(jax.random.key(0), EVERYWHERE)
    loss.loss({}, EVERYWHERE, draws, loss.counts(EVERYWHERE, draws), None)
    network, bare = loss.denoiser.network, draws.bare.draws  # asked of these at last
    assert network.y_t.shape == (B // 4, *SHAPE) and network.codes == {}
    signal = loss.denoiser.process.schedule.alpha_bar[np.asarray(bare.t)]
    noise = np.sqrt(1 - signal)[:, None, None, None] * np.asarray(bare.eps)
    np.testing.assert_allclose(network.y_t, noise, rtol=1e-4, atol=1e-5)


def bare_of_three(bare_of):
    """Two modalities with evidence and one that is always read, looked at bare."""
    rates = dict(absent=0.0, unread=1.0)
    modalities = evident(**rates), evident(name="y", **rates)
    modalities += (Toy(name="read", absent=0.0, unread=0.0, frame="read"),)
    loss = make(modalities, bare_every=1, bare_of=bare_of)
    names = [m.name for m in modalities]
    value, there = jnp.full((B, *SHAPE), 0.5), jnp.arange(B) < B - 6
    batch = Batch(value, dict.fromkeys(names, value), dict.fromkeys(names, there))
    draws = loss.draw(jax.random.key(0), batch)
    loss.loss({}, batch, draws, loss.counts(batch, draws), None)
    return loss, batch, draws, loss.denoiser.network


def test_examples_are_bare_of_one_modality_in_turn_and_told_of_the_others():
    loss, batch, draws, network = bare_of_three("one")
    there, turn = np.arange(B) < B - 6, np.arange(B) % 2
    own = draws.bare.draws
    np.testing.assert_array_equal(own.present["x"], there & (turn == 1))
    np.testing.assert_array_equal(own.present["y"], there & (turn == 0))
    np.testing.assert_array_equal(own.present["read"], there)
    np.testing.assert_array_equal(network.known["read"], there)
    counts = loss.counts(batch, draws)
    assert [int(counts[name]) for name in ("x", "y")] == [B // 2 - 3] * 2


def test_examples_can_be_bare_of_all_modalities():
    loss, batch, draws, network = bare_of_three("all")
    assert network.codes == {} and network.known == {}
    assert int(loss.counts(batch, draws)["x"]) == B - 6


def test_means_of_heads_go_over_absent_and_bare_examples_that_have_a_value():
    available = jnp.arange(B) % 2 == 0
    loss = make((evident(absent=0.5, unread=0.5),), bare_every=4)
    batch = batch_of(available)
    draws = loss.draw(jax.random.key(0), batch)
    absent = int(jnp.sum(available & ~draws.present["x"]))
    bare = int(jnp.sum(draws.bare.batch.available["x"]))
    assert 0 < absent < B // 2 and bare == B // 4  # every fourth has a value
    assert int(loss.counts(batch, draws)["x"]) == absent + bare


@pytest.mark.parametrize("multiple, num", [(1, 16), (8, 16), (12, 24), (24, 24)])
def test_bare_examples_can_be_shared_out(multiple, num):
    """What fills them up counts for nothing."""
    loss = make((evident(),), bare_every=4)
    draws, alone = (loss.draw(jax.random.key(0), EVERYWHERE, m) for m in (multiple, 1))
    assert len(draws.bare.draws.t) == len(draws.bare.batch.z0) == num
    assert jnp.all((draws.bare.draws.t >= 1) & (draws.bare.draws.t <= 1000))
    assert int(jnp.sum(draws.bare.batch.available["x"])) == B // 4
    params = {"x": jnp.array(0.3)}
    found, expected = (
        loss.loss(params, EVERYWHERE, d, loss.counts(EVERYWHERE, d), None)
        for d in (draws, alone)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)


# Times


@pytest.mark.parametrize("times", objective.TIMES)
def test_times_are_uniform_on_1_to_T(times):
    """Over keys: those of one stratified batch are not independent."""
    draw = make(times=times).draw_times
    keys = jax.random.split(jax.random.key(0), 1000)
    t = np.asarray(jax.vmap(lambda key: draw(key, 4, 1000))(keys))
    assert t.min() >= 1 and t.max() <= 1000
    for place in t.T:  # wherever in the batch
        counts = np.histogram(place, bins=np.arange(0.5, 1001, 100))[0]
        assert np.abs(counts - 100).max() < 4.5 * np.sqrt(90)


@pytest.mark.parametrize("num_steps, num", [(12, 1), (12, 4), (12, 12), (1000, 250)])
def test_stratified_times_take_every_stratum_once(num_steps, num):
    keys = jax.random.split(jax.random.key(0), 2000)
    t = jax.vmap(lambda key: objective.stratified(key, num, num_steps))(keys)
    strata = np.sort((np.asarray(t) - 1) // (num_steps // num), axis=1)
    np.testing.assert_array_equal(strata, np.tile(np.arange(num), (2000, 1)))


@pytest.mark.parametrize("num_steps, num", [(10, 4), (10, 25), (1, 3)])
def test_stratified_times_are_even_where_nothing_divides(num_steps, num):
    """Every t as often as another, give or take one."""
    for seed in range(30):
        t = np.asarray(objective.stratified(jax.random.key(seed), num, num_steps))
        assert t.min() >= 1 and t.max() <= num_steps
        counts = np.bincount(t, minlength=num_steps + 1)[1:]
        assert set(counts) <= {num // num_steps, -(-num // num_steps)}


def test_unknown_times_are_refused():
    with pytest.raises(UserError, match="times is 'sobol'.*uniform.*stratified"):
        make(times="sobol")


# Terms and their weights


@pytest.mark.parametrize("predicts", prediction.PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_without_modalities_it_is_guided_diffusions_hybrid_loss(name, predicts):
    """The mean square error, and 0.001 L_vlb: at T = 1000 once the mean of its terms.

    Its reference has t = 1, 2, 251 and 1000. The same said as v has errors that are
    larger by 1 / alpha_bar_t, and the same bound.
    """
    data = dict(np.load(f"tests/data/adm_diffusion_{name}1000.npz"))
    loss = make((), name, predicts)
    batch = Batch(jnp.asarray(data["x0"]), {}, {})
    draws = objective.Draws(
        jnp.asarray(data["t_index"]) + 1, jnp.asarray(data["noise"]), {}, {}
    )
    out = data["eps_pred"].astype(np.float64)
    errors = np.mean((out - data["noise"]) ** 2, axis=(1, 2, 3))
    if predicts == "v":
        alpha_bar = schedule.build(name, 1000).alpha_bar[data["t_index"] + 1]
        errors = errors / alpha_bar
        signal, noise = (
            np.sqrt(x).reshape(-1, 1, 1, 1) for x in (alpha_bar, 1 - alpha_bar)
        )
        out = signal * out - noise * (data["x_t"] - noise * out) / signal
    out, mse = jnp.asarray(out, jnp.float32), errors.mean()
    bits = np.mean(data["vb_bits_per_dim"])

    def evaluated(**params):
        return loss.loss(params, batch, draws, loss.counts(batch, draws), None)

    total, terms = evaluated(out=out)
    np.testing.assert_allclose(
        loss.denoiser.network.y_t, data["x_t"], rtol=1e-5, atol=1e-5
    )
    assert set(terms) == {"eps", "loss"}
    assert float(total) == pytest.approx(mse, rel=1e-5)
    total, terms = evaluated(out=out, v=data["var_pred"])
    assert float(terms["variance"]) == pytest.approx(bits, rel=1e-4)
    assert float(total) == pytest.approx(mse + bits, rel=1e-4)


@pytest.mark.parametrize("predicts", prediction.PREDICTIONS)
def test_the_variance_term_trains_only_the_variance(predicts):
    def grads(weight):
        loss = make((), predicts=predicts, variance_weight=weight)
        params = {"out": jnp.array(0.1), "v": jnp.array(0.2)}
        return jax.grad(lambda p: evaluate(loss, ALONE, p)[0])(params)

    without, hybrid = grads(0.0), grads(0.001)
    assert float(without["v"]) == 0 and float(hybrid["v"]) != 0
    assert float(hybrid["out"]) == pytest.approx(float(without["out"]), rel=1e-6)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weights_are_those_of_each_examples_t_and_of_the_noise_error_alone(weighting):
    loss, plain = make(weighting=weighting), make()
    total, terms = evaluate(loss, EVERYWHERE)
    _, unweighted = evaluate(plain, EVERYWHERE)
    draws = loss.draw(jax.random.key(0), EVERYWHERE)
    error = np.mean(np.asarray(draws.eps) ** 2, axis=(1, 2, 3))  # that zeros make
    weighted = np.mean(loss.weights[np.asarray(draws.t)] * error)
    assert float(total) == pytest.approx(weighted + 0.5 * 0.25, rel=1e-5)
    assert abs(weighted - float(terms["eps"])) > 0.05
    assert {n: float(terms[n]) for n in ("eps", "x")} == {
        n: float(unweighted[n]) for n in ("eps", "x")
    }


# Tasks


TASKS = {"image": {"out", "v"}, "x": {"x", "log_variances"}}
EVERY_TASK = set.union(*TASKS.values())


@pytest.mark.parametrize(
    "tasks, trained",
    [*TASKS.items(), ("", EVERY_TASK), ("image,x", EVERY_TASK), (" x ", TASKS["x"])],
)
def test_only_what_the_tasks_name_is_trained(tasks, trained):
    loss = make(tasks=tasks)
    params = {n: jnp.array(0.2) for n in ("out", "v", "x")}
    params |= {"log_variances": {"x": jnp.array(0.2)}}
    grads, terms = jax.grad(lambda p: evaluate(loss, EVERYWHERE, p), has_aux=True)(
        params
    )
    found = {n: float(optax.tree.norm(g)) for n, g in grads.items()}
    assert {n for n, norm in found.items() if norm} == trained
    _, of_all = evaluate(make(), EVERYWHERE, params)
    for name in ("eps", "variance", "x"):  # all are looked at
        assert float(terms[name]) == float(of_all[name])


def test_unknown_tasks_are_refused():
    words = r"tasks names \['labels'\].*image, x"
    with pytest.raises(UserError, match=words):
        make(tasks="image,labels")


# Learned balance


def balanced(s, batch=EVERYWHERE):
    params = {"log_variances": {"x": s}}
    return evaluate(make(), batch, params)[0]


def test_a_learned_balance_starts_as_the_fixed_one():
    fixed, _ = evaluate(make(), EVERYWHERE)
    assert float(balanced(jnp.array(0.0))) == float(fixed)


def test_a_learned_log_variance_is_drawn_to_the_log_of_its_term():
    """Kendall et al. 2018: exp(s) = nll where lambda (exp(-s) nll + s) is least."""
    grad = jax.jit(jax.value_and_grad(balanced))
    least, slope = grad(jnp.log(0.25))  # the nll of every value
    assert float(slope) == pytest.approx(0, abs=1e-6)
    for offset in (-0.5, 0.5):
        value, slope = grad(jnp.log(0.25) + offset)
        assert value > least and np.sign(slope) == np.sign(offset)
        rise = 0.5 * (np.exp(-offset) + offset - 1)  # in closed form
        assert float(value - least) == pytest.approx(rise, rel=1e-4)


def test_a_batch_without_values_leaves_the_log_variance_alone():
    none = batch_of(jnp.zeros(B, bool))
    value, slope = jax.value_and_grad(balanced)(jnp.array(0.7), none)
    assert float(slope) == 0
    assert float(value) == float(balanced(jnp.array(0.0), none))


# Parts of a batch


def test_parts_with_the_counts_of_the_whole_add_up_to_it():
    """Of 64 examples 20 have a value: 16, 4 and 0 and 0 in the parts."""
    loss, batch = make(weighting="p2"), batch_of(jnp.arange(B) < 20)
    params = {"v": jnp.array(0.3), "log_variances": {"x": jnp.array(0.4)}}
    draws = loss.draw(jax.random.key(0), batch)
    counts = loss.counts(batch, draws)
    assert {n: int(c) for n, c in counts.items()} == {"image": B, "x": 20}
    whole = loss.loss(params, batch, draws, counts, None)
    parts = []
    for i in range(0, B, 16):
        part = jax.tree.map(lambda x, i=i: x[i : i + 16], (batch, draws))
        parts.append(loss.loss(params, *part, counts, None))
    summed = jax.tree.map(lambda *found: sum(found), *parts)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5),
        summed,
        whole,
    )


def test_what_is_asked_at_last_is_weighed_by_how_clean_z_t_is():
    """Each example's own t weighs its nll; a missing one's does not count."""
    toys = (Toy(guess="absent"), Toy(name="y", guess="mean"))
    loss = make(toys, last_power=3.0)
    values = jnp.arange(B * 16, dtype=jnp.float32).reshape(B, *SHAPE) / (B * 16)
    there = jnp.arange(B) % 3 > 0
    batch = Batch(
        jnp.zeros((B, *SHAPE)), {"x": values, "y": values}, {"x": there, "y": there}
    )
    _, terms = evaluate(loss, batch)
    t = np.asarray(loss.denoiser.network.t)
    alpha_bar = loss.denoiser.process.schedule.alpha_bar
    weights = alpha_bar**3 / np.mean(alpha_bar[1:] ** 3)
    nll = np.mean(np.asarray(values) ** 2, axis=(1, 2, 3))[np.asarray(there)]
    weighed = weights[t][np.asarray(there)] * nll
    assert float(terms["x"]) == pytest.approx(weighed.mean(), rel=1e-5)
    assert float(terms["y"]) == pytest.approx(nll.mean(), rel=1e-5)
