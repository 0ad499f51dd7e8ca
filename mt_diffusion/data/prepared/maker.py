"""What is said where data are missing that a command of ours prepares."""

from ml_collections import ConfigDict


def said(config: ConfigDict) -> str:
    """' COMMAND makes it.', where config.data says which does; else ''."""
    return f" {config.prepared_by} makes it." if config.prepared_by else ""
