"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in a config, a flag or a file; its text names the value and the remedy.

    `main` prints the text as one paragraph, without a traceback, and exits non-zero.
    """
