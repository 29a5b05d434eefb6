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

from daskptycho.errors import OptionError, StoreError, how_to_install
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import LONGEST_PAUSE, patience, strip_queries

__all__ = [
    "CREDENTIALS_LIFETIME",
    "azure_server",
    "client_errors",
    "import_obstore",
    "open_bucket",
    "s3_credentials",
    "s3_server",
    "transient_errors",
    "translate_errors",
]

DEFAULT_REGION = "us-east-1"
# Credentials are requested again after this time; those that renew themselves do so earlier.
CREDENTIALS_LIFETIME = timedelta(minutes=10)
EMULATED_ACCOUNT = "devstoreaccount1"


def import_obstore() -> Any:
    """Import obstore.

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
            f"buckets and web servers need obstore; install it with: {how_to_install('cloud')}"
        ) from error
    return obstore


@contextmanager
def translate_errors(location: Location) -> Iterator[None]:
    """Report in one line what goes wrong with a store in the block.

    Raises
    ------
    StoreError
        In place of an error of obstore, with its notes.
    """
    if location.is_local:
        yield
        return
    try:
        yield
    except StoreError:
        raise
    except client_errors(location) as error:
        translated = _to_store_error(location, error)
        if translated is None:
            raise
        for note in getattr(error, "__notes__", ()):
            translated.add_note(note)
        raise translated from error


def _to_store_error(location: Location, error: Exception) -> StoreError | None:
    """What an error of obstore means for a store; None for an error that is not obstore's."""
    exceptions = import_obstore().exceptions
    # obstore raises Python's FileNotFoundError; a file of this machine has nothing to do with the bucket.
    if isinstance(error, FileNotFoundError) and not str(error).startswith("Object at location"):
        return None
    cause = _first_line(error)
    if isinstance(error, (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)):
        return StoreError(
            f"{location} denies access with these credentials, or without any ({cause}); expected "
            "credentials in the environment, a profile (?profile=NAME) or an instance role, or "
            "?anonymous=true for public data"
        )
    if isinstance(error, FileNotFoundError) or "404 Not Found" in str(error):
        return StoreError(f"{location}: there is no bucket {location.bucket} ({cause})")
    return StoreError(f"{location} cannot be reached: {cause}")


def client_errors(location: Location) -> tuple[type[Exception], ...]:
    """All errors that `translate_errors` may translate; none on a disk."""
    if location.is_local:
        return ()
    return (import_obstore().exceptions.BaseError, FileNotFoundError)


def transient_errors() -> tuple[type[Exception], ...]:
    """Errors of a server that may be gone in a moment."""
    return (import_obstore().exceptions.GenericError,)


def _first_line(error: Exception) -> str:
    """The first line of an error, without the queries of addresses, which may be signed."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = strip_queries(line.partition(": <")[0])
    return re.sub(r"^Generic \w+ error: ", "", line).strip(" :")[:300]


def s3_server(location: Location) -> tuple[str | None, str]:
    """Endpoint (None for Amazon's own) and region, from the URL or else from the environment."""
    environment = os.environ.get
    endpoint = location.endpoint or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = location.region or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    return endpoint or None, region or (_aws_session(location.profile).region_name or DEFAULT_REGION)


def azure_server(location: Location) -> tuple[str, dict[str, str]]:
    """Storage account and further settings of Azure, from the URL or else from the environment.

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
def _aws_session(profile: str | None) -> Any:
    try:
        import boto3
        import botocore.exceptions
    except ImportError as error:
        raise OptionError(f"s3:// needs boto3; install it with: {how_to_install('cloud')}") from error
    try:
        return boto3.Session(profile_name=profile)
    except botocore.exceptions.ProfileNotFound as error:
        raise OptionError(f"{error}; expected a profile of the AWS configuration of this machine") from error


def s3_credentials(location: Location) -> Any:
    """Look up credentials in the environment, a profile or an instance role.

    Returns
    -------
    botocore.credentials.Credentials
        They renew themselves; ask for frozen ones each time.

    Raises
    ------
    StoreError
        This process has none.
    """
    found = _aws_session(location.profile).get_credentials()
    if found is None:
        raise StoreError(
            f"{location}: no credentials are found; expected them in the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY), a profile (?profile=NAME) or an instance role, or ?anonymous=true"
        )
    return found


def open_bucket(location: Location) -> Any:
    """Open the bucket, with the location as its root."""
    return _open_bucket_cached(location, patience())


@functools.lru_cache(maxsize=64)
def _open_bucket_cached(location: Location, seconds: float) -> Any:
    obstore = import_obstore()
    endpoint = location.endpoint
    retries = {
        # The time limits the retries, not their number; without time there are none.
        "max_retries": 10_000 if seconds else 0,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE),
            "base": 2,
        },
    }
    # A silent connection is given up; a slow one is not.
    client: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "1h"}
    options: dict[str, Any] = {"retry_config": retries, "client_options": client}
    config: dict[str, Any] = {"skip_signature": True} if location.anonymous else {}
    if location.scheme in ("http", "https"):
        client["allow_http"] = location.scheme == "http"
        url = f"{location.scheme}://{location.bucket}/{location.path}"
        return obstore.store.HTTPStore.from_url(url, **options)
    if location.scheme == "s3":
        endpoint, config["region"] = s3_server(location)
        if endpoint is not None:
            config["endpoint"] = endpoint
        if not location.anonymous:
            from obstore.auth.boto3 import Boto3CredentialProvider

            s3_credentials(location)
            options["credential_provider"] = Boto3CredentialProvider(
                _aws_session(location.profile), ttl=CREDENTIALS_LIFETIME
            )
    elif location.scheme == "az":
        config |= {"endpoint": endpoint} if endpoint else {}
        # The emulator's too: without a name a store cannot be printed, as Zarr does in its errors.
        config["account_name"] = azure_server(location)[0]
    client["allow_http"] = endpoint is not None and endpoint.startswith("http:")
    if location.scheme == "az" and os.environ.get("AZURE_STORAGE_USE_EMULATOR"):
        client["allow_http"] = True
    kind = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}[location.scheme]
    prefix = location.path.strip("/") or None
    return getattr(obstore.store, kind)(location.bucket, prefix=prefix, config=config, **options)
