"""Bounds against guided-diffusion, and against models with an exact likelihood."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import (
    aggregation,
    bound,
    likelihood,
    prediction,
    sampler,
    schedule,
)
from mt_diffusion.diffusion.bound import Belief, Reading
from mt_diffusion.diffusion.process import Process
from tests.diffusion.linear_gaussian import (
    CODE,
    DATA,
    SHAPE,
    D,
    M,
    arbitrary,
    encode,
    entropy,
    expected,
    forgotten,
    head_nats,
    make_process,
    optimum,
    path_kl,
    reader,
    step_weights,
)

H_X = entropy(DATA[D:, D:])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("predicts", prediction.PREDICTIONS)
def test_all_bounds_are_kls_between_whole_paths(seed, predicts, x64):
    """For any network, right or wrong: the bound is KL(q || p_theta) + H(z_0, x).

    The paper's counts the heads at every t, the conditional one is given x. Whatever
    the network predicts, they are those of the z_0 that it means.
    """
    num = 30
    process, network, informed = (
        make_process(num),
        *(arbitrary(num, s) for s in (seed, 9)),
    )
    found = expected(process, network, informed, predicts)
    joint = path_kl(process, network) + entropy(DATA)
    assert found.joint_nll_bound.item() == pytest.approx(joint, rel=1e-9)
    heads = [head_nats(process, network, t) for t in range(1, num + 1)]
    assert found.nll["x"].item() == pytest.approx(heads[0], rel=1e-9)
    elbo = joint + sum(heads[1:])
    assert found.paper_elbo.item() == pytest.approx(elbo, rel=1e-9)
    conditional = path_kl(process, informed, "data") + entropy(DATA) - H_X
    assert found.conditional_bound.item() == pytest.approx(conditional, rel=1e-9)


@pytest.mark.parametrize("reads_x", [False, True])
@pytest.mark.parametrize("predicts", prediction.PREDICTIONS)
def test_what_is_held_is_drawn_at_T_and_then_given(predicts, reads_x, x64):
    """The bound is the KL to z_T, then x from p(x | z_T), then the chain that knows x.

    By the chain rule it is the conditional one of the same network, and the head at T.
    """
    process, network = make_process(30), arbitrary(30, 3)
    if not reads_x:
        network.K[:, :, D:] = 0
    found = expected(process, network, network, predicts, held=True)
    exact = path_kl(process, network, "first") + entropy(DATA)
    assert found.joint_nll_bound.item() == pytest.approx(exact, rel=1e-9)
    told = found.conditional_bound.item() + head_nats(process, network, 30)
    assert found.joint_nll_bound.item() == pytest.approx(told, rel=1e-9)


def test_held_forgets_nothing(x64):
    """The optimum's gap closes, where guesses at each step leave what they forget."""
    process = make_process(1000)
    alone, informed = (optimum(process, reads_x=r) for r in (False, True))
    heads = {name: getattr(alone, name) for name in ("J", "j", "head")}
    told = dataclasses.replace(informed, **heads)
    held = expected(process, told, held=True).joint_nll_bound.item()
    guessed = expected(process, alone).joint_nll_bound.item()
    print(
        "gap in nats, held:", held - entropy(DATA), "guessed:", guessed - entropy(DATA)
    )
    assert 0 < held - entropy(DATA) < 0.02 < guessed - held


def test_the_joint_bound_closes_in_on_the_exact_likelihood(x64):
    """Up to what p_theta forgets of x between steps, which vanishes with the drift."""
    gaps, rest = {}, {}
    for scale in (0.0, 2.0):
        for num_steps in (100, 300, 1000):
            process = make_process(num_steps, scale)
            network = optimum(process, reads_x=False)
            found = expected(process, network).joint_nll_bound.item()
            gaps[scale, num_steps] = found - entropy(DATA)
            rest[scale, num_steps] = gaps[scale, num_steps] - forgotten(process)
        assert rest[scale, 100] > 2 * rest[scale, 300] > 4 * rest[scale, 1000] > 0
        assert rest[scale, 1000] < 0.02
    print("gap of joint_nll_bound in nats, and without what is forgotten:", gaps, rest)
    assert gaps[0.0, 1000] < 0.02
    assert gaps[2.0, 100] > gaps[2.0, 300] > gaps[2.0, 1000]


def test_the_conditional_bound_closes_in_on_the_exact_likelihood(x64):
    """X: a network that reads x, and U: one that does not, which leaves a gap."""
    exact = entropy(DATA) - entropy(DATA[D:, D:])
    gaps = {}
    for num_steps in (100, 300, 1000):
        process = make_process(num_steps)
        alone, informed = (optimum(process, reads_x=r) for r in (False, True))
        gaps["X", num_steps], gaps["U", num_steps] = (
            expected(process, alone, n).conditional_bound.item() - exact
            for n in (informed, alone)
        )
    print("gap of conditional_bound in nats:", gaps)
    assert all(gap > 0 for gap in gaps.values())
    assert gaps["X", 100] > 2 * gaps["X", 300] > 4 * gaps["X", 1000]
    assert gaps["X", 1000] < 0.02
    assert gaps["U", 1000] > gaps["X", 1000]


@pytest.mark.parametrize("times", [slice(1, 2), slice(1, None)])
def test_a_wrong_head_costs_what_it_must(times, x64):
    """A shift of x^ by delta, at t = 1 or everywhere; the optimum is unbiased there.

    Each mean of z_{t-1} moves by w_t E(delta), and that of x by delta.
    """
    process, delta = make_process(50), np.array([0.7, -0.4])
    right = optimum(process, reads_x=False)
    j = right.j.copy()
    j[times] = delta
    wrong = dataclasses.replace(right, j=j)
    before, after = expected(process, right), expected(process, wrong)

    push = (step_weights(process)[times, None] * (CODE @ delta)) ** 2
    drift = 0.5 * np.sum(push / right.variance[times])
    heads = [0.5 * delta @ np.linalg.solve(c, delta) for c in right.head[times]]
    raised = after.joint_nll_bound - before.joint_nll_bound
    assert raised.item() == pytest.approx(drift + heads[0], rel=1e-9)
    raised = after.paper_elbo - before.paper_elbo
    assert raised.item() == pytest.approx(drift + sum(heads), rel=1e-9)
    raised = after.conditional_bound - before.conditional_bound
    assert raised.item() == pytest.approx(0, abs=1e-9)


def draw_data(num, seed):
    root = np.linalg.cholesky(DATA)
    draws = np.random.default_rng(seed).normal(size=(num, D + M)) @ root.T
    return jnp.asarray(draws[:, :D].reshape(-1, *SHAPE)), jnp.asarray(draws[:, D:])


@pytest.mark.parametrize("num_times, held", [(29, False), (5, False), (5, True)])
def test_estimates_are_unbiased(num_times, held, x64):
    """All t, or one of each stratum: within the standard error of the expectation."""
    num = 4000
    process, network = make_process(30), arbitrary(30, 0)
    z0, x = draw_data(num, seed=1)
    found = jax.jit(bound.estimate, static_argnums=(3, 4, 5, 6, 7, 8))(
        jax.random.split(jax.random.key(0), num),
        z0,
        encode(x),
        reader(process, network, arbitrary(30, 1), x, held=held),
        process,
        num_times,
        likelihood.gaussian,
        sampler.unclipped,
        ("x",) if held else (),
    )
    exact = expected(process, network, arbitrary(30, 1), held=held)
    names = ("L0", "L1", "L3", "image", "paper_elbo", "conditional_bound")
    for name in (*names, "joint_nll_bound"):
        values = np.asarray(getattr(found, name))
        error = values.std() / np.sqrt(num)
        assert values.mean() == pytest.approx(
            getattr(exact, name).item(), abs=4 * error
        )


@pytest.mark.parametrize("num_steps, num", [(1000, 999), (1000, 7), (9, 1), (1, 0)])
def test_strata_divide_all_times(num_steps, num):
    first, size = bound.strata(num_steps, num)
    times = [t for a, n in zip(first, size, strict=True) for t in range(a, a + n)]
    assert times == list(range(1, num_steps + 1))
    assert len(size) == 1 + num and size[0] == 1
    assert num == 0 or np.ptp(size[1:]) <= 1


def adm(name):
    return dict(np.load(f"tests/data/adm_diffusion_{name}1000.npz"))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_variational_bound_is_guided_diffusions(name, drift):
    """In the co-moving frame, with any known drift, it is the bound of plain DDPM."""
    reference, table = adm(name), schedule.build(name, 1000)
    tilde = {"x": aggregation.weights("x", "ramp", drift, table)}
    process = Process(table, aggregation.Aggregation(tilde))
    t = jnp.asarray(reference["t_index"] + 1)
    x_t, x0, eps, v = (
        jnp.asarray(reference[n]) for n in ("x_t", "x0", "eps_pred", "var_pred")
    )
    codes = {"x": jnp.full_like(x0, 0.3)}
    step = process.adjacent(t)
    z_t = step.from_comoving(x_t, {}) + process.aggregation.drift(codes, t)
    predicted = step.z0_from_eps(x_t, eps)
    found = bound.variational_bound(step, z_t, x0, predicted, v, codes)
    np.testing.assert_allclose(
        found, reference["vb_bits_per_dim"], rtol=1e-4 if drift else 1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_prior_term_is_guided_diffusions(name, x64):
    reference = adm(name)
    process = Process(schedule.build(name, 1000), aggregation.Aggregation({}))
    x0 = jnp.asarray(reference["x0"], float)
    found = bound.bits_per_dim(bound.prior_kl(process, x0, {}), x0.shape[1:])
    np.testing.assert_allclose(
        found, reference["prior_bits_per_dim"], rtol=1e-4, atol=1e-7
    )


def tanh_cdf(x):
    return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def guided_diffusion(betas, x0, noise, network):
    """Its prior_bpd, vb terms for t = T..1, in nats of one example; plain numpy."""
    a_bar = np.cumprod(1 - betas)
    previous = np.append(1, a_bar[:-1])
    variance = betas * (1 - previous) / (1 - a_bar)
    clipped = np.log(np.append(variance[1], variance[1:]))
    prior = 0.5 * (-1 - np.log(1 - a_bar[-1]) + (1 - a_bar[-1]) + a_bar[-1] * x0**2)
    total = prior.sum()
    for i in range(len(betas)):
        x_t = np.sqrt(a_bar[i]) * x0 + np.sqrt(1 - a_bar[i]) * noise[i]
        eps, v = network(x_t, i + 1, np)
        x0_pred = (x_t - np.sqrt(1 - a_bar[i]) * eps) / np.sqrt(a_bar[i])
        c1 = betas[i] * np.sqrt(previous[i]) / (1 - a_bar[i])
        c2 = (1 - previous[i]) * np.sqrt(1 - betas[i]) / (1 - a_bar[i])
        fraction = (v + 1) / 2
        log_var = fraction * np.log(betas[i]) + (1 - fraction) * clipped[i]
        mean, true = c1 * x0_pred + c2 * x_t, c1 * x0 + c2 * x_t
        if i > 0:
            ratio = np.exp(clipped[i] - log_var)
            distance = (true - mean) ** 2 * np.exp(-log_var)
            term = 0.5 * (-1 + log_var - clipped[i] + ratio + distance)
        else:
            upper = tanh_cdf((x0 - mean + 1 / 255) * np.exp(-log_var / 2))
            lower = tanh_cdf((x0 - mean - 1 / 255) * np.exp(-log_var / 2))
            upper, lower = (
                np.where(x0 > 0.999, 1, upper),
                np.where(x0 < -0.999, 0, lower),
            )
            term = -np.log(np.maximum(upper - lower, 1e-12))
        total += term.sum()
    return total


def fake_network(z_t, t, np):
    """Noise that is about right, as the signal is below 1; some variance."""
    return 0.9 * z_t + 0.1 * np.sin(9 * z_t + t / 99), np.cos(z_t + t)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_without_modalities_it_is_guided_diffusions_bound(name, x64):
    table = schedule.build(name, 1000)
    process = Process(table, aggregation.Aggregation({}))
    levels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE))
    levels[0, 0, 0, 0], levels[1, 1, 1, 0] = 0, 255
    z0 = levels / 127.5 - 1
    keys = jax.random.split(jax.random.key(0), 3)

    def read(z_t, t):
        eps, v = fake_network(z_t, t[:, None, None, None], jnp)
        reading = Reading(process.adjacent(t).z0_from_eps(z_t, eps), v, {})
        return Belief(reading, reading, {})

    found = jax.jit(
        lambda: bound.estimate(
            keys,
            jnp.asarray(z0),
            {},
            read,
            process,
            999,
            likelihood.discretised,
            lambda z0: z0,
        )
    )()
    draw = lambda key, t: jax.random.normal(jax.random.fold_in(key, t), SHAPE, float)  # noqa: E731
    every = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))
    noise = np.asarray(every(keys, jnp.arange(1, 1001)))
    betas = 1 - table.alpha[1:]
    brute = [
        guided_diffusion(betas, *a, fake_network) for a in zip(z0, noise, strict=True)
    ]
    for total in (found.joint_nll_bound, found.paper_elbo, found.conditional_bound):
        np.testing.assert_allclose(total, brute, rtol=1e-8)
