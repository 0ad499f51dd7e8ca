"""How a run ends early: by a mistake that the user can mend, or by being told to."""


class UserError(Exception):
    """A mistake in a config, a flag or a file; its text names the value and the remedy.

    `main` prints the text as one paragraph, without a traceback, and exits non-zero.
    """


class Stopped(Exception):
    """The run was told to stop and has saved itself; its text says how to go on.

    `main` exits with a status that launchers take as "start the same command again".
    """
