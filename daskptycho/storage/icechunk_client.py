"""What opens an Icechunk repository at a `Location`: its storage, its retries, its errors in one line.

`checkpoints` calls this module. A storage may be put into a task: each process that opens it finds its own
credentials.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import icechunk

from daskptycho.errors import OptionError, StoreError
from daskptycho.storage import bucket, bucket_client
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import LONGEST_PAUSE, patience, retry, strip_queries

__all__ = [
    "make_config",
    "make_storage",
    "remove",
    "retry_icechunk",
    "translate_icechunk_errors",
]

T = TypeVar("T")


def make_storage(location: Location) -> icechunk.Storage:
    """Icechunk's storage for a location; each process that opens it looks up credentials for itself.

    Raises
    ------
    OptionError
        The location is on a web server.
    """
    # Icechunk warns of concurrent commits to a local folder; a run is the only one to commit to its own.
    icechunk.set_logs_filter("error")
    bucket, prefix = location.bucket, location.path
    if location.is_local:
        return icechunk.local_filesystem_storage(location.path)
    if location.scheme == "s3":
        endpoint, region = bucket_client.s3_server(location)
        credentials = None if location.anonymous else functools.partial(_s3_credentials, location)
        return icechunk.s3_storage(
            bucket=bucket,
            prefix=prefix,
            region=region,
            endpoint_url=endpoint,
            allow_http=endpoint is not None and endpoint.startswith("http:"),
            force_path_style=endpoint is not None,
            anonymous=location.anonymous or None,
            get_credentials=credentials,
        )
    if location.scheme == "gs":
        return icechunk.gcs_storage(
            bucket=bucket,
            prefix=prefix,
            anonymous=location.anonymous or None,
            from_env=not location.anonymous or None,
        )
    if location.scheme == "az":
        account, settings = bucket_client.azure_server(location)
        return icechunk.azure_storage(
            account=account, container=bucket, prefix=prefix, from_env=True, config=settings
        )
    raise OptionError(f"{location} is on a web server, which is read-only; checkpoints need a bucket")


def _s3_credentials(location: Location) -> icechunk.S3StaticCredentials:
    """Credentials that Icechunk requests again before they expire."""
    found = bucket_client.s3_credentials(location).get_frozen_credentials()
    expiry = datetime.now(UTC) + bucket_client.CREDENTIALS_LIFETIME
    return icechunk.S3StaticCredentials(found.access_key, found.secret_key, found.token, expiry)


def make_config(location: Location) -> icechunk.RepositoryConfig:
    """A configuration with which Icechunk's own retries last as long as `patience`."""
    config = icechunk.RepositoryConfig.default()
    if not location.is_local:
        longest = int(1000 * LONGEST_PAUSE)
        tries = 1 + int(2 * patience() / LONGEST_PAUSE)
        retries = icechunk.StorageRetriesSettings(
            max_tries=tries, initial_backoff_ms=min(100, longest), max_backoff_ms=longest
        )
        config.storage = icechunk.StorageSettings(retries=retries)
    return config


@contextmanager
def translate_icechunk_errors(location: Location) -> Iterator[None]:
    """Report in one line what goes wrong with a store in the block, such as a full disk.

    Raises
    ------
    StoreError
        In place of an error of Icechunk.
    """
    try:
        yield
    except icechunk.IcechunkError as error:
        failed = "read or written" if location.is_local else "reached"
        raise StoreError(f"{location} cannot be {failed}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The last of the causes that end Icechunk's message of many lines."""
    causes = re.findall(r"^ *(?:[|`]->|[├╰]─▶) ((?!Error ).+)$", str(error), flags=re.MULTILINE)
    cause = ": ".join(causes[-2:]) or " ".join(str(error).split())
    return strip_queries(cause)[:300]


def retry_icechunk(action: Callable[[], T], description: str, location: Location) -> T:
    """Call an action on a store until it succeeds or patience runs out, and return its value."""
    with translate_icechunk_errors(location):
        seconds = None if location.is_local else patience()
        return retry(action, description, (OSError, icechunk.IcechunkError), seconds)


def remove(location: Location) -> None:
    """Delete a store with everything in it."""
    if location.is_local:
        shutil.rmtree(location.local_path, ignore_errors=True)
    else:
        bucket.remove(location)
