"""Kill who writes a scan and who follows it, at random moments, and compare the scan and the image.

    python benchmarks/live_faults.py            # 20 kills of each, and 20 of both; 20 minutes
    python benchmarks/live_faults.py --quick

A process writes the frames of a simulated scan, and `daskptycho reconstruct --follow` takes them up. Both are
killed by SIGKILL and started again: the writer goes on with the frames that are missing, and the run with
`daskptycho resume`, or from the start if it has no checkpoint yet. In the end the scan has to hold the frames
of the source, bit for bit, and the image has to be that of a scan and a run that nothing disturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import daskptycho as dp

COMMAND = [sys.executable, "-m", "daskptycho"]
# The writer: the frames that are missing, block by block at a rate. A kill may come within a shard.
WRITE = """
import sys, time, warnings
import daskptycho as dp
source, url, rate, block = dp.open_scan(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
warnings.simplefilter("ignore")
order = source["frame_number"].values
counts = source["intensity"].values
with dp.ScanWriter(url) as writer:
    begun, sent = time.monotonic(), 0
    missing = set(writer.missing.tolist())
    rows = [row for row, number in enumerate(order) if number in missing]
    for first in range(0, len(rows), block):
        own = rows[first : first + block]
        writer.write(counts[own], order[own])
        sent += len(own)
        time.sleep(max(0.0, begun + sent / rate - time.monotonic()))
"""
# Largest relative difference of two images that count as equal.
SAME = 1e-5
BLOCK = 4


def lay_out(source: xr.Dataset, url: Path, tile_frames: int) -> None:
    """Lay out a scan with the positions, the probe and the type of the source, and no frames."""
    number = source["frame_number"].values
    position = np.empty((len(number), 2))
    position[number] = source["position"].values
    dp.create_scan(
        url,
        planned_position=position,
        frame_shape=source["intensity"].shape[1:],
        dtype=source["intensity"].dtype,
        position_unit=source["position"].attrs["units"],
        probe=source["probe"].values,
        tile_frames=tile_frames,
    )


class Contender:
    """A process that is started, killed and started again until it ends by itself."""

    def __init__(self, *calls: list[str]) -> None:
        self.calls, self.kills = calls, 0
        self._process: subprocess.Popen[str] | None = None

    def start(self, call: int = 0) -> None:
        self._process = subprocess.Popen(
            self.calls[call],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> bool:
        """Kill the process with its children; whether it was still running."""
        assert self._process is not None
        if not self.runs:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self.kills += self._process.returncode == -signal.SIGKILL
        return self._process.returncode == -signal.SIGKILL

    def finish(self) -> str:
        """Wait for its own end; what it said if it failed."""
        assert self._process is not None
        _, said = self._process.communicate()
        return said if self._process.returncode else ""


def carry_out(
    folder: Path,
    source: Path,
    options: list[str],
    moments: dict[str, list[float]],
    rate: float,
    tile_frames: int,
) -> tuple[NDArray[np.complex64], dict[str, int], float]:
    """Write and follow a scan, with kills at these seconds; the image, the kills and the seconds it took."""
    url, out = folder / "scan.zarr", folder / "out.zarr"
    lay_out(dp.open_scan(source), url, tile_frames)
    writer = Contender([sys.executable, "-c", WRITE, str(source), str(url), str(rate), str(BLOCK)])
    follower = Contender(
        [*COMMAND, "reconstruct", str(url), str(out), "--follow", "--overwrite", *options],
        [*COMMAND, "resume", str(out)],
    )
    parties = {"writer": writer, "follower": follower}
    begun = time.monotonic()
    due = {name: [begun + own for own in moments.get(name, [])] for name in parties}
    for party in parties.values():
        party.start()
    while writer.runs or follower.runs:
        for name, party in parties.items():
            if not due[name] or time.monotonic() < due[name][0]:
                continue
            due[name].pop(0)
            if party.kill():
                party.start(int(name == "follower" and has_checkpoint(out)))
        time.sleep(0.01)
    for name, party in parties.items():
        said = party.finish()
        if said:
            raise click.ClickException(f"the {name} failed: {said}")
    check_frames(dp.open_scan(source), dp.open_scan(url))
    image = dp.open_result(out)["object"].values
    return image, {name: party.kills for name, party in parties.items()}, time.monotonic() - begun


def has_checkpoint(out: Path) -> bool:
    try:
        return bool(dp.checkpoints(out))
    except dp.ScanError:
        return False


def check_frames(source: xr.Dataset, scan: xr.Dataset) -> None:
    """Check that a scan holds the frames of the source, whatever the order of its tiles."""
    assert scan.attrs["tiles_written"] == scan.attrs["tiles"]
    ours, theirs = (np.argsort(own["frame_number"].values) for own in (scan, source))
    np.testing.assert_array_equal(scan["intensity"].values[ours], source["intensity"].values[theirs])


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="One run of each kind, with one kill.")
@click.option("--runs", default=4, show_default=True, help="Runs of each kind.")
@click.option("--kills", default=5, show_default=True, help="Kills in each run.")
@click.option("--side", default=16, show_default=True, help="Frames along a side, of 32x32 pixels.")
@click.option("--sweeps", default=80, show_default=True, help="Sweeps after the last frame.")
@click.option("--rate", default=5.0, show_default=True, help="Frames a second.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments.")
def main(quick: bool, runs: int, kills: int, side: int, sweeps: int, rate: float, seed: int) -> None:
    if quick:
        runs, kills, side, sweeps, rate = 1, 1, 8, 40, 4.0
    rng, tile_frames = np.random.default_rng(seed), side * side // 16
    options = ["--known-probe", "--sweeps", str(sweeps), "--checkpoint-every", "1", "--no-polish"]
    table = Table(
        title=f"{side}x{side} frames in 16 tiles at {rate:g} a second, {sweeps} sweeps after the last"
    )
    for name in ("killed", "kills of the writer", "kills of the run", "seconds", "error of the image"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source.zarr"
        dp.simulate_scan(
            source, frames=(side, side), frame_size=32, step=8, jitter=1, tile_frames=tile_frames
        )
        folder = Path(name) / "undisturbed"
        expected, _, whole = carry_out(folder, source, options, {}, rate, tile_frames)
        # The writer ends long before the run does.
        ends = {"writer": side * side / rate, "follower": whole}
        for run, killed in enumerate((("writer",), ("follower",), ("writer", "follower")) * runs):
            moments = {name: sorted(rng.uniform(0.3, ends[name], kills).tolist()) for name in killed}
            found, times, seconds = carry_out(
                Path(name) / str(run), source, options, moments, rate, tile_frames
            )
            error = dp.relative_error(found, expected)
            row = (
                " and ".join(killed),
                *(str(times[party]) for party in ("writer", "follower")),
                f"{seconds:.1f}",
                f"{error:.1e}",
            )
            print(*row, sep="   ", file=sys.stderr)
            table.add_row(*row)
            assert error < SAME, f"run {run} gave another image: {error:.1e}"
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
