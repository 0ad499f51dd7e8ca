"""Batches: what they depend on, and where they lie."""

import jax
import numpy as np
import pytest

from configs import image_label, image_transition, masked_image
from mt_diffusion.data import pipeline
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities.image import to_uint8
from mt_diffusion.parallel import sharding

SHAPE = (8, 8, 1)
NUM = 10


class Toy:
    """Image i has level i + 1 on its left and 200 on its right; label i % 3, or none.

    Odd examples say -1, every fourth says nothing.
    """

    class_names = ("a", "b", "c")

    def __len__(self):
        return NUM

    def __getitem__(self, i):
        image = np.full(SHAPE, 200, np.uint8)
        image[:, :4] = i + 1
        if i % 4 == 0:
            return {"image": image}
        return {"image": image, "label": -1 if i % 2 else i % 3}


def preprocess(random_flip=False):
    modalities = []
    for config in (masked_image.get_config(), image_label.get_config()):
        for name, fields in config.modalities.items():
            fields = base.locate(fields.kind).fit(fields.to_dict(), Toy())
            modalities.append(base.build(name, fields, SHAPE))
    primary = base.build("image", {"kind": "image.Image"}, SHAPE)
    return pipeline.Preprocess(primary, modalities, random_flip)


def batches(seed=0, batch_size=4, random_flip=False):
    return pipeline.training_batches(Toy(), preprocess(random_flip), batch_size, seed)


def indices(batch):
    return (to_uint8(batch.z0).min(axis=(1, 2, 3)) - 1).tolist()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_a_batch_depends_on_seed_and_step_alone():
    in_order = [batches(random_flip=True)[step] for step in range(6)]
    for step in (5, 0, 3):
        assert_equal(batches(random_flip=True)[step], in_order[step])


def test_seeds_give_other_orders_and_other_draws():
    ours, other = ([batches(seed, NUM)[step] for step in range(2)] for seed in (0, 1))
    assert [indices(b) for b in ours] != [indices(b) for b in other]
    masks = [
        b.values["masked_image"][np.argsort(indices(b)), ..., -1]
        for b in (*ours, *other)
    ]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(masks[i], masks[j])


def test_each_epoch_is_another_permutation():
    drawn = np.concatenate([indices(batches()[step]) for step in range(5)])
    first, second = drawn[:NUM], drawn[NUM:]
    assert sorted(first) == sorted(second) == list(range(NUM))
    assert not np.array_equal(first, second)


def test_flips_are_the_same_for_image_and_masked_image():
    sides = []
    for step in range(10):
        batch = batches(random_flip=True)[step]
        image, mask = np.split(batch.values["masked_image"], [1], axis=-1)
        np.testing.assert_array_equal(image, np.where(mask, batch.z0, 0))
        sides += np.argmax(batch.z0[:, 0, :, 0], axis=-1).tolist()
    assert set(sides) == {0, 4}
    assert 10 <= sides.count(0) <= 30  # of 40 fair draws: 3 standard deviations
    unflipped = [batches()[step].z0 for step in range(10)]
    assert np.all(np.argmax(np.concatenate(unflipped)[:, 0, :, 0], axis=-1) == 4)


def test_flips_are_the_same_for_image_and_pair():
    config = image_transition.get_config()
    fields = config.modalities.image_b.to_dict()
    second = base.build("image_b", fields, SHAPE)
    primary = base.build("image", {"kind": "image.Image"}, SHAPE)
    flips = pipeline.Preprocess(primary, [second], random_flip=True)
    image, pair = (np.arange(64, dtype=np.uint8).reshape(SHAPE) + k for k in (0, 100))
    sides = []
    for i in range(40):
        rng = np.random.default_rng(i)
        batch = flips({"image": image, "pair": pair}, rng)
        one, two = (to_uint8(x) for x in (batch.z0, batch.values["image_b"]))
        np.testing.assert_array_equal(one + 100, two)
        sides.append(int(one[0, 0, 0]))
    assert set(sides) == {0, 7}
    assert flips({"image": image}, rng).available == {"image_b": False}


def test_what_is_absent_is_marked_and_has_a_placeholder():
    batch = batches(batch_size=NUM)[0]
    for row, i in enumerate(indices(batch)):
        present = i % 2 == 0 and i % 4 != 0
        assert batch.available["label"][row] == present
        expected = np.eye(3)[i % 3] if present else np.zeros(3)
        np.testing.assert_array_equal(batch.values["label"][row], expected)
    assert batch.available["masked_image"].all()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one(monkeypatch, processes):
    alone = [batches(batch_size=8)[step] for step in range(3)]
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for step in range(3):
        parts = []
        for index in range(processes):
            monkeypatch.setattr(jax, "process_index", lambda index=index: index)
            parts.append(batches(batch_size=8)[step])
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        assert_equal(joined, alone[step])


def test_prefetch_starts_where_it_is_told_and_stops():
    over_batch = sharding.over_batch(sharding.make_mesh())
    loaded = list(pipeline.prefetch(batches(batch_size=8), 3, 9, over_batch))
    assert len(loaded) == 6
    for step, batch in enumerate(loaded, start=3):
        assert_equal(batch, batches(batch_size=8)[step])
    assert not list(pipeline.prefetch(batches(batch_size=8), 3, 3, over_batch))


def test_prefetch_splits_each_array_over_all_devices():
    over_batch = sharding.over_batch(sharding.make_mesh())
    (batch,) = pipeline.prefetch(batches(batch_size=16), 0, 1, over_batch)
    for leaf in jax.tree.leaves(batch):
        assert len(leaf.sharding.device_set) == jax.device_count() == 8
        assert {s.data.shape[0] for s in leaf.addressable_shards} == {2}


def test_first_examples_come_in_order_and_again_where_there_are_fewer():
    batch = pipeline.first_examples(Toy(), preprocess(), 13, seed=0)
    assert indices(batch) == [*range(NUM), 0, 1, 2]
    assert_equal(pipeline.first_examples(Toy(), preprocess(), 13, seed=0), batch)
