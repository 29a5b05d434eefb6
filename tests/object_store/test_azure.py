"""Scans, results and checkpoints on Azure's own emulator, where it is installed (npm install -g azurite)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import xarray as xr

import daskptycho as dp
from tests.object_store.ceph import free_port
from tests.object_store.conftest import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

# The emulator's account and key are the same everywhere; Microsoft's documentation prints them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
# Icechunk and obstore look for the emulator there.
PORT = 10000


def make_container(name: str) -> None:
    """Signed by hand: neither obstore nor Icechunk makes containers."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    version = "2021-08-06"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    text = "PUT" + "\n" * 12 + f"{headers}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        },
    )
    urllib.request.urlopen(request).close()


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if shutil.which("azurite-blob") is None:
        pytest.skip("needs Azure's emulator: npm install -g azurite")
    words = ["azurite-blob", "--location", str(tmp_path / "azurite"), "--skipApiVersionCheck", "--silent"]
    process = subprocess.Popen(
        [*words, "--blobPort", str(PORT), "--disableTelemetry"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(PORT, process)
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        name = f"test{free_port()}"
        make_container(name)
        yield name
    finally:
        process.kill()
        process.wait()


def test_from_container_to_container(container: str, tmp_path: Path) -> None:
    small = {"frames": (5, 5), "frame_size": 16, "step": 4, "tile_frames": 9}
    scan = dp.simulate_scan(f"az://{container}/scan.zarr", **small)
    xr.testing.assert_identical(scan.load(), dp.simulate_scan(tmp_path / "scan.zarr", **small).load())
    out = f"az://{container}/out"
    result = dp.reconstruct(dp.open_scan(f"az://{container}/scan.zarr"), out, sweeps=3, checkpoint_every=1)
    xr.testing.assert_identical(dp.open_result(out), result)
    assert [found.sweep for found in dp.checkpoints(out)] == [1, 2, 3]
    assert dp.resume(out, sweeps=5).sizes["sweep"] == 5
    with pytest.raises(dp.ScanError, match="exists already"):
        dp.simulate_scan(f"az://{container}/scan.zarr", **small)
