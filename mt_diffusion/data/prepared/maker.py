"""What is said where data are missing that a command of ours prepares."""

from ml_collections import ConfigDict


def said(config: ConfigDict) -> str:
    """What to do, after a sentence that says what is missing.

    The command that makes the preset's, where config.data says which does.
    """
    if not config.prepared_by:
        return " Give the path of one."
    return f" {config.prepared_by} makes the preset's; or give the path of another."
