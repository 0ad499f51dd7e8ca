"""A model whose likelihood is known: everything linear, everything Gaussian.

z_0 and x are jointly Gaussian, the code is a linear map of x, and the network is affine
in z_t. Then all of q and all of p_theta are Gaussian, and every term of a bound is a
quadratic, whose expectation a few points give exactly (an unscented transform).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.diffusion import aggregation, bound, likelihood, prediction, schedule
from mt_diffusion.diffusion.bound import Belief, Reading
from mt_diffusion.diffusion.process import Process

SHAPE, D, M = (2, 2, 1), 4, 2
I, O = np.eye(D), np.zeros  # noqa: E741
rng = np.random.default_rng(0)
CODE = rng.normal(size=(D, M))
_mix = rng.normal(size=(D + M, D + M)) / 2
DATA = _mix @ _mix.T + 0.1 * np.eye(D + M)  # covariance of (z_0, x)


@dataclasses.dataclass
class Affine:
    """A network, tables over t: eps = K (z_t, x) + k, x^ = J z_t + j, variances.

    eps is the noise of z_t without the drift of x^, or of x where x is known.
    head: covariance of p(x | z_t). K reads x in the columns after z_t's.
    """

    K: np.ndarray
    k: np.ndarray
    variance: np.ndarray
    J: np.ndarray
    j: np.ndarray
    head: np.ndarray


def make_process(num_steps, scale=2.0):
    table = schedule.linear(num_steps)
    tilde = aggregation.weights("x", "ramp", scale, table)
    return Process(table, aggregation.Aggregation({"x": tilde}))


def step_weights(process):
    """w_t, from the accumulated ones."""
    tilde, alpha = process.aggregation.alpha_tilde["x"], process.schedule.alpha
    return np.append(0, tilde[1:] / np.sqrt(alpha[1:]) - tilde[:-1])


def gain(target, seen, cov):
    """The best linear prediction of target @ y from seen @ y, and what it leaves."""
    best = np.linalg.solve(seen @ cov @ seen.T, seen @ cov @ target.T).T
    left = target - best @ seen
    return best, left @ cov @ left.T


def moments(process, t):
    """z_{t-1}, z_t and its noise as rows over (z_0, x, two noises), and their cov."""
    alpha, a_bar = process.schedule.alpha, process.schedule.alpha_bar
    tilde, w = process.aggregation.alpha_tilde["x"], step_weights(process)
    z0, x, n, step_noise = np.split(np.eye(D + M + 2 * D), [D, D + M, 2 * D + M])
    before = np.sqrt(a_bar[t - 1]) * z0 + tilde[t - 1] * CODE @ x
    before += np.sqrt(1 - a_bar[t - 1]) * n
    z_t = np.sqrt(alpha[t]) * (before + w[t] * CODE @ x)
    z_t += np.sqrt(1 - alpha[t]) * step_noise
    clean = np.sqrt(a_bar[t]) * z0 + tilde[t] * CODE @ x
    eps = (z_t - clean) / np.sqrt(1 - a_bar[t])
    cov = np.eye(D + M + 2 * D)
    cov[: D + M, : D + M] = DATA
    return before, z_t, eps, x, cov


def optimum(process, reads_x):
    """The network that knows E[eps | z_t], E[x | z_t] and the exact variances."""
    fields = {name: [] for name in ("K", "variance", "J", "head")}
    for t in range(1, process.schedule.num_steps + 1):
        before, z_t, eps, x, cov = moments(process, t)
        seen = np.vstack([z_t, x]) if reads_x else z_t
        K, _ = gain(eps, seen, cov)
        J, head = gain(x, z_t, cov)
        _, left = gain(before, seen, cov)
        K = np.hstack([K, O((D, D + M - K.shape[1]))])
        for name, value in zip(fields, (K, np.diag(left), J, head), strict=True):
            fields[name].append(value)
    tables = {n: np.stack([O(v[0].shape), *v]) for n, v in fields.items()}
    zeros = O((process.schedule.num_steps + 1, D))
    return Affine(**tables, k=zeros, j=zeros[:, :M])


def forgotten(process):
    """What no chain of z alone can know: I(z_0; x | z_1) + sum_t>1 I(z_t; x | z_{t-1}).

    q shares one x among all of its steps; p_theta guesses it anew at each.
    """
    before, z_t, _, x, cov = moments(process, 1)
    told = np.vstack([z_t, x])
    pairs = [(gain(before, z_t, cov), gain(before, told, cov))]
    for t in range(2, process.schedule.num_steps + 1):
        before, z_t, _, x, cov = moments(process, t)
        told = np.vstack([before, x])
        pairs.append((gain(z_t, before, cov), gain(z_t, told, cov)))
    return sum(entropy(a) - entropy(b) for (_, a), (_, b) in pairs)


def arbitrary(num_steps, seed):
    """A network that knows nothing."""
    draw = np.random.default_rng(seed).normal
    head = draw(size=(num_steps + 1, M, M))
    return Affine(
        K=draw(size=(num_steps + 1, D, D + M)) / 2,
        k=draw(size=(num_steps + 1, D)),
        variance=np.exp(draw(size=(num_steps + 1, D)) - 1),
        J=draw(size=(num_steps + 1, M, D)) / 2,
        j=draw(size=(num_steps + 1, M)),
        head=head @ head.transpose(0, 2, 1) + 0.1 * np.eye(M),
    )


def frame(z_t):
    """Some f_t, in which nothing is special."""
    return 0.3 * jnp.sin(3 * z_t) - 0.2


def said(predicts, step, z_t, codes, eps):
    """The output of a network that means this eps, and reads z_t - frame(z_t)."""
    at = lambda table: table.reshape(-1, 1, 1, 1)  # noqa: E731
    signal, noise = at(step.signal_t), at(step.noise_t)
    drift = at(step.drift_t["x"]) * codes["x"]
    z0 = (z_t - drift - noise * eps) / signal
    aggregate = eps + (drift - frame(z_t)) / noise
    return {"eps": eps, "aggregate": aggregate, "v": signal * aggregate - noise * z0}[
        predicts
    ]


def reader(process, network, informed, x, predicts="eps", held=False):
    """`read` of a network that sees z_t alone, and one that is told x [B, M].

    predicts: as what both say their eps. held: whether the first is told x as well,
    for it has drawn it.
    """
    meant = prediction.build(predicts)

    def read(z_t, t):
        step, flat = process.adjacent(t), z_t.reshape(-1, D)
        at = lambda table: jnp.asarray(table)[t]  # noqa: E731
        mean = jnp.einsum("bmd,bd->bm", at(network.J), flat) + at(network.j)

        def reading(network, x, code):
            seen = jnp.concatenate([flat, x], axis=-1)
            eps = jnp.einsum("bde,be->bd", at(network.K), seen) + at(network.k)
            low, high = step.log_variance_min, step.log_variance_max
            place = jnp.log(at(network.variance)) - low[:, None]
            v = 2 * place / (high - low)[:, None] - 1
            out = said(predicts, step, z_t, code, eps.reshape(z_t.shape))
            u_t = step.to_comoving(z_t, code)
            z0 = meant.z0(step, z_t - frame(z_t), u_t, out)
            return Reading(z0, v.reshape(z_t.shape), code)

        nll = 0.5 * jnp.linalg.slogdet(2 * jnp.pi * at(network.head))[1]
        off = (x - mean)[..., None]
        square = jnp.linalg.solve(at(network.head), off) * off
        return Belief(
            reading(network, x, encode(x))
            if held
            else reading(network, jnp.zeros_like(x), encode(mean)),
            reading(informed, x, encode(x)),
            {"x": nll + 0.5 * square.sum(axis=(1, 2))},
        )

    return read


def encode(x):
    return {"x": (x @ jnp.asarray(CODE).T).reshape(-1, *SHAPE)}


def expected(process, network, informed=None, predicts="eps", held=False):
    """All terms, their exact expectations over data and noise, from bound.terms."""
    cov = np.eye(2 * D + M)
    cov[: D + M, : D + M] = DATA
    root = np.sqrt(len(cov)) * np.linalg.cholesky(cov).T
    z0, x, noise = np.split(np.vstack([root, -root]), [D, D + M], axis=1)
    z0, noise = (jnp.asarray(a.reshape(-1, *SHAPE)) for a in (z0, noise))
    x = jnp.asarray(x)
    read = reader(process, network, informed or network, x, predicts, held)

    def at(t):
        t = jnp.full(len(z0), t)
        return bound.terms(
            t, noise, z0, encode(x), read, process, likelihood.gaussian, lambda z0: z0
        )

    times = jnp.arange(1, process.schedule.num_steps + 1)
    every = jax.jit(lambda: jax.lax.map(at, times))()
    found = bound.collect(bound.prior_kl(process, z0, encode(x)), every)
    if held:
        found = found._replace(nll=jax.tree.map(lambda v: v[-1], every.nll))
    return jax.tree.map(lambda v: v.mean(keepdims=True), found)


def entropy(cov):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * cov)[1]


def head_nats(process, network, t):
    """E[-log p_theta(x | z_t)]."""
    _, z_t, _, x, cov = moments(process, t)
    off = x - network.J[t] @ z_t
    square = off @ cov @ off.T + np.outer(network.j[t], network.j[t])
    nats = np.linalg.slogdet(2 * np.pi * network.head[t])[1]
    return 0.5 * (nats + np.trace(np.linalg.solve(network.head[t], square)))


def path_kl(process, network, x_from="each"):
    """KL between q and p_theta as two Gaussians over (z_0, .., z_T, x).

    Straight from the paper: q from the definition of a forward step (eq. 3), p_theta
    from the second form of the posterior mean with the network's own eps and x^.
    x_from: where p_theta has its x. 'each': every step guesses it, and it is decoded
    at t = 1. 'first': drawn from p(x | z_T), then every step knows it. 'data': as
    'first', but drawn from its true law, which leaves the KL of z given x.
    """
    alpha, a_bar = process.schedule.alpha, process.schedule.alpha_bar
    w, num = step_weights(process), process.schedule.num_steps
    size = (num + 1) * D + M
    block = [slice(t * D, (t + 1) * D) for t in range(num + 1)]
    x = slice(size - M, size)

    q = O((size, size))  # variables from independent unit noises
    data = np.r_[:D, size - M : size]
    q[np.ix_(data, data)] = np.linalg.cholesky(DATA)
    for t in range(1, num + 1):
        q[block[t]] = np.sqrt(alpha[t]) * (q[block[t - 1]] + w[t] * CODE @ q[x])
        q[block[t], block[t]] += np.sqrt(1 - alpha[t]) * I

    p, mean = O((size, size)), O(size)

    def decode(t):
        p[x] = network.J[t] @ p[block[t]]
        mean[x] = network.J[t] @ mean[block[t]] + network.j[t]
        p[x, x] += np.linalg.cholesky(network.head[t])

    p[block[num], block[num]] = I
    if x_from == "first":
        decode(num)
    if x_from == "data":
        p[x, x] = np.linalg.cholesky(DATA[D:, D:])
    for t in range(num, 0, -1):
        K, K_x, k = network.K[t][:, :D], network.K[t][:, D:], network.k[t]
        scale = (1 - alpha[t]) / np.sqrt(1 - a_bar[t])
        push = (I - scale * K) / np.sqrt(alpha[t])
        shift = -scale * k / np.sqrt(alpha[t])
        if x_from == "each":
            push = push - w[t] * CODE @ network.J[t]
            shift = shift - w[t] * CODE @ network.j[t]
            told = O((D, M))
        else:
            told = -scale * K_x / np.sqrt(alpha[t]) - w[t] * CODE
        p[block[t - 1]] = push @ p[block[t]] + told @ p[x]
        mean[block[t - 1]] = push @ mean[block[t]] + told @ mean[x] + shift
        p[block[t - 1], block[t - 1]] += np.diag(np.sqrt(network.variance[t]))
    if x_from == "each":
        decode(1)

    ratio = np.linalg.solve(p, q)
    log_det = np.linalg.slogdet(ratio)[1]
    distance = np.linalg.solve(p, mean)
    return 0.5 * (np.sum(ratio**2) + distance @ distance - size) - log_det
