"""When a sampling program is kept: what decides it has a part in its name."""

import numpy as np

from configs import masked_image
from mt_diffusion.diffusion import solvers, spacing, variance
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding

CONFIG = masked_image.get_config("smoke")
EXPERIMENT = experiments.build(CONFIG)


def name_of(errors=None, guide=None, **wishes):
    """Of a Generator with these settings; '' for one whose programs are not kept."""
    settings = CONFIG.sampling.copy_and_resolve_references()
    settings.update(wishes)
    generator = Generator(EXPERIMENT, settings, sharding.make_mesh(), errors, guide)
    return generator._draw._name


def test_each_setting_has_a_part_in_the_name():
    names = {name_of(), name_of(num_steps=7), name_of(clip="none")}
    names |= {name_of(sampler="ddim"), name_of(spacing="log_snr"), name_of(eta=0.5)}
    assert len(names) == 6 and all(names)
    assert name_of() == name_of()


def test_what_was_measured_has_a_part_in_the_name():
    def errors(number):
        table = np.full(1, number)
        rest = dict.fromkeys(("moments", "slopes", "means", "mean"), table)
        return {"joint": variance.Errors(("z_0",), np.array([1]), **rest)}

    assert len({name_of(), name_of(errors(1.0)), name_of(errors(2.0))}) == 3


def test_code_of_ones_own_is_traced_anew(monkeypatch):
    monkeypatch.setitem(solvers.STEPS, "mine", lambda eta: lambda *args: args[0].z_t)
    monkeypatch.setitem(solvers.SPACING, "mine", "even")
    assert name_of() and not name_of(sampler="mine")
    assert not name_of(guide=EXPERIMENT.denoiser)


def test_times_of_ones_own_have_a_part_in_the_name(monkeypatch):
    before = name_of()
    own = lambda schedule, num: spacing.even(schedule, num) // 2 * 2 + 1  # noqa: E731
    monkeypatch.setitem(spacing.SPACINGS, "even", own)
    assert name_of() not in (before, "")
