"""Scans that grow in a bucket, and what their readers see."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import daskptycho as dp
from tests.object_store.conftest import Bucket
from tests.scan.test_scan_writer import (
    FRAMES,
    KILLED,
    TILE,
    check_readable,
    counts,
    lay_out,
    write_faulty_tiles,
)


def test_a_scan_grows_in_a_bucket_as_on_a_disk(bucket: Bucket) -> None:
    url = bucket.url("scan.zarr")
    lay_out(url)
    assert not any("/intensity/c/" in name for name in bucket.names())
    with dp.ScanWriter(url) as writer:
        for numbers in np.array_split(np.random.default_rng(3).permutation(FRAMES), 4):
            writer.write(counts()[numbers], numbers)
            assert check_readable(url) == writer.written
    assert check_readable(url) == FRAMES
    assert sum("/intensity/c/" in name for name in bucket.names()) == FRAMES // TILE


@pytest.mark.parametrize("after", [3, 6])
def test_a_killed_writer_of_a_bucket_is_succeeded(bucket: Bucket, after: int) -> None:
    url = bucket.url("scan.zarr")
    lay_out(url)
    killed = KILLED.replace("LocalStore", "ObjectStore")
    done = subprocess.run([sys.executable, "-c", killed, url, str(after)], check=False)
    assert done.returncode == -9
    assert check_readable(url) == (after // 4) * TILE
    with dp.ScanWriter(url) as writer:
        writer.write(counts()[writer.missing], writer.missing)
    assert check_readable(url) == FRAMES


def test_two_writers_of_a_bucket_lose_no_mask(bucket: Bucket) -> None:
    lay_out(bucket.url("scan.zarr"))
    write_faulty_tiles(bucket.url("scan.zarr"))
