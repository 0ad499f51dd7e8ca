"""The leak: what else in z_t looks like a code, measured on training examples."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mt_diffusion.data.rows import spread
from mt_diffusion.experiment.presence import ABSENT, READ, UNREAD, Presence
from mt_diffusion.protocol import Batch, Modality, Variable

MOST = 4096  # training examples that are looked at


def measure(config: ConfigDict, experiment: Any, source: Any) -> dict[str, dict]:
    """{modality: fields} of those that look for their code in z_t.

    The same on every host: what process 0 found. experiment: what the config, which has
    what modalities took from the data, describes. source: the training data, a
    `data.sources.Source`.
    """
    wanted = [m for m in experiment.modalities if m.frame == "evidence"]
    wanted = [m for m in wanted if not config.modalities[m.name].measured]
    if not wanted:
        return {}
    batch = look(experiment.primary, experiment.modalities, source)
    found = {}
    for m in wanted:
        fields = of(m, experiment.modalities, experiment.presence, batch)
        found[m.name] = same_everywhere(fields)
    return found


def look(primary: Variable, modalities: tuple[Modality, ...], source: Any) -> Batch:
    """Examples evenly spread over a source; each random part from the example's own."""
    chosen = spread(len(source), MOST)
    seen: dict[str, list] = {m.name: [] for m in modalities}
    z0: list[Any] = []
    values, there = {}, {}
    for i in chosen:
        example = source[int(i)]
        z0.append(primary.preprocess(example, np.random.default_rng(int(i))))
        for m in modalities:
            seen[m.name].append(m.preprocess(example, np.random.default_rng(int(i))))
    for m in modalities:
        there[m.name] = np.array([v is not None for v in seen[m.name]])
        empty = m.placeholder()
        filled = [empty if v is None else v for v in seen[m.name]]
        values[m.name] = np.stack(filled)
    return Batch(np.stack(z0), values, there)


def of(
    modality: Modality,
    modalities: tuple[Modality, ...],
    presence: Presence,
    batch: Batch,
) -> dict:
    """What `modality.measure` finds, and how often it is absent where it is not read.

    What else may be in z_t: the image, and the drift of others that are not read. A
    code that the shared U-Net makes changes with it, and is left out.
    """
    there = batch.available[modality.name]
    sources = {"": batch.z0}
    for other in modalities:
        if other is modality or not presence.share({other.name: UNREAD}) > 0:
            continue
        latent = other.encode(jnp.asarray(batch.values[other.name])).latent
        if latent is not None:
            here = batch.available[other.name].reshape(-1, 1, 1, 1)
            sources[other.name] = np.asarray(latent) * here
    fields = modality.measure(batch.values[modality.name][there], sources)
    shares = {s: presence.share({modality.name: s}) for s in (READ, UNREAD, ABSENT)}
    missing = 1 - float(there.mean())
    absent = shares[ABSENT] + missing * (1 - shares[ABSENT])
    unread = shares[UNREAD] * (1 - missing)
    prior = absent / max(absent + unread, 1e-12)
    fields["measured"]["absent"] = float(np.clip(prior, 1e-6, 1 - 1e-6))
    return fields


def same_everywhere(fields: Mapping) -> dict:
    """What process 0 has, in all processes."""
    if jax.process_count() == 1:
        return dict(fields)
    numbers, tree = jax.tree.flatten(fields)
    is_word = [isinstance(x, str) for x in numbers]
    sent = np.array([0.0 if w else x for x, w in zip(numbers, is_word, strict=True)])
    # As bits, for on the devices a double would be rounded to a float.
    bits = multihost_utils.broadcast_one_to_all(sent.view(np.uint32))
    got = np.asarray(bits).view(np.float64).tolist()
    merged = [a if w else b for a, b, w in zip(numbers, got, is_word, strict=True)]
    return jax.tree.unflatten(tree, merged)


def of_config(config: ConfigDict) -> dict[str, dict[str, float]]:
    """{modality: {source: s^2}} of a resolved config, for a person to read."""
    found = {}
    for name, fields in config.modalities.items():
        if fields.get("measured"):
            sources, covariance = fields.measured.sources, fields.measured.covariance
            found[name] = {s or "z_0": covariance[i][i] for i, s in enumerate(sources)}
    return found
