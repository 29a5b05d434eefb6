"""Clients of buckets and web servers, made with obstore: endpoint, region, credentials and retries.

`bucket` reads and writes through this module; `icechunk_client` asks it for the same endpoints and
credentials. What it opens holds credentials: it stays in the process that opened it and goes into no task.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from daskptycho.errors import OptionError, StoreError
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import LONGEST_PAUSE, patience, strip_queries

__all__ = [
    "CREDENTIALS_LAST",
    "azure_server",
    "errors",
    "library",
    "opened",
    "passing_errors",
    "s3_credentials",
    "s3_server",
    "translate_errors",
]

DEFAULT_REGION = "us-east-1"
# Credentials are asked for again after that long; those that renew themselves do so in time.
CREDENTIALS_LAST = timedelta(minutes=10)
EMULATED_ACCOUNT = "devstoreaccount1"


def library() -> Any:
    """The module obstore.

    Raises
    ------
    OptionError
        It is not installed.
    """
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise OptionError(
            "buckets and web servers need obstore; install it with: pip install 'daskptycho[cloud]'"
        ) from error
    return obstore


@contextmanager
def translate_errors(location: Location) -> Iterator[None]:
    """Say in one line what goes wrong with a store here.

    Raises
    ------
    StoreError
        In place of obstore's own errors, with their notes.
    """
    if location.local:
        yield
        return
    try:
        yield
    except StoreError:
        raise
    except errors(location) as error:
        in_words = _in_words(location, error)
        if in_words is None:
            raise
        for note in getattr(error, "__notes__", ()):
            in_words.add_note(note)
        raise in_words from error


def _in_words(location: Location, error: Exception) -> StoreError | None:
    """What an error of obstore means for a store; None where it is none of obstore's."""
    refused = library().exceptions
    # obstore raises Python's own; a file of this machine has nothing to do with the bucket.
    if isinstance(error, FileNotFoundError) and not str(error).startswith("Object at location"):
        return None
    if isinstance(error, (refused.UnauthenticatedError, refused.PermissionDeniedError)):
        return StoreError(
            f"{location} lets nobody in with these credentials, or without any ({_short(error)}); expected "
            "some in the environment, a profile (?profile=NAME) or an instance role, or ?anonymous=true for "
            "public data"
        )
    if isinstance(error, FileNotFoundError) or "404 Not Found" in str(error):
        return StoreError(f"{location}: there is no bucket {location.bucket} ({_short(error)})")
    return StoreError(f"{location} cannot be reached: {_short(error)}")


def errors(location: Location) -> tuple[type[Exception], ...]:
    """All errors of obstore that `translate_errors` puts into words; none where it has no part."""
    if location.local:
        return ()
    return (library().exceptions.BaseError, FileNotFoundError)


def passing_errors() -> tuple[type[Exception], ...]:
    """Errors of a server that may be over in a moment."""
    return (library().exceptions.GenericError,)


def _short(error: Exception) -> str:
    """The first line of what a library says, without the query of an address, which may be signed."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = strip_queries(line.partition(": <")[0])
    return re.sub(r"^Generic \w+ error: ", "", line).strip(" :")[:300]


def s3_server(location: Location) -> tuple[str | None, str]:
    """Endpoint, None for Amazon's own, and region: what the URL says, else the environment."""
    environment = os.environ.get
    endpoint = location.endpoint or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = location.region or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    return endpoint or None, region or (_session(location.profile).region_name or DEFAULT_REGION)


def azure_server(location: Location) -> tuple[str, dict[str, str]]:
    """Storage account and further settings of Azure: what the URL says, else the environment.

    Raises
    ------
    OptionError
        Neither names an account.
    """
    account = location.account or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    emulated = bool(os.environ.get("AZURE_STORAGE_USE_EMULATOR"))
    if account is None and not emulated:
        raise OptionError(
            f"{location} names no storage account; expected ?account=NAME, or AZURE_STORAGE_ACCOUNT_NAME in "
            "the environment"
        )
    return account or EMULATED_ACCOUNT, {"azure_endpoint": location.endpoint} if location.endpoint else {}


@functools.lru_cache(maxsize=8)
def _session(profile: str | None) -> Any:
    try:
        import boto3
        import botocore.exceptions
    except ImportError as error:
        raise OptionError("s3:// needs boto3; install it with: pip install 'daskptycho[cloud]'") from error
    try:
        return boto3.Session(profile_name=profile)
    except botocore.exceptions.ProfileNotFound as error:
        raise OptionError(f"{error}; expected a profile of the AWS configuration of this machine") from error


def s3_credentials(location: Location) -> Any:
    """Credentials of this process: from the environment, a profile or an instance role.

    Returns
    -------
    botocore.credentials.Credentials
        They renew themselves; ask for frozen ones each time.

    Raises
    ------
    StoreError
        There are none.
    """
    found = _session(location.profile).get_credentials()
    if found is None:
        raise StoreError(
            f"{location}: no credentials are found; expected some in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY), a profile (?profile=NAME) or an instance role, or ?anonymous=true"
        )
    return found


def opened(location: Location) -> Any:
    """The bucket, with the location as its root."""
    return _bucket(location, patience())


@functools.lru_cache(maxsize=64)
def _bucket(location: Location, seconds: float) -> Any:
    obstore = library()
    endpoint = location.endpoint
    retries = {
        # The time decides, not the number; nothing is tried again where there is no time.
        "max_retries": 10_000 if seconds else 0,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE),
            "base": 2,
        },
    }
    # A connection that says nothing is given up; one that is slow is not.
    client: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "1h"}
    given: dict[str, Any] = {"retry_config": retries, "client_options": client}
    config: dict[str, Any] = {"skip_signature": True} if location.anonymous else {}
    if location.scheme in ("http", "https"):
        client["allow_http"] = location.scheme == "http"
        url = f"{location.scheme}://{location.bucket}/{location.path}"
        return obstore.store.HTTPStore.from_url(url, **given)
    if location.scheme == "s3":
        endpoint, config["region"] = s3_server(location)
        if endpoint is not None:
            config["endpoint"] = endpoint
        if not location.anonymous:
            from obstore.auth.boto3 import Boto3CredentialProvider

            s3_credentials(location)
            given["credential_provider"] = Boto3CredentialProvider(
                _session(location.profile), ttl=CREDENTIALS_LAST
            )
    elif location.scheme == "az":
        config |= {"endpoint": endpoint} if endpoint else {}
        config |= {"account_name": location.account} if location.account else {}
    client["allow_http"] = endpoint is not None and endpoint.startswith("http:")
    if location.scheme == "az" and os.environ.get("AZURE_STORAGE_USE_EMULATOR"):
        client["allow_http"] = True
    kind = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}[location.scheme]
    prefix = location.path.strip("/") or None
    return getattr(obstore.store, kind)(location.bucket, prefix=prefix, config=config, **given)
