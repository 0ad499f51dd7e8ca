"""Batches that depend on (seed, step) alone, on the devices before they are needed."""

import collections
import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mt_diffusion.data import latents, workers
from mt_diffusion.data.sources import Source
from mt_diffusion.protocol import Batch, Modality, Variable

PREFETCH = 2  # batches on the devices ahead of the one in use


class Preprocess:
    """An example of a source as the values of all variables, for one of `Batch`."""

    def __init__(
        self, primary: Variable, modalities: Sequence[Modality], random_flip: bool
    ):
        self._primary = primary
        self._modalities = modalities
        self._random_flip = random_flip

    def __call__(self, example: dict, rng: np.random.Generator) -> Batch:
        """Flips the images first, so that every modality sees the same ones."""
        is_flipped = self._random_flip and rng.random() < 0.5
        if is_flipped:
            example = mirrored(example)
        example = latents.drawn(example, is_flipped, rng)
        values, available = {}, {}
        for m in self._modalities:
            value = m.preprocess(example, rng)
            available[m.name] = np.asarray(value is not None)
            values[m.name] = m.placeholder() if value is None else value
        return Batch(self._primary.preprocess(example, rng), values, available)


def mirrored(example: dict) -> dict:
    """The example with mirror images."""
    if isinstance(example, latents.Unread):
        return example.mirrored()
    images = {n: example[n] for n in latents.FEATURES if n in example}
    return example | {n: pixels[:, ::-1] for n, pixels in images.items()}


def training_batches(
    source: Source, preprocess: Preprocess, batch_size: int, seed: int
) -> Sequence[Batch]:
    """Random access to this process's share of the global batch of each step.

    Every epoch is a new permutation; process p of P takes the p-th of P parts.
    """
    import grain  # where batches are, and not where a model is only asked

    processes = jax.process_count()
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    batches = examples.random_map(preprocess).batch(batch_size // processes)
    return batches[jax.process_index() :: processes]


def batches_in_order(
    source: Source, preprocess: Preprocess, batch_size: int, seed: int
) -> Sequence[Batch]:
    """Random access to batches of the source as it is, begun anew at its end."""
    import grain

    examples = grain.MapDataset.source(source).seed(seed).repeat()
    return examples.random_map(preprocess).batch(batch_size)


def first_examples(
    source: Source, preprocess: Preprocess, num: int, seed: int
) -> Batch:
    """One batch of the first `num` examples, repeated where there are fewer."""
    return batches_in_order(source, preprocess, num, seed)[0]


def prefetch(
    batches: Sequence[Batch],
    start: int,
    stop: int,
    sharding: jax.sharding.Sharding,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Device batches of the steps start..stop - 1, loaded in the background.

    num_workers: processes that load them, each every num_workers-th batch, which end
    with the iterator; 0 for threads of this process. Raises UserError where one ends
    before.
    """
    ahead: collections.deque[Batch] = collections.deque()
    if start == stop:
        return
    place = functools.partial(jax.make_array_from_process_local_data, sharding)
    with contextlib.closing(loaded(batches[start:stop], num_workers)) as found:
        for batch in workers.lasting(found):
            ahead.append(jax.tree.map(place, batch))
            if len(ahead) > PREFETCH:
                yield ahead.popleft()
        yield from ahead


def loaded(batches: Any, num_workers: int) -> Any:
    """Grain's iterator of its batches, which begins at once to load; to be closed."""
    import grain

    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    found = batches.to_iter_dataset(options)
    if not num_workers:
        return iter(found)
    workers.let_grain_read_its_flags()
    processes = grain.multiprocessing.MultiprocessingOptions(num_workers)
    return iter(found.mp_prefetch(processes, workers.begin))


def until_one_fails(
    batches: Iterable[Batch], failed: list[Exception]
) -> Iterator[Batch]:
    """The batches; what ends them, as data that has vanished, is put into `failed`.

    Steps that are done can then be saved, but for a job of several processes, which
    save together.
    """
    try:
        yield from batches
    except Exception as error:
        if jax.process_count() > 1:
            raise
        failed.append(error)
