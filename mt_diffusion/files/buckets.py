"""Cloud Storage's buckets, by gcsfs: whether one can be reached, and what fails."""

import asyncio
import functools
import logging
import os

from etils import epath

from mt_diffusion.errors import UserError, needs

SCHEME = "gs://"  # of the addresses that Orbax writes to


@functools.cache
def reach(bucket: str, what: str) -> None:
    """Raises UserError for a bucket that can't be listed, with what to do about it."""
    with needs("gcs", f"{what}, a bucket,"):
        import fsspec
        import gcsfs  # noqa: F401
    # TensorFlow's own client, which etils prefers, takes half a minute to be there.
    os.environ.setdefault("EPATH_USE_TF", "false")
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
