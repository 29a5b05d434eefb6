"""Scans, results, checkpoints and pictures in a bucket, as a user keeps them there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.run import driving
from daskptycho.storage import bucket_client, icechunk_client
from daskptycho.storage.bucket import INCOMPLETE
from daskptycho.storage.store import parse_location, write_atomically
from tests.object_store.conftest import Bucket, forget

SMALL = {"frames": (5, 5), "frame_size": 16, "step": 4, "jitter": 1, "tile_frames": 9}


def command(*words: str) -> Result:
    return CliRunner().invoke(daskptycho, list(words))


def done(*words: str) -> str:
    found = command(*words)
    assert found.exit_code == 0, found.output
    return found.output


def plain_store(bucket: Bucket, name: str) -> object:
    """The store, opened without this package."""
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    store = S3Store(
        bucket.name,
        prefix=name,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
        endpoint=bucket.endpoint,
        client_options={"allow_http": True},
    )
    return ObjectStore(store, read_only=True)


def test_a_scan_in_a_bucket_equals_one_on_a_disk(bucket: Bucket, tmp_path: Path) -> None:
    local = dp.simulate_scan(tmp_path / "scan.zarr", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = dp.simulate_scan(bucket.url("a/scan.zarr"), **SMALL)
        plain = xr.open_zarr(plain_store(bucket, "a/scan.zarr")).load()
    xr.testing.assert_identical(stored.load(), local.load())
    xr.testing.assert_identical(plain, local)
    assert f"a/scan.zarr/{INCOMPLETE}" not in bucket.names()
    assert stored["intensity"].chunks is None


@pytest.mark.long
def test_every_command_takes_urls(bucket: Bucket, tmp_path: Path) -> None:
    scan, out = bucket.url("scan.zarr"), bucket.url("out.zarr")
    done("simulate", scan, "--frames", "5x5", "--frame-size", "16", "--step", "4", "--tile-frames", "9")
    assert "25 of 16 x 16 pixels" in done("info", scan)
    assert "25 frames" in done("plan", scan)
    done("reconstruct", scan, out, "--sweeps", "4", "--checkpoint-every", "2")
    here = str(tmp_path / "out.zarr")
    done("reconstruct", scan, here, "--sweeps", "4", "--checkpoint-every", "2")
    for name in ("object", "probe", "residual"):
        np.testing.assert_allclose(
            dp.open_result(out)[name], dp.open_result(here)[name], rtol=1e-5, atol=1e-7
        )
    assert [found.sweep for found in dp.checkpoints(out)] == [2, 4]
    assert " 4 " in done("history", out)
    assert done("view", out).splitlines()[0] == bucket.url("out.png")
    assert bucket.content("out.png").startswith(b"\x89PNG")
    assert done("view", out, bucket.url("two.pdf"), "--sweep", "2").splitlines()[0] == bucket.url("two.pdf")
    assert bucket.content("two.pdf").startswith(b"%PDF")
    assert "relative error" in done("compare", out, scan, bucket.url("compared.png"))
    assert bucket.content("compared.png").startswith(b"\x89PNG")
    done("resume", out, "--sweeps", "6")
    assert dp.open_result(out).sizes["sweep"] == 6
    assert "6 of 6" in done("info", out)
    assert {key.partition("/")[0] for key in bucket.names()} == {
        *("scan.zarr", "out.zarr", "out.zarr.checkpoints", "out.png", "two.pdf", "compared.png")
    }


def test_a_file_is_imported_into_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(3, (6, 8, 8))
    position = np.array([(y, x) for y in range(2) for x in range(3)]) * 2.0
    np.savez(tmp_path / "a.npz", intensity=frames, position=position)
    done("import", str(tmp_path / "a.npz"), bucket.url("scan.zarr"), "--position-unit", "pixel")
    scan = dp.open_scan(bucket.url("scan.zarr"))
    np.testing.assert_array_equal(scan["intensity"], frames[scan["frame_number"]])


# Complete or absent


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_a_failed_write_leaves_nothing(bucket: Bucket, failure: BaseException) -> None:
    def fail(*_: int) -> None:
        raise failure

    with pytest.raises(type(failure)):
        dp.simulate_scan(bucket.url("scan.zarr"), **SMALL, progress=fail)
    assert bucket.names() == []


def test_a_killed_write_is_reported_and_replaced(bucket: Bucket) -> None:
    url = bucket.url("scan.zarr")
    dying = (
        "import os, daskptycho as dp\n"
        f"dp.simulate_scan({url!r}, **{SMALL}, progress=lambda *_: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", dying]).returncode == -9
    assert "scan.zarr/intensity/c/0/0/0" in bucket.names()
    assert "scan.zarr/zarr.json" not in bucket.names()
    with pytest.raises(
        dp.ScanError, match=r"scan\.zarr is incomplete: it is being written, or its writing was interrupted"
    ):
        dp.open_scan(url)
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(plain_store(bucket, "scan.zarr"))
    # The process is dead: what it has left is taken over.
    written = dp.simulate_scan(url, **SMALL)
    xr.testing.assert_identical(dp.open_scan(url).load(), written.load())
    assert f"scan.zarr/{INCOMPLETE}" not in bucket.names()


def test_what_a_living_process_writes_is_replaced_only_when_asked(bucket: Bucket) -> None:
    location = parse_location(bucket.url("scan.zarr"))
    expected = rf"is incomplete: another write \(by process {os.getpid()} on .*\) is in progress"
    with pytest.raises(KeyboardInterrupt), write_atomically(location, overwrite=False):  # noqa: PT012
        with pytest.raises(dp.ScanError, match=expected):
            dp.simulate_scan(bucket.url("scan.zarr"), **SMALL)
        raise KeyboardInterrupt
    assert dp.simulate_scan(bucket.url("scan.zarr"), **SMALL).sizes["frame"] == 25


def test_a_killed_run_is_resumed_rather_than_replaced(bucket: Bucket, tmp_path: Path) -> None:
    dp.simulate_scan(tmp_path / "scan.zarr", **SMALL)
    out = bucket.url("out")
    dying = (
        "import os, daskptycho as dp\n"
        f"dp.reconstruct(dp.open_scan({str(tmp_path / 'scan.zarr')!r}), {out!r}, sweeps=4, "
        "checkpoint_every=1, callback=lambda state: state.sweep == 3 and os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", dying]).returncode == -9
    assert f"out/{INCOMPLETE}" in bucket.names()
    refused = command("reconstruct", str(tmp_path / "scan.zarr"), out)
    assert refused.exit_code == 2
    assert f"continue it with resume (daskptycho resume {out})" in refused.output
    with pytest.raises(dp.ScanError, match="continue it with resume"):
        dp.reconstruct(dp.open_scan(tmp_path / "scan.zarr"), out)
    assert dp.resume(out).sizes["sweep"] == 4


def test_a_run_whose_result_cannot_be_written_is_resumed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    def fail(*_: object) -> None:
        raise obstore.exceptions.GenericError("Generic S3 error: away")

    scan = dp.simulate_scan(tmp_path / "scan.zarr", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(driving, "write_result", fail)
        with pytest.raises(dp.StoreError, match="cannot be reached: away") as raised:
            dp.reconstruct(scan, bucket.url("out"), sweeps=3)
    out = bucket.url("out")
    assert raised.value.__notes__ == [
        f"Sweep 3 is kept in {out}.checkpoints; resume with: daskptycho resume {out}"
    ]
    assert dp.resume(out).sizes["sweep"] == 3


def test_checkpoints_interrupted_at_creation_leave_nothing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise icechunk.IcechunkError("away")

    scan = dp.simulate_scan(tmp_path / "scan.zarr", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Session, "commit", fail)
        with pytest.raises(dp.FaultError, match=r"a checkpoint cannot be written: .*: away"):
            dp.reconstruct(scan, bucket.url("out"), sweeps=2, checkpoint_every=1)
    assert bucket.names() == []
    with pytest.raises(dp.ScanError, match="has no checkpoints"):
        dp.resume(bucket.url("out"))


def test_a_store_is_replaced_once_the_new_one_is_complete(bucket: Bucket) -> None:
    url = bucket.url("scan.zarr")
    old = dp.simulate_scan(url, **SMALL).load()
    with pytest.raises(dp.ScanError, match=r"exists already; pass overwrite=True \(--overwrite\)"):
        dp.simulate_scan(url, **SMALL)
    seen = []

    def look(*_: int) -> None:
        seen.append(dp.open_scan(url)["intensity"].shape)

    new = dp.simulate_scan(url, **SMALL | {"frames": (3, 4)}, overwrite=True, progress=look).load()
    assert set(seen) == {old["intensity"].shape}
    assert new.sizes["frame"] == 12
    xr.testing.assert_identical(dp.open_scan(url).load(), new)
    assert {key.partition("/")[0] for key in bucket.names()} == {"scan.zarr"}

    def fail(*_: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        dp.simulate_scan(url, **SMALL, overwrite=True, progress=fail)
    xr.testing.assert_identical(dp.open_scan(url).load(), new)
    assert {key.partition("/")[0] for key in bucket.names()} == {"scan.zarr"}


def test_a_store_that_cannot_be_put_in_place_is_not_lost(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    def fail(*_: object) -> None:
        raise obstore.exceptions.GenericError("Generic S3 error: away")

    url = bucket.url("scan.zarr")
    dp.simulate_scan(url, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "copy", fail)
        with pytest.raises(dp.StoreError, match="cannot be reached: away") as raised:
            dp.simulate_scan(url, **SMALL | {"frames": (3, 4)}, overwrite=True)
    assert raised.value.__notes__ == [f"The new store is complete in {url}.partial."]
    with pytest.raises(dp.ScanError, match=r"scan\.zarr is incomplete"):
        dp.open_scan(url)
    assert dp.open_scan(f"{url}.partial").sizes["frame"] == 12
    assert dp.simulate_scan(url, **SMALL, overwrite=True).sizes["frame"] == 25


def test_anything_else_is_never_replaced(bucket: Bucket) -> None:
    dp.simulate_scan(bucket.url("scan.zarr"), **SMALL)
    with (
        pytest.raises(dp.ScanError, match="is a daskptycho-scan and is not replaced by a daskptycho-result"),
        write_atomically(parse_location(bucket.url("scan.zarr")), overwrite=True, kind="daskptycho-result"),
    ):
        pass
    bucket.client.put_object(Bucket=bucket.name, Key="home/thesis.txt", Body=b"mine")
    with pytest.raises(dp.ScanError, match="home is not a Zarr group and is not overwritten"):
        dp.simulate_scan(bucket.url("home"), **SMALL, overwrite=True)
    assert bucket.content("home/thesis.txt") == b"mine"


def test_a_missing_chunk_is_reported(bucket: Bucket) -> None:
    dp.simulate_scan(bucket.url("scan.zarr"), **SMALL)
    bucket.client.delete_object(Bucket=bucket.name, Key="scan.zarr/intensity/c/1/0/0")
    with pytest.raises(dp.ScanError, match="1 of 3 chunks of intensity are missing from the store s3://"):
        dp.open_scan(bucket.url("scan.zarr"))


def test_what_does_not_exist_is_reported_in_one_line(bucket: Bucket) -> None:
    for words, expected in (
        (("info", bucket.url("nowhere")), "does not exist; expected a scan"),
        (("view", bucket.url("nowhere")), "does not exist; expected a result"),
        (("info", f"s3://{bucket.name}-not/scan"), f"there is no bucket {bucket.name}-not"),
        (("simulate", f"s3://{bucket.name}-not/scan", "--frames", "2x2"), "there is no bucket"),
        (("resume", bucket.url("nowhere")), "nowhere has no checkpoints"),
        (("info", f"s3://{bucket.name}/scan?profile=nobody"), "profile (nobody) could not be found"),
    ):
        found = command(*words)
        assert found.exit_code == 2, found.output
        assert len(found.stderr.splitlines()) == 1
        assert expected in found.stderr


# Credentials


@pytest.mark.long
def test_a_profile_and_an_endpoint_in_the_url(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "aws_shared_credentials_file").write_text(
        f"[beamline]\naws_access_key_id = {bucket.access_key}\naws_secret_access_key = {bucket.secret_key}\n"
    )
    forget()
    query = f"?endpoint={bucket.endpoint}"
    with pytest.raises(dp.StoreError, match="no credentials are found; expected them in the environment"):
        dp.open_scan(bucket.url("scan.zarr") + query)
    query += "&profile=beamline"
    scan = dp.simulate_scan(bucket.url("scan.zarr") + query, **SMALL)
    dp.reconstruct(scan, bucket.url("out.zarr") + query, sweeps=2, checkpoint_every=1)
    assert dp.open_result(bucket.url("out.zarr") + query).attrs["source"] == bucket.url("scan.zarr") + query
    assert dp.resume(bucket.url("out.zarr") + query, sweeps=3).sizes["sweep"] == 3


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    found = command("info", "https://host/scan.zarr")
    assert found.exit_code == 2
    assert "need obstore; install it with: pip install '.[cloud]'" in found.stderr


def test_a_missing_file_of_this_machine_is_no_error_of_the_bucket(bucket: Bucket) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"frames\.raw"),
        write_atomically(parse_location(bucket.url("scan.zarr")), overwrite=False),
    ):
        Path("frames.raw").read_bytes()
    assert bucket.names() == []


def test_parts_of_a_lazy_scan(bucket: Bucket) -> None:
    stored = dp.simulate_scan(bucket.url("scan.zarr"), **SMALL)["intensity"]
    whole = stored.values
    for index in (3, slice(5, 20, 3), [7, 1, 12], stored["frame"].size - 1):
        np.testing.assert_array_equal(stored[index].values, whole[index])
    np.testing.assert_array_equal(stored[:, 3, 2:5].values, whole[:, 3, 2:5])


# A web server, and a URL of a file


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of Python's own web server, which serves the folder `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_scan_is_read_from_a_web_server(web: str, tmp_path: Path) -> None:
    local = dp.simulate_scan(tmp_path / "a" / "scan.zarr", **SMALL)
    scan = dp.open_scan(f"{web}/a/scan.zarr")
    xr.testing.assert_identical(scan.load(), local.load())
    result = dp.reconstruct(dp.open_scan(f"{web}/a/scan.zarr"), tmp_path / "out.zarr", sweeps=2)
    xr.testing.assert_identical(dp.open_result(f"{web}/out.zarr"), result)
    with pytest.raises(dp.OptionError, match="is on a web server, which is read-only"):
        dp.reconstruct(local, f"{web}/new.zarr", sweeps=1)
    (tmp_path / "a" / "scan.zarr" / "intensity" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(dp.ScanError, match="1 of 3 chunks of intensity are missing"):
        dp.open_scan(f"{web}/a/scan.zarr")
    with pytest.raises(dp.ScanError, match="does not exist; expected a scan"):
        dp.open_scan(f"{web}/nowhere.zarr")


def test_a_url_of_a_file(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/scan.zarr"
    scan = dp.simulate_scan(url, **SMALL)
    assert (tmp_path / "scan.zarr" / "zarr.json").is_file()
    dp.reconstruct(scan, f"file://{tmp_path}/out.zarr", sweeps=1)
    assert dp.open_result(tmp_path / "out.zarr").attrs["source"] == url


# Servers that cannot be reached from here


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("gs://bucket/a/scan.zarr?anonymous=true", "GCSStore"),
        ("az://container/a/scan.zarr?account=mine", "AzureStore"),
        ("az://container/a/scan.zarr?account=mine&anonymous=true", "AzureStore"),
        ("https://example.org/a/scan.zarr", "HTTPStore"),
    ],
)
def test_stores_of_other_clouds_are_constructed(url: str, kind: str) -> None:
    opened = bucket_client.open_bucket(parse_location(url))
    assert type(opened).__name__ == kind
    assert "a/scan.zarr" in repr(opened)
    if not url.startswith("https"):
        assert "scan.zarr" in repr(icechunk_client.make_storage(parse_location(url)))


def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_USE_EMULATOR", raising=False)
    with pytest.raises(dp.OptionError, match="names no storage account; expected"):
        icechunk_client.make_storage(parse_location("az://container/a"))
