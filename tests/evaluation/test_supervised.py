"""Training of classifiers: what is learnt, from which examples, moved how."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.evaluation.networks import supervised
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.evaluation.networks.supervised import Recipe

RECIPE = Recipe(
    num_images=800,
    min_epochs=1,
    max_epochs=20,
    batch_size=10,
    learning_rate=0.02,
    warmup=0.1,
    weight_decay=0.0,
    shift=1 / 16,
    seed=0,
)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1) / 255
        return Features(x, None, nn.Dense(3)(x))


def bars(num, seed, label=lambda i: i % 3):
    """Images with one bright row, in one of three thirds: the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (num, 9, 9, 1), np.uint8)
    for i, image in enumerate(images):
        image[3 * (i % 3) + 1] += 180
    return [{"image": x, "label": label(i)} for i, x in enumerate(images)]


def test_learns_bars_the_same_way_each_time():
    train, test = bars(60, 0), bars(30, 1)
    params, again = (supervised.fit(Linear(), train, RECIPE, "a") for _ in "ab")
    assert supervised.accuracy(Linear(), params, test) == 1
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_accuracy_counts_examples_with_a_class_alone():
    test = bars(30, 1)
    params = supervised.fit(Linear(), bars(60, 0), RECIPE, "a")
    wrong = [e | {"label": (e["label"] + 1) % 3} for e in test[:10]]
    absent = [{"image": e["image"]} for e in test[:7]]
    none = [e | {"label": -1} for e in test[:6]]
    mixed = wrong + absent + test[10:] + none
    assert supervised.accuracy(Linear(), params, mixed) == 20 / 30
    assert np.isnan(supervised.accuracy(Linear(), params, absent))


def test_examples_without_a_class_move_no_parameter():
    optimizer = supervised.build_optimizer(RECIPE, 10)
    train_step = supervised.build_step(Linear(), optimizer)

    def after_two_steps(images, labels):
        state = begin(Linear(), optimizer, images)
        for _ in range(2):  # the rate of the first is zero
            state = train_step(state, images, labels)
        return state[0]["params"]["Dense_0"]["kernel"]

    images = np.stack([e["image"] for e in bars(9, 0)])
    labels = np.arange(9, dtype=np.int32) % 3
    all_known = after_two_steps(images[:4], labels[:4])
    some_known = after_two_steps(images, np.where(np.arange(9) < 4, labels, -1))
    none_known = after_two_steps(images, np.full(9, -1))
    untouched = begin(Linear(), optimizer, images)[0]["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(all_known, some_known, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(none_known, untouched)
    assert np.abs(all_known - none_known).max() > 1e-3


def begin(network, optimizer, images):
    variables = jax.jit(network.init)(jax.random.key(0), images[:1])
    return variables, optimizer.init(variables["params"])


class Normed(nn.Module):
    """Batch norm of the mean of an image."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1).mean(axis=1, keepdims=True)
        x = nn.BatchNorm(not train, momentum=0.75)(x)
        return Features(x, None, nn.Dense(3)(x))


def test_statistics_of_batch_norm_follow_the_batches():
    optimizer = supervised.build_optimizer(RECIPE, 10)
    train_step = supervised.build_step(Normed(), optimizer)
    images = np.stack([e["image"] for e in bars(9, 0)])
    state = begin(Normed(), optimizer, images)
    for _ in range(2):
        state = train_step(state, images, np.arange(9, dtype=np.int32) % 3)
    means = images.reshape(9, -1).mean(axis=1)
    found = state[0]["batch_stats"]["BatchNorm_0"]
    kept = 0.75**2
    np.testing.assert_allclose(found["mean"], [(1 - kept) * means.mean()], rtol=1e-5)
    np.testing.assert_allclose(
        found["var"], [kept + (1 - kept) * means.var()], rtol=1e-3
    )


@pytest.mark.parametrize(
    "num_examples, num_steps", [(1, 2), (20, 40), (100, 80), (800, 80), (5000, 500)]
)
def test_so_many_images_within_bounds_of_epochs(num_examples, num_steps):
    assert RECIPE.num_steps(num_examples) == num_steps


def test_an_image_moves_by_a_sixteenth_into_black():
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)
    canvas = np.zeros((36, 36, 3), np.uint8)
    canvas[2:34, 2:34] = image
    moved = {
        canvas[y : y + 32, x : x + 32].tobytes(): (y, x)
        for y in range(5)
        for x in range(5)
    }
    rng = np.random.default_rng(1)
    found = [supervised.shifted((image, 7), rng, 1 / 16) for _ in range(300)]
    assert {moved[x.tobytes()] for x, _ in found} == set(moved.values())
    assert {label for _, label in found} == {7}


def test_every_epoch_has_all_examples_in_another_order(monkeypatch):
    monkeypatch.setattr(supervised, "shifted", lambda pair, rng, share: pair)
    source = [{"image": np.full((1, 1, 1), i, np.uint8), "label": i} for i in range(40)]
    batches = supervised.training_batches(source, RECIPE)
    epochs = [
        np.concatenate([batches[4 * e + b][0].ravel() for b in range(4)])
        for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(40))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_data_too_large_for_memory_make_the_same_batches(monkeypatch):
    source = bars(25, 0)
    held = supervised.training_batches(source, RECIPE)
    monkeypatch.setattr(supervised, "MAX_BYTES", 0)
    assert not isinstance(supervised.held(source), list)
    streamed = supervised.training_batches(source, RECIPE)
    for step in (0, 1, 7):
        jax.tree.map(np.testing.assert_array_equal, held[step], streamed[step])


def test_the_rate_falls_to_zero():
    optimizer = supervised.build_optimizer(RECIPE, 50)
    params = jnp.zeros(())
    state, sizes = optimizer.init(params), []
    for _ in range(51):
        update, state = optimizer.update(jnp.ones(()), state, params)
        sizes.append(abs(float(update)))
    # With a constant gradient, each step of Adam is as large as the rate.
    assert sizes[0] == 0 and np.argmax(sizes) == 5
    np.testing.assert_allclose(max(sizes), 0.02, rtol=1e-3)
    assert sizes[50] < 1e-8
