"""What a program gives: values of variables, in the types of its language; settings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import fields
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.protocol import Batch


def take(given: Mapping[str, Any], experiment: Experiment) -> dict[str, np.ndarray]:
    """{variable: values [M, ...]} of one value or several of each variable.

    Raises UserError for what the model does not know, TypeError for what is no mapping.
    """
    variables = experiment.variables
    if not isinstance(given, Mapping):
        raise TypeError(
            f"given is a {type(given).__name__}; it is a dict, {{name: value}}, "
            f"with names of {', '.join(variables)}."
        )
    if unknown := sorted(set(given) - set(variables)):
        raise UserError(
            f"this model knows no {', '.join(unknown)}; it knows "
            f"{', '.join(variables)}."
        )
    values = {name: variables[name].take(value) for name, value in given.items()}
    return {name: x for name, x in values.items() if x is not None}


def as_batch(known: Mapping[str, np.ndarray], experiment: Experiment) -> Batch:
    """Examples of these values, of which others are missing.

    known: as of `take`, the primary image among them. Raises UserError where there are
    not as many of each.
    """
    z0 = known[experiment.primary.name]
    values, there = {}, {}
    for m in experiment.modalities:
        empty = np.broadcast_to(m.placeholder(), (len(z0), *m.placeholder().shape))
        values[m.name] = known.get(m.name, empty)
        there[m.name] = np.full(len(z0), m.name in known)
        if len(values[m.name]) != len(z0):
            raise UserError(
                f"there are {len(values[m.name])} values of {m.name} for "
                f"{len(z0)} images; give one for each."
            )
    return Batch(z0, values, there)


def with_settings(config: ConfigDict, wishes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with these fields of its sampling.

    Raises UserError for those that it has not, and for numbers that can't be.
    """
    config = config.copy_and_resolve_references()
    for name in wishes.keys() - config.sampling.keys():
        raise UserError(
            f"{name} is no setting of sampling; there are steps, seed, "
            f"{', '.join(sorted(config.sampling))}."
        )
    config.sampling.update(wishes)
    for name, value in wishes.items():
        fields.check_number(f"sampling.{name}", value, name)
    return config
