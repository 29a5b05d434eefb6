"""A server that is down: for a while, which a run waits out, or for good, after which the run is resumed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.storage.retrying import PATIENCE_VARIABLE
from tests.object_store.ceph import Ceph
from tests.object_store.conftest import Bucket, forget

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

SMALL = {"frames": (8, 8), "frame_size": 16, "step": 4, "jitter": 1, "tile_frames": 16}
SWEEPS = 12


@pytest.fixture
def scan(bucket: Bucket) -> xr.Dataset:
    return dp.simulate_scan(bucket.url("scan.zarr"), **SMALL).load()


@pytest.fixture
def expected(scan: xr.Dataset, tmp_path: Path) -> xr.Dataset:
    """The result of the same run on this machine's disk."""
    local = dp.simulate_scan(tmp_path / "scan.zarr", **SMALL)
    return dp.reconstruct(local, tmp_path / "out.zarr", sweeps=SWEEPS)


@contextmanager
def command(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "daskptycho", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def reconstruct(bucket: Bucket) -> tuple[str, ...]:
    return (
        *("reconstruct", bucket.url("scan.zarr"), bucket.url("out"), "--workers", "2"),
        *("--sweeps", str(SWEEPS), "--checkpoint-every", "1"),
    )


def wait_for_checkpoint(bucket: Bucket) -> None:
    """Wait until the run has kept its third sweep, so that it is in the middle."""
    while True:
        try:
            if len(dp.checkpoints(bucket.url("out"))) >= 3:
                return
        except dp.ScanError:
            pass
        time.sleep(0.05)


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in ("object", "probe", "illumination", "residual"):
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * scale)


def test_from_bucket_to_bucket_equals_the_local_run(bucket: Bucket, expected: xr.Dataset) -> None:
    with command(*reconstruct(bucket)) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(dp.open_result(bucket.url("out")), expected)


def test_an_outage_of_20_s_is_waited_out(bucket: Bucket, ceph: Ceph, expected: xr.Dataset) -> None:
    with command(*reconstruct(bucket)) as process:
        wait_for_checkpoint(bucket)
        ceph.kill()
        time.sleep(20)
        # The run has neither given up nor ended.
        assert process.poll() is None
        ceph.start()
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(dp.open_result(bucket.url("out")), expected)
    assert [found.sweep for found in dp.checkpoints(bucket.url("out"))] == list(range(1, SWEEPS + 1))


def test_a_server_down_for_good_is_reported_in_one_line_and_the_run_is_resumed(
    bucket: Bucket, ceph: Ceph, expected: xr.Dataset
) -> None:
    with command(*reconstruct(bucket), **{PATIENCE_VARIABLE: "4"}) as process:
        wait_for_checkpoint(bucket)
        ceph.kill()
        try:
            _, errors = process.communicate()
        finally:
            ceph.start()
    assert process.returncode in (1, 2), errors
    # Progress goes to the error stream too.
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    assert "cannot be reached" in lines[0]
    assert f"resume with: daskptycho resume {bucket.url('out')}" in errors
    with pytest.raises(dp.ScanError, match="is incomplete"):
        dp.open_result(bucket.url("out"))
    with command("resume", bucket.url("out")) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same(dp.open_result(bucket.url("out")), expected)


def back_after(ceph: Ceph, seconds: float) -> threading.Timer:
    """Kill the server now; it starts again after this time."""
    ceph.kill()
    timer = threading.Timer(seconds, ceph.start)
    timer.start()
    return timer


def test_a_write_continues_when_the_server_is_back(bucket: Bucket, ceph: Ceph) -> None:
    timers = []

    def interrupt(written: int, of: int) -> None:
        if written < of:
            timers.append(back_after(ceph, 1.5))

    written = dp.simulate_scan(bucket.url("scan.zarr"), **SMALL, progress=interrupt)
    for timer in timers:
        timer.join()
    assert len(timers) == 3
    again = dp.simulate_scan(bucket.url("again.zarr"), **SMALL)
    xr.testing.assert_identical(written.load(), again.load())


def test_a_read_continues_when_the_server_is_back(bucket: Bucket, ceph: Ceph) -> None:
    """The server is killed repeatedly while it is answering."""
    frames = np.random.default_rng(2).integers(0, 60000, (64, 256, 256), dtype=np.uint16)
    position = np.array([(y, x) for y in range(8) for x in range(8)]) * 64.0
    url = bucket.url("large.zarr")
    stored = dp.create_scan(url, frames, position, position_unit="pixel", tile_frames=32)
    of_frame = frames[stored["frame_number"]].sum(axis=(1, 2), dtype=np.int64)
    stop = threading.Event()

    def disturb() -> None:
        for pause in (0.1, 0.25, 0.05):
            time.sleep(pause)
            ceph.kill()
            time.sleep(0.5)
            ceph.start()
        stop.set()

    thread = threading.Thread(target=disturb)
    thread.start()
    rounds = 0
    while not stop.is_set() or rounds == 0:
        found = dp.open_scan(url)["intensity"].sum(("qy", "qx"), dtype=np.int64).values
        np.testing.assert_array_equal(found, of_frame)
        rounds += 1
    thread.join()


def test_patience_has_an_end(
    bucket: Bucket, ceph: Ceph, scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "1")
    forget()
    opened = dp.open_scan(bucket.url("scan.zarr"))
    ceph.kill()
    try:
        with pytest.raises(dp.StoreError, match=r"scan\.zarr cannot be reached: "):
            dp.open_scan(bucket.url("scan.zarr"))
        with pytest.raises(dp.StoreError, match=r"scan\.zarr cannot be reached: "):
            opened["intensity"].load()
        with pytest.raises(dp.StoreError, match=r"new\.zarr cannot be reached: "):
            dp.simulate_scan(bucket.url("new.zarr"), **SMALL)
    finally:
        ceph.start()
    np.testing.assert_array_equal(opened["intensity"].values, scan["intensity"].values)


def test_a_public_bucket_is_read_without_credentials(
    bucket: Bucket, ceph: Ceph, scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.url("scan.zarr")
    with pytest.raises(dp.StoreError, match="denies access with these credentials, or without any"):
        dp.open_scan(f"{url}?anonymous=true")
    bucket.client.put_bucket_acl(Bucket=bucket.name, ACL="public-read")
    for name in bucket.names():
        bucket.client.put_object_acl(Bucket=bucket.name, Key=name, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget()
    xr.testing.assert_identical(dp.open_scan(f"{url}?anonymous=true").load(), scan.load())
    with pytest.raises(dp.StoreError, match="denies access"):
        dp.simulate_scan(f"{url}?anonymous=true", **SMALL, overwrite=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    forget()
    with pytest.raises(dp.StoreError, match="denies access with these credentials"):
        dp.open_scan(url)
