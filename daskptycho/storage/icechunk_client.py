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
from typing import Any, ParamSpec, TypeVar

import icechunk

from daskptycho.errors import OptionError, StoreError
from daskptycho.storage import bucket, bucket_client
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import LONGEST_PAUSE, patience, retry, strip_queries

__all__ = [
    "config",
    "remove",
    "retry_icechunk",
    "storage",
    "translate_icechunk_errors",
    "translates_icechunk_errors",
]

FAILS = (OSError, icechunk.IcechunkError)

P = ParamSpec("P")
T = TypeVar("T")


def storage(location: Location) -> icechunk.Storage:
    """Where a store lies; credentials are found by each process that opens it."""
    # Icechunk warns of concurrent commits to a local folder; a run is the only one to commit to its own.
    icechunk.set_logs_filter("error")
    bucket, prefix = location.bucket, location.path
    if location.local:
        return icechunk.local_filesystem_storage(location.path)
    if location.scheme == "s3":
        endpoint, region = bucket_client.s3_server(location)
        credentials = None if location.anonymous else functools.partial(_credentials, location)
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
    raise OptionError(f"{location} is on a web server, which is read alone; checkpoints need a bucket")


def _credentials(location: Location) -> icechunk.S3StaticCredentials:
    """What Icechunk signs its requests with, asked for again before they are too old."""
    found = bucket_client.s3_credentials(location).get_frozen_credentials()
    return icechunk.S3StaticCredentials(
        found.access_key, found.secret_key, found.token, datetime.now(UTC) + bucket_client.CREDENTIALS_LAST
    )


def config(location: Location) -> icechunk.RepositoryConfig:
    """Icechunk's own retries last as long as ours."""
    found = icechunk.RepositoryConfig.default()
    if not location.local:
        longest = int(1000 * LONGEST_PAUSE)
        tries = 1 + int(2 * patience() / LONGEST_PAUSE)
        retries = icechunk.StorageRetriesSettings(
            max_tries=tries, initial_backoff_ms=min(100, longest), max_backoff_ms=longest
        )
        found.storage = icechunk.StorageSettings(retries=retries)
    return found


@contextmanager
def translate_icechunk_errors(location: Location) -> Iterator[None]:
    """Say in one line what goes wrong with a store, a full disk or a bucket that is away.

    Raises
    ------
    StoreError
        In place of Icechunk's own errors.
    """
    try:
        yield
    except icechunk.IcechunkError as error:
        failed = "read or written" if location.local else "reached"
        raise StoreError(f"{location} cannot be {failed}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What Icechunk's message of many lines says last, of the causes at its end."""
    causes = re.findall(r"^ *(?:[|`]->|[├╰]─▶) ((?!Error ).+)$", str(error), flags=re.MULTILINE)
    said = ": ".join(causes[-2:]) or " ".join(str(error).split())
    return strip_queries(said)[:300]


def translates_icechunk_errors(method: Callable[P, T]) -> Callable[P, T]:
    """A method of `Store` that says in one line what goes wrong."""

    @functools.wraps(method)
    def of_store(*given: P.args, **options: P.kwargs) -> T:
        store: Any = given[0]
        with translate_icechunk_errors(store.location):
            return method(*given, **options)

    return of_store


def retry_icechunk(action: Callable[[], T], what: str, location: Location) -> T:
    """What an action on a store returns, tried again while patience lasts."""
    with translate_icechunk_errors(location):
        return retry(action, what, FAILS, None if location.local else patience())


def remove(location: Location) -> None:
    """Take a store away, with all that is in it."""
    if location.local:
        shutil.rmtree(location.folder, ignore_errors=True)
    else:
        bucket.remove(location)
