"""URLs are taken apart, printed as they were given, and refused without repeating a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from daskptycho.errors import OptionError
from daskptycho.storage.location import Location, parse_location


def test_paths_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in (
        tmp_path / "a",
        "a",
        "~/a",
        "b/../a",
        f"file://{tmp_path}/a",
        f"file://localhost{tmp_path}/a",
    ):
        location = parse_location(given)
        assert location.is_local
        assert location.local_path == tmp_path / "a"
        assert str(location) == f"{tmp_path}/a"
    assert parse_location(f"file://{tmp_path}/one%20two").local_path == tmp_path / "one two"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/b.zarr", Location("s3", "bucket", "a/b.zarr")),
        (
            "s3://bucket/a?endpoint=http://localhost:9000&region=eu-west-1&profile=beamline",
            Location("s3", "bucket", "a", "http://localhost:9000", "eu-west-1", "beamline"),
        ),
        ("s3://bucket/a?anonymous=true", Location("s3", "bucket", "a", anonymous=True)),
        ("gs://bucket/a", Location("gs", "bucket", "a")),
        ("az://container/a?account=mine", Location("az", "container", "a", account="mine")),
        ("https://example.org:8080/data/a.zarr", Location("https", "example.org:8080", "data/a.zarr")),
    ],
)
def test_urls(url: str, expected: Location) -> None:
    location = parse_location(url)
    assert location == expected
    assert not location.is_local
    assert str(location) == url
    assert parse_location(str(location)) == location
    assert parse_location(location) is location


def test_other_ways_to_write_them() -> None:
    assert (
        parse_location("S3://bucket/a/")
        == parse_location("s3://bucket/a?anonymous=false")
        == Location("s3", "bucket", "a")
    )
    assert parse_location("gcs://bucket/a").scheme == "gs"
    assert parse_location("azure://bucket/a").scheme == "az"


def test_locations_beside_and_below() -> None:
    location = parse_location("s3://bucket/a/out?profile=me")
    assert location.name == "out"
    assert str(location.with_name("out.checkpoints")) == "s3://bucket/a/out.checkpoints?profile=me"
    assert str(location.joinpath("c", "0")) == "s3://bucket/a/out/c/0?profile=me"
    assert str(parse_location("s3://bucket/out").with_name("x")) == "s3://bucket/x"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/a", "the scheme ftp:// is not known; expected a path or one of s3://, gs://"),
        ("s3://bucket", r"s3://bucket names no store; expected s3://bucket/name"),
        ("s3:///a", r"expected s3://bucket/name"),
        ("s3://bucket/a//b", "has an empty part"),
        ("s3://bucket/../b", "expected plain names"),
        (Path("s3://bucket/a"), "was a URL before it became a Path"),
        ("file://elsewhere/a", "no file of this machine"),
        ("s3://bucket/a?anonymous=perhaps", "anonymous without true or false"),
        ("s3://bucket/a?endpoint=localhost:9000", "expected http://host:port"),
        ("s3://KEY:PLANTED@bucket/a", "expected credentials in the environment, a profile"),
        ("https://KEY:PLANTED@host/a", "expected credentials in the environment, a profile"),
        ("s3://bucket/a?endpoint=http://KEY:PLANTED@host", "expected http://host:port"),
        ("s3://bucket/a?endpoint=http%3A%2F%2Fhost%3Fsig%3DPLANTED", "expected http://host:port"),
        ("s3://bucket/a?endpoint=http://host%23PLANTED", "expected http://host:port"),
        ("file:///a?sig=PLANTED", "file:///a is no file of this machine"),
        ("s3://bucket/a?secret_access_key=PLANTED", "has 'secret_access_key'"),
        ("https://host/a?X-Amz-Signature=PLANTED", "has 'X-Amz-Signature' after its '.'; expected nothing"),
    ],
)
def test_other_urls_are_refused(url: str | Path, words: str) -> None:
    with pytest.raises(OptionError, match=words) as refused:
        parse_location(url)
    assert "PLANTED" not in str(refused.value)
