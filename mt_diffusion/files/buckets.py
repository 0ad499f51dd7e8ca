"""Cloud Storage's buckets, by gcsfs: whether one can be reached, and what fails."""

import asyncio
import functools
import logging
import os

from etils import epath
from etils.epath import gpath

from mt_diffusion.errors import UserError, needs

SCHEME = "gs://"  # of the addresses that Orbax writes to
PATTERNS = set("*?[]{}\\#")


def check(address: str, what: str) -> None:
    """Raises UserError for an address whose bucket can't be reached, or that is unsafe.

    gcsfs takes some names for patterns: it would remove all that they match.
    """
    bucket, _, name = address.removeprefix(SCHEME).partition("/")
    if PATTERNS & set(name) or not name.isprintable():
        raise UserError(
            f"{what}: a name in a bucket can't have any of {' '.join(sorted(PATTERNS))}"
            " here, which its client takes for patterns, and no letters that can't be "
            "seen. Name another folder."
        )
    reach(bucket, what)


@functools.cache
def reach(bucket: str, what: str) -> None:
    """Raises UserError for a bucket that can't be listed, with what to do about it."""
    with needs("gcs", f"{what}, a bucket,"):
        import fsspec
        import gcsfs  # noqa: F401
    # TensorFlow's client, which etils prefers, takes half a minute to be there, and has
    # errors of its own; etils keeps in mind what it has found.
    os.environ.setdefault("EPATH_USE_TF", "false")
    gpath._is_tf_installed.cache_clear()
    # What TensorStore writes, and other processes, is not in a list of before.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it raises is said
    try:
        is_there = bool(bucket) and epath.Path(SCHEME + bucket).exists()
    except failures() as error:
        raise UserError(
            f"{what}: the bucket {bucket} can't be reached ({reason(error)}). On a "
            "machine of Google Cloud its service account must be Storage Object User "
            "of the bucket and have storage.buckets.get; elsewhere, call "
            "`gcloud auth application-default login` first."
        ) from error
    if not is_there:
        raise UserError(
            f"{what}: there is no bucket {bucket}. Name one that is there, or make it: "
            f"gcloud storage buckets create {SCHEME}{bucket}."
        )


def failures() -> tuple[type[Exception], ...]:
    """What its client raises where a bucket can't be read or written."""
    import aiohttp
    import google.auth.exceptions
    from gcsfs.retry import HttpError

    theirs = (aiohttp.ClientError, google.auth.exceptions.GoogleAuthError, HttpError)
    return (OSError, asyncio.TimeoutError, *theirs)


def reason(error: Exception) -> str:
    """What a client of a bucket says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
