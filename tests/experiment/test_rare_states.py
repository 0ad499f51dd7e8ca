"""What a model is asked to draw in, against what it was trained in."""

import itertools
import pathlib
import warnings

import pytest

from configs import anything, common, joint
from mt_diffusion import library
from mt_diffusion.data import sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.roles import Roles
from mt_diffusion.inference import sampling
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding

GIVEN = {name: None for name in ("image", "label", "masked_image")}


@pytest.fixture(scope="module")
def resolved():
    """Labels and masked images, both of which the network can read."""
    config = joint.get_config()
    shares = dict(all=0.25, label=0.25, masked_image=0.1)
    shares |= dict(found=0.1, unread=0.05, absent=0.25)
    assert set(config.presence) == shares.keys()
    for name, share in shares.items():
        config.presence[name].share = share
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def warned(config, given, guess, capsys):
    """(state of each modality, what is printed)."""
    config = config.copy_and_resolve_references()
    config.sampling.guess = guess
    experiment = experiments.build(config)
    generator = Generator(experiment, config.sampling, sharding.make_mesh())
    states = generator.roles.states([name for name in GIVEN if name in given])
    sampling.warn_of_rare_state(experiment, states)
    return states, capsys.readouterr().out


@pytest.mark.parametrize(
    "given, guess, label, masked, share",
    [
        # Held, and read from the second step on; the masked image's guess is absent.
        ((), "", "read", "absent", "25.0%"),
        (("label",), "", "read", "absent", "25.0%"),
        (("label", "masked_image"), "", "read", "read", "25.0%"),
        # Held alone: beside what is given it is coherent.
        (("masked_image",), "", "unread", "read", "10.0%"),
        (("masked_image",), "label=absent", "absent", "read", "10.0%"),
        ((), "label=coherent", "unread", "absent", "5.0%"),
        (("label",), "masked_image=mean", "read", "unread", "0.0%"),
        (("label",), "masked_image=held", "read", "read", "25.0%"),
    ],
)
def test_states_of_a_walk_and_how_often_training_had_them(
    resolved, given, guess, label, masked, share, capsys
):
    states, printed = warned(resolved, given, guess, capsys)
    assert states == {"label": label, "masked_image": masked}
    assert bool(printed) == (share == "0.0%")
    if printed:
        paragraph = f"warning: this model was trained in {share} of its examples"
        assert printed.startswith(paragraph) and printed.count("\n") == 1
        assert f"label {label}" in printed and f"masked_image {masked}" in printed
        assert "--guess" in printed and "config.presence" in printed


def test_a_label_that_the_network_never_reads_is_unread(resolved, capsys):
    config = resolved.copy_and_resolve_references()
    config.modalities.label.conditions = False
    for given in ((), ("label",)):
        states, printed = warned(config, given, "", capsys)
        assert states == {"label": "unread", "masked_image": "absent"}
        assert not printed  # of what was "read" as well, 30%


@pytest.mark.parametrize("share, warns", [(0.04, True), (0.06, False)])
def test_less_than_a_twentieth_is_rare(resolved, share, warns, capsys):
    config = resolved.copy_and_resolve_references()
    config.presence.unread.share, config.presence.absent.share = share, 0.3 - share
    _, printed = warned(config, (), "label=coherent", capsys)
    assert ("4.0% of its examples" in printed) == bool(printed) == warns


def test_without_modalities_there_is_no_state(capsys):
    states, printed = warned(common.digits(), (), "", capsys)
    assert states == {} and not printed


def test_anything_may_be_given_to_anything(capsys):
    config = anything.get_config("smoke")
    config = experiments.resolve(config, sources.open_source(config.data, "train"))
    experiment = experiments.build(config)
    generator = Generator(experiment, config.sampling, sharding.make_mesh())
    names = list(config.modalities)
    for num in range(len(names) + 1):
        for given in itertools.combinations(names, num):
            states = generator.roles.states(given)
            sampling.warn_of_rare_state(experiment, states)
    assert not capsys.readouterr().out


class Undrawn(library.Model):
    """A model that knows its states, and draws nothing."""

    def _generator(self, wishes):
        def draw(*_):
            return {}

        draw.roles = Roles(self.experiment, wishes.get("guess", ""))
        return draw, None


def test_python_warns_of_a_rare_state_once(resolved):
    experiment, folder = experiments.build(resolved), pathlib.Path()
    model = Undrawn(folder, 0, resolved, experiment, {}, True)
    rare, other = "masked_image=mean", "masked_image=coherent,label=coherent"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.sample(2)  # of a quarter of the examples
        assert not warned
        for guess in (rare, rare, other, rare):
            model.sample(2, given={"label": "3"}, guess=guess)
        model.sample(2, guess=other)
    first, second = (str(w.message) for w in warned)
    assert "0.0% of its examples with label read, masked_image unread" in first
    assert "label unread, masked_image unread" in second
    assert all(w.filename == __file__ and w.category is UserWarning for w in warned)
    assert "choose another guess, or train" in first and "--" not in first
