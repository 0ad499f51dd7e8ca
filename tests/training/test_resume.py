"""What a run that goes on says of the settings that are not as they were."""

import numpy as np
import pytest

from configs import image_label, masked_image
from mt_diffusion.errors import UserError
from mt_diffusion.training import resume


def config(**changes):
    found = image_label.get_config("smoke")
    for name, value in changes.items():
        part, _, field = name.rpartition("__")
        (found[part] if part else found)[field] = value
    return found


def test_what_is_as_before_says_nothing():
    assert resume.changes(config(), config(), 10) == []


@pytest.mark.parametrize(
    "change, line",
    [
        ({"watch__log_every": 7}, "config.watch.log_every: 20 -> 7 (what is written"),
        ({"init_from": "runs/a"}, "config.init_from: '' -> 'runs/a' (nothing: only a"),
        ({"mesh__fsdp": 2}, "config.mesh.fsdp: 1 -> 2 (the same numbers but for round"),
        ({"data__path": "b"}, "config.data.path: '' -> 'b' (must be the same examples"),
    ],
)
def test_each_change_is_told_with_what_it_does(change, line):
    (found,) = resume.changes(config(**change), config(), 10)
    assert found.startswith(line) and found.endswith(")")


def rate(step, num_steps, warmup, fraction):
    """By hand: a linear rise, half a cosine."""
    if step < warmup:
        return step / warmup
    share = min((step - warmup) / (num_steps - warmup), 1)
    return fraction + (1 - fraction) * (1 + np.cos(np.pi * share)) / 2


@pytest.mark.parametrize("step, longer, jumps", [(200, 900, True), (20, 900, False)])
def test_a_longer_run_says_what_becomes_of_its_learning_rate(step, longer, jumps):
    old, new = (config(train__num_steps=n) for n in (200, longer))
    settings = old.optimizer
    before, now = (
        settings.learning_rate
        * rate(step, n, settings.warmup_steps, settings.final_fraction)
        for n in (old.train.num_steps, longer)
    )
    (line,) = resume.changes(new, old, step)
    assert f"200 -> {longer} (" in line
    assert f"learning rate {now:.3g}, and had {before:.3g}" in line
    assert ("begin a new workdir with --config.init_from" in line) == jumps


def test_another_config_is_refused_in_a_few_words():
    with pytest.raises(UserError) as refused:
        resume.check_same(masked_image.get_config("smoke"), config())
    text = str(refused.value)
    assert "modalities.label (only there), modalities.masked_image (only now)" in text
    assert " more. Use another --workdir" in text and len(text) < 600
