"""What a generated modality is taken to be along a walk, where p(x | z_t) is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion import protocol
from mt_diffusion.diffusion import aggregation, prediction, sampler, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import presence
from mt_diffusion.inference import denoising, generation
from mt_diffusion.modalities import guess
from mt_diffusion.modalities.label import Codebook
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel.sharding import AXES
from mt_diffusion.protocol import Known, Variable
from mt_diffusion.spaces import pixels

ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
SHAPE, K, T, NUM, STEPS = (2, 2, 1), 3, 100, 3000, 4
TABLE = schedule.cosine(T)
BEFORE, AFTER = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
DRAWN = pytest.mark.parametrize("word", guess.DRAWN)


def changing(y_t, t):
    """p(x | z_t) is one thing in the first half of the walk, another in the second."""
    p = jnp.where((t > T // 2)[:, None], jnp.log(BEFORE)[None], jnp.log(AFTER)[None])
    return p.astype(y_t.dtype)


SLOPES = np.random.default_rng(0).normal(size=(4, K)).astype(np.float32)


def of_z(y_t, t):
    """It depends on z_t, and on t."""
    return y_t.reshape(len(y_t), -1) @ SLOPES + changing(y_t, t)


class Told:
    """A network whose head is known; it keeps what it is asked, once it has values."""

    def __init__(self, modality, logits):
        self.modality, self.logits, self.asked = modality, logits, []

    def apply(self, params, *args, method="predict", rngs=None):
        return getattr(self, method)(*args)

    def encode(self, values):
        return {n: self.modality.encode(value) for n, value in values.items()}

    def predict(self, y_t, t, codes, known, evidence, deterministic):
        if not isinstance(y_t, jax.core.Tracer):
            self.asked.append((y_t, t, codes, known))
        v = 0.3 * y_t - 0.1
        return Output(v, None, {"label": self.logits(y_t, t)}, {})


class Plain(Variable):
    """z_0 as it is."""

    space = pixels.Pixels(picture=(1, 1, 1))

    def postprocess(self, value):
        return value

    def known(self, value):
        return Known(value, jnp.ones_like(value))


def generator(word, logits=of_z, conditions=False, frame="none", **settings):
    drift = settings.pop("drift", "ramp")
    modality = Codebook(
        name="label", shape=SHAPE, drift=drift, loss_weight=0.1, frame=frame,
        conditions=conditions, guess=word, energy=36.0, measured={},
        codes=common.codes() | {"family": "white"}, class_names=("a", "b", "c"),
        head_kind="M", heads={"M": {}}, tokens=common.tokens(4),
    )  # fmt: skip
    tilde = aggregation.weights("label", drift, modality.scale, TABLE)
    experiment = experiments.Experiment(
        shape=SHAPE,
        primary=Plain(name="image", shape=SHAPE),
        denoiser=Denoiser(
            modalities=(modality,),
            process=Process(TABLE, aggregation.Aggregation({"label": tilde})),
            network=Told(modality, logits),
            prediction=prediction.build("v"),
        ),
        presence=presence.build(
            {"present": {"share": 1.0, "label": "read"}}, {"label": conditions}
        ),
    )
    wishes = common.get_config("digits").sampling
    wishes.update(num_steps=STEPS, clip="none", batch_size=NUM, **settings)
    return generation.Generator(experiment, wishes, ONE_DEVICE)


def walk(draw, monkeypatch, given=None):
    """What is denoised at each step, what the network was asked, and the result."""
    seen = []

    def noted(*fields):
        found = sampler.Denoised(*fields)
        if not isinstance(found.z0, jax.core.Tracer):
            seen.append(found)
        return found

    class Noting:
        """The module, with a Denoised that is noted."""

        Denoised = staticmethod(noted)

        def __getattr__(self, name):
            return getattr(sampler, name)

    monkeypatch.setattr(denoising, "sampler", Noting())
    asked = draw._experiment.network.asked
    asked.clear()
    with jax.disable_jit():
        result = draw.draw({}, 0, jnp.arange(NUM), given or {})
    assert len(seen) == len(asked) == STEPS
    return seen, list(asked), result


def is_law(drawn, p):
    """Whether one-hot draws [N, K] have probabilities p [K] or [N, K], to 4 errors."""
    p = np.broadcast_to(p, drawn.shape)
    assert set(np.unique(drawn)) == {0, 1} and np.all(drawn.sum(axis=1) == 1)
    off = (np.asarray(drawn, np.float64) - p).sum(axis=0)
    return np.all(np.abs(off) < 4 * np.sqrt((p * (1 - p)).sum(axis=0)))


def probabilities(logits, z_t, t):
    return np.asarray(jax.nn.softmax(logits(z_t, t)), np.float64)


def test_held_is_drawn_at_T_and_stays(monkeypatch):
    """Its law is p(x | z_T), whatever the noise of the walk and p(x | z_t) later."""
    draw = generator("held")
    seen, asked, result = walk(draw, monkeypatch)
    first = np.asarray(seen[0].guesses["label"])
    z_T, t, *_ = asked[0]
    p = probabilities(of_z, z_T, t)
    assert np.ptp(p, axis=0).min() > 0.5  # the law is another for each example
    assert is_law(first, p)
    z = np.asarray(z_T).reshape(NUM, -1)
    off = (first - p).T @ z / np.sqrt(NUM)
    assert np.abs(off).max() < 4 * np.sqrt(0.25)
    for at in seen:
        np.testing.assert_array_equal(at.guesses["label"], first)
        np.testing.assert_array_equal(at.values["label"], first)
    np.testing.assert_array_equal(result["label"], first)
    last = probabilities(of_z, *asked[-1][:2])
    assert np.mean(last.argmax(axis=1) != first.argmax(axis=1)) > 0.1


def test_coherent_changes_as_little_as_the_posterior_makes_it(monkeypatch):
    """In law at both ends; between them as Gumbel noise couples the two.

    It keeps k with probability 1 / sum_j max(p_j / p_k, q_j / q_k).
    """
    draw = generator("coherent", changing)
    seen, asked, result = walk(draw, monkeypatch)
    times = [int(t[0]) for _, t, *_ in asked]
    at = [np.asarray(x.guesses["label"]) for x in seen]
    early = [x for x, t in zip(at, times, strict=True) if t > T // 2]
    late = [x for x, t in zip(at, times, strict=True) if t <= T // 2]
    assert min(len(early), len(late)) > 1
    for part, p in ((early, BEFORE), (late, AFTER)):
        for x in part:
            np.testing.assert_array_equal(x, part[0])
        assert is_law(part[0], p)
    ratios = np.maximum(
        BEFORE[:, None] / BEFORE[None], AFTER[:, None] / AFTER[None]
    )  # of j, over k
    kept = (1 / ratios.sum(axis=0)).sum()
    found = np.mean(early[0].argmax(axis=1) == late[0].argmax(axis=1))
    assert 0.4 < kept < 0.9
    assert found == pytest.approx(kept, abs=4 * np.sqrt(kept * (1 - kept) / NUM))
    # What is reported is the head's own belief at the end.
    np.testing.assert_allclose(result["label"], np.tile(AFTER, (NUM, 1)), rtol=1e-5)


def test_fresh_has_the_law_of_each_step_and_forgets(monkeypatch):
    draw = generator("fresh", changing)
    seen, asked, _ = walk(draw, monkeypatch)
    at = [np.asarray(x.guesses["label"], np.float64) for x in seen]
    laws = [BEFORE if int(t[0]) > T // 2 else AFTER for _, t, *_ in asked]
    for x, p in zip(at, laws, strict=True):
        assert is_law(x, p)
    for i in range(1, STEPS):
        both = np.outer(laws[i - 1], laws[i])
        found = at[i - 1].T @ at[i] / NUM
        assert np.all(np.abs(found - both) < 4 * np.sqrt(both * (1 - both) / NUM))


def test_the_mean_is_the_heads(monkeypatch):
    seen, asked, result = walk(generator("mean"), monkeypatch)
    for at, (z_t, t, *_) in zip(seen, asked, strict=True):
        p = probabilities(of_z, z_t, t)
        np.testing.assert_allclose(at.guesses["label"], p, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result["label"], seen[-1].guesses["label"])


@pytest.mark.parametrize("word", [*guess.DRAWN, "mean"])
def test_a_guess_drifts_the_walk_by_its_code(word, monkeypatch):
    """z_s - d_s(x^) is DDIM's of u_t = z_t - d_t(x^) and z_0, in plain numpy."""
    draw = generator(word, sampler="ddim")
    seen, asked, _ = walk(draw, monkeypatch)
    (modality,) = draw._experiment.modalities
    tilde = draw._experiment.process.aggregation.alpha_tilde["label"]
    for i in range(STEPS - 1):
        (z_t, t, *_), (z_s, s, *_), at = asked[i], asked[i + 1], seen[i]
        t, s = int(t[0]), int(s[0])
        code = np.einsum("bk,khwc->bhwc", at.guesses["label"], modality.images)
        np.testing.assert_allclose(at.codes["label"], code, rtol=1e-5, atol=1e-6)
        a_t, a_s = TABLE.alpha_bar[t], TABLE.alpha_bar[s]
        z0 = np.sqrt(a_t) * z_t - np.sqrt(1 - a_t) * (0.3 * z_t - 0.1)
        np.testing.assert_allclose(at.z0, z0, rtol=1e-4, atol=1e-5)
        eps = (z_t - tilde[t] * code - np.sqrt(a_t) * z0) / np.sqrt(1 - a_t)
        expected = np.sqrt(a_s) * z0 + np.sqrt(1 - a_s) * eps + tilde[s] * code
        np.testing.assert_allclose(z_s, expected, rtol=1e-4, atol=1e-4)


def test_what_is_absent_drifts_nothing_and_is_read_at_the_end(monkeypatch):
    draw = generator("absent")
    seen, asked, result = walk(draw, monkeypatch)
    assert all(at.codes == {} for at in seen)
    p = probabilities(of_z, *asked[-1][:2])
    np.testing.assert_allclose(result["label"], p, rtol=1e-4, atol=1e-6)
    without = generator("mean", drift="none").draw({}, 0, jnp.arange(NUM), {})
    np.testing.assert_allclose(result["image"], without["image"], atol=1e-5)


@DRAWN
def test_a_guess_takes_nothing_from_the_noise_of_the_walk(word):
    """Where it does not drift the images are those without it, to the bit."""
    images = [
        generator(w, drift="none").draw({}, 0, jnp.arange(NUM), {})["image"]
        for w in (word, "absent")
    ]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("frame", ["none", "read"])
def test_what_is_held_is_read_from_the_second_step_on(frame, monkeypatch):
    """And out of z_t where the frame says so, as if it were given."""
    draw = generator("held", conditions=True, frame=frame, sampler="ddim")
    seen, asked, result = walk(draw, monkeypatch)
    held = np.asarray(seen[0].guesses["label"])
    assert not np.any(asked[0][3].get("label", False))
    for at in seen[1:]:
        np.testing.assert_array_equal(at.guesses["label"], held)
    (modality,) = draw._experiment.modalities
    tokens = modality.as_tokens(jnp.asarray(held))
    for _, _, codes, known in asked[1:]:
        assert np.all(known["label"])
        np.testing.assert_array_equal(codes["label"].tokens, tokens)
    np.testing.assert_array_equal(result["label"], held)
    # z_t at the second step, from the first alone.
    (z_T, t, *_), (y, s, *_) = asked[:2]
    t, s = int(t[0]), int(s[0])
    step = draw._experiment.process.transition(t, s)
    code = {"label": jnp.asarray(seen[0].codes["label"])}
    u_t = step.to_comoving(z_T, code)
    eps = step.eps_from_z0(u_t, seen[0].z0)
    u_s = step.signal_s * seen[0].z0 + step.noise_s * eps
    shown = u_s if frame == "read" else step.from_comoving(u_s, code)
    np.testing.assert_allclose(y, shown, rtol=1e-4, atol=1e-4)


@DRAWN
def test_all_is_of_the_seed_and_the_example_alone(word):
    draw = generator(word)
    values = draw.values({}, 0, range(16), {})
    for name, again in draw.values({}, 0, range(16), {}).items():
        np.testing.assert_array_equal(values[name], again)
    for name, some in draw.values({}, 0, range(4, 8), {}).items():
        np.testing.assert_allclose(some, values[name][4:8], rtol=1e-5, atol=1e-5)
    other = draw.values({}, 1, range(16), {})
    assert not np.any(other["image"] == values["image"])
    assert np.any(other["label"] != values["label"])


@pytest.mark.parametrize("word", ["coherent", "mean", "absent"])
def test_what_is_given_is_no_guess(word):
    given = {"label": np.eye(K, dtype=np.float32)[[1]]}
    found, expected = (
        generator(w).values({}, 0, range(8), given) for w in (word, "held")
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found["label"], np.repeat(given["label"], 8, 0))


def test_where_the_image_is_given_what_is_held_is_read_off_it(monkeypatch):
    """Its draw at T would know nothing of the image."""
    image = {"image": jnp.ones((NUM, *SHAPE))}
    seen, asked, result = walk(generator("held"), monkeypatch, image)
    assert all(at.codes == {} for at in seen)
    p = probabilities(of_z, *asked[-1][:2])
    np.testing.assert_allclose(result["label"], p, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result["image"], image["image"])


@pytest.mark.parametrize(
    "text", ["label", "label=", "label=drawn", "lable=held", "label=held,image=mean"]
)
def test_guesses_that_there_are_not(text):
    with pytest.raises(UserError, match=f"--guess={text} can't be: .* label and GUESS"):
        generator("held", **{"guess": text})


def test_a_guess_is_the_modalitys_own_or_what_is_said_now():
    modalities = {m.name: m for m in generator("fresh")._experiment.modalities}
    assert guess.parse("", modalities) == {"label": "fresh"}
    for text in ("label=held", " label=held ", "label=mean,label=held"):
        assert guess.parse(text, modalities) == {"label": "held"}


@pytest.mark.parametrize(
    "given, way",
    [((), "held"), (("masked_image",), "coherent"), (("image",), "absent")],
)
def test_held_alone_follows_what_else_is_given(given, way):
    assert generator("held_alone").roles.generated(given) == {"label": way}


def test_every_word_that_a_config_may_have_is_a_guess():
    for is_alone in (True, False):
        found = {guess.way(word, is_alone) for word in protocol.GUESSES}
        assert found == set(guess.WAYS)
    assert set(guess.DRAWN) < set(protocol.GUESSES)
