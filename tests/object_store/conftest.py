"""A bucket on a real S3 server: Ceph's gateway where it is installed, otherwise moto's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daskptycho.storage import bucket_client
from tests.object_store.ceph import Ceph, missing_programs, running_ceph
from tests.object_store.servers import running_moto


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test's own, whose credentials are in the environment."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    client: Any
    ceph: Ceph | None

    def url(self, name: str) -> str:
        return f"s3://{self.name}/{name}"

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def content(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()


@dataclass(frozen=True)
class Server:
    endpoint: str
    access_key: str
    secret_key: str
    ceph: Ceph | None = None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Ceph's gateway or moto's server, shared by all tests."""
    if not missing_programs():
        with running_ceph() as ceph:
            yield Server(ceph.endpoint, ceph.access_key, ceph.secret_key, ceph)
        return
    with running_moto() as endpoint:
        yield Server(endpoint, "PLANTED-KEY-OF-MOTO", "PLANTED-SECRET-OF-MOTO")


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """A new bucket; its credentials are in the environment."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    forget()
    client = boto3.client("s3", region_name="us-east-1")
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield Bucket(name, server.endpoint, server.access_key, server.secret_key, client, server.ceph)
    forget()


def forget() -> None:
    """Forget the clients that this process has opened and the credentials that it has found."""
    bucket_client._aws_session.cache_clear()
    bucket_client._open_bucket_cached.cache_clear()


@pytest.fixture
def ceph(bucket: Bucket) -> Ceph:
    if bucket.ceph is None:
        pytest.skip(f"needs Ceph, of which {', '.join(missing_programs())} are missing")
    return bucket.ceph
