"""Scans, results and checkpoints on Azure's own emulator, where it is installed (npm install -g azurite)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import xarray as xr

import daskptycho as dp
from tests.object_store.servers import running_server

pytestmark = pytest.mark.long

# The emulator's account and key are the same everywhere; Microsoft's documentation prints them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
# Where Icechunk and obstore look for the emulator.
ADDRESS = "AZURITE_BLOB_STORAGE_URL"


def make_container(endpoint: str, name: str) -> None:
    """Signed by hand: neither obstore nor Icechunk makes containers."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    version = "2021-08-06"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    text = "PUT" + "\n" * 12 + f"{headers}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{ACCOUNT}/{name}?restype=container",
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
    with running_server([*words, "--blobPort", "0", "--disableTelemetry"]) as endpoint:
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv(ADDRESS, endpoint)
        name = f"test{uuid.uuid4().hex}"
        make_container(endpoint, name)
        yield name


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
