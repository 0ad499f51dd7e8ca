"""What each modality is in a walk: given, guessed in one of several ways, or absent."""

from collections.abc import Collection

from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.presence import ABSENT, READ, UNREAD
from mt_diffusion.modalities import guess
from mt_diffusion.protocol import is_evident

# Of T: heads read an image best where it is a little noisy, and better at several t.
# Edges of digits: 0.235 of the training mean's squared error at t = 1 alone.
READ_BELOW = 0.15


class Roles:
    """Answers it for any variables that are given.

    guesses: config.sampling.guess. Raises UserError for a guess that there is not.
    """

    def __init__(self, experiment: Experiment, guesses: str):
        self._experiment = experiment
        modalities = {m.name: m for m in experiment.modalities}
        self._guesses = guess.parse(guesses, modalities)

    def generated(self, given: Collection[str]) -> dict[str, str]:
        """{modality that is not given: its guess}.

        The first guess is drawn from p(x | z_T), which knows nothing of a given image,
        and then drifts z_t, where it is found again. So with an image given, what is
        drawn or looked for is absent instead, and read off that image.
        """
        image_given = self._experiment.primary.name in given
        found = {}
        for m in self._experiment.modalities:
            word = guess.way(self._guesses[m.name], is_alone=not given)
            if image_given and (word in guess.DRAWN or is_evident(m)):
                word = "absent"
            if m.name not in given:
                found[m.name] = word
        return found

    def states(self, given: Collection[str]) -> dict[str, str]:
        """What each modality is to the network in most steps: read, unread, absent."""
        words, found = self.generated(given), {}
        for m in self._experiment.modalities:
            word = words.get(m.name, "held")  # as if it were given
            held = READ if m.conditions else UNREAD
            found[m.name] = {"absent": ABSENT, "held": held}.get(word, UNREAD)
        return found

    def soft(self, given: Collection[str]) -> list[str]:
        """Those whose code is an expectation, as `solvers.Step` wants them."""
        return [n for n, word in self.generated(given).items() if word == "mean"]

    def read_from(self, given: Collection[str]) -> int:
        """The time from which on heads are read: of a given image, at several."""
        if self._experiment.primary.name not in given:
            return 1
        return int(READ_BELOW * self._experiment.process.schedule.num_steps)
