"""Drifts of modalities: the process they make, and what a new model may not have."""

import math
from collections.abc import Sequence

from mt_diffusion.diffusion import aggregation
from mt_diffusion.diffusion.prediction import Prediction
from mt_diffusion.diffusion.process import Process
from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.protocol import NO_DRIFT, Modality


def build_process(
    modalities: Sequence[Modality], table: Schedule, predicted: Prediction
) -> Process:
    """The aggregated diffusion process; UserError for drifts that can't work."""
    weights = {}
    for m in modalities:
        weights[m.name] = aggregation.weights(m.name, m.drift, m.scale, table)
        if m.drift == NO_DRIFT:
            continue
        aggregation.check_forgotten(m.name, weights[m.name], math.prod(m.shape))
        if predicted.uses_frame:
            aggregation.check_bounded(m.name, weights[m.name], table)
    return Process(table, aggregation.Aggregation(weights))


def check_new(modalities: Sequence[Modality], table: Schedule) -> None:
    """Raises UserError for what a new model may not have; stored ones may."""
    for m in modalities:
        of_unit = aggregation.accumulated(m.name, m.drift, 1.0, table)
        m.check_new(of_unit, table)
