"""Compare reading and writing a scan in a bucket with the same scan on the local disk, in one run.

    python benchmarks/object_store.py
    python benchmarks/object_store.py --server moto
    python benchmarks/object_store.py --quick

The server runs on the loopback interface: Ceph's RADOS gateway if it is installed (see
tests/object_store/ceph.py), otherwise that of moto, which is written in Python and meant for tests. Frames
are read as a run reads them, tile by tile through `open_scan`, from disk and server in turn; the fastest of
several rounds counts. The files of the disk are in the page cache, the objects of the server in its memory.
With --s3fs, that library reads and writes the same data through Zarr.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
import xarray as xr
import zarr
from rich.console import Console
from rich.table import Table
from timing import fastest_seconds

import daskptycho as dp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.object_store.ceph import missing_programs, running_ceph
from tests.object_store.servers import running_moto

BUCKET = "benchmark"


@contextmanager
def run_moto() -> Iterator[dict[str, str]]:
    """Run the server of moto; yield the environment by which a client finds it."""
    with running_moto() as endpoint:
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }


@contextmanager
def run_ceph() -> Iterator[dict[str, str]]:
    """Run the gateway of Ceph; yield the environment by which a client finds it."""
    with running_ceph() as gateway:
        yield {
            "AWS_ENDPOINT_URL": gateway.endpoint,
            "AWS_ACCESS_KEY_ID": gateway.access_key,
            "AWS_SECRET_ACCESS_KEY": gateway.secret_key,
        }


def make_bucket() -> None:
    import boto3
    from botocore.config import Config

    # The server may still be starting.
    retries = Config(retries={"max_attempts": 10, "mode": "standard"})
    boto3.client("s3", region_name="us-east-1", config=retries).create_bucket(Bucket=BUCKET)


def make_frames(kind: str, number: int, size: int) -> np.ndarray:
    """Make frames of counts that compress well, as diffraction does, or not at all."""
    random = np.random.default_rng(0)
    if kind == "sparse":
        return random.poisson(0.5, (number, size, size)).astype(np.uint16)
    return random.integers(0, 2**15, (number, size, size), dtype=np.uint16)


def write(url: str, frames: np.ndarray, tile_frames: int) -> None:
    side = int(len(frames) ** 0.5)
    position = np.array([(y, x) for y in range(side) for x in range(side)]) * (frames.shape[1] / 4)
    dp.create_scan(url, frames, position, position_unit="pixel", tile_frames=tile_frames, overwrite=True)


def read(scan: xr.Dataset, threads: int) -> None:
    """Read every tile once, as the tasks of a run do."""
    blocks = scan["intensity"].data.to_delayed().ravel()
    with dask.config.set(scheduler="threads", num_workers=threads):
        dask.compute([dask.delayed(np.size)(block) for block in blocks])


def s3fs_store() -> Any:
    import s3fs
    from zarr.storage import FsspecStore

    system = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], asynchronous=True)
    return FsspecStore(system, path=f"{BUCKET}/by-s3fs")


def write_by_s3fs(frames: np.ndarray, tile_frames: int) -> None:
    from zarr.codecs import BloscCodec

    array = zarr.create_array(
        s3fs_store(),
        name="intensity",
        shape=frames.shape,
        dtype=frames.dtype,
        chunks=(16, *frames.shape[1:]),
        shards=(tile_frames, *frames.shape[1:]),
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
        overwrite=True,
    )
    for start in range(0, len(frames), tile_frames):
        array[start : start + tile_frames] = frames[start : start + tile_frames]


def read_by_s3fs(tile_frames: int) -> None:
    array = zarr.open_array(s3fs_store(), path="intensity", mode="r")
    for start in range(0, array.shape[0], tile_frames):
        array[start : start + tile_frames]


def measure(
    folder: str, kind: str, number: int, size: int, rounds: int, compare: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds to open the scan, and uncompressed megabytes per second of all reads and writes."""
    frames = make_frames(kind, number, size)
    tile = max(16, 2**22 // size**2 // 16 * 16)
    urls = {"disk": f"{folder}/scan.zarr", "bucket": f"s3://{BUCKET}/scan.zarr"}
    writes: dict[str, Callable[[], Any]] = {
        f"write {name}": partial(write, url, frames, tile) for name, url in urls.items()
    }
    if compare:
        writes["write by s3fs"] = partial(write_by_s3fs, frames, tile)
    seconds = fastest_seconds(writes, 1)
    opened = fastest_seconds(
        {f"open {name}": partial(dp.open_scan, url) for name, url in urls.items()}, rounds
    )
    scans = {name: dp.open_scan(url) for name, url in urls.items()}
    reads: dict[str, Callable[[], Any]] = {
        f"read {name}, threads: {threads}": partial(read, scan, threads)
        for threads in (1, 2)
        for name, scan in scans.items()
    }
    if compare:
        reads["read by s3fs, threads: 1"] = partial(read_by_s3fs, tile)
    seconds |= fastest_seconds(reads, rounds)
    return opened, {name: frames.nbytes / 1e6 / value for name, value in seconds.items()}


@click.command()
@click.option("--quick", is_flag=True, help="A few frames and one round, with moto.")
@click.option(
    "--server", type=click.Choice(["ceph", "moto"]), help="Server; by default, Ceph if it is installed."
)
@click.option("--side", default=64, show_default=True, help="Frames along each side of the scan.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of which the fastest counts.")
@click.option("--s3fs", "compare", is_flag=True, help="Read and write the same data with s3fs as well.")
def main(quick: bool, server: str | None, side: int, rounds: int, compare: bool) -> None:
    """Measure reading and writing on one server: a process looks up its credentials only once."""
    size, side, rounds = (32, 8, 1) if quick else (128, side, rounds)
    name = server or ("moto" if quick or missing_programs() else "ceph")
    server_run = {"moto": run_moto, "ceph": run_ceph}[name]()
    with server_run as environment, tempfile.TemporaryDirectory() as folder:
        os.environ.update(environment)
        make_bucket()
        for kind in ("sparse", "incompressible"):
            opened, found = measure(folder, kind, side**2, size, rounds, compare)
            show(f"{name}, {kind} frames, {side}x{side} of {size}x{size}", found)
            print(", ".join(f"{what}: {seconds:.2f} s" for what, seconds in opened.items()), end="\n\n")


def show(title: str, found: dict[str, float]) -> None:
    table = Table("", "MB/s", "of the disk's", title=title, title_justify="left")
    for name, value in found.items():
        base = found[name.replace("bucket", "disk").replace("by s3fs", "disk")]
        table.add_row(name, f"{value:.0f}", f"{value / base:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
