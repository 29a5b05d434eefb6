"""Run other packages on the same frames, each in an environment of its own. Benchmarks import this module.

Environments are made once, in ``build/peers``, by pip from the registry that it is set up for. A run is a
process with one thread, that is ended after a limit of processor time; its images are looked at here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["PEERS", "Moment", "Peer", "Trial", "run_peer", "true_error"]

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).with_name("peer_runs")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "DASK_NUM_WORKERS"),
    "1",
)


@dataclass(frozen=True)
class Peer:
    """A way to reconstruct: a package, the script that runs it, and its options."""

    package: str | None
    """Name in the registry; None for this package, in the environment of the benchmark."""
    script: str
    options: dict[str, Any] = field(default_factory=dict)

    def python(self) -> str:
        """The interpreter of the peer's environment, which is made if it is not there."""
        if self.package is None:
            return sys.executable
        place = ROOT / "build" / "peers" / self.package
        python = place / "bin" / "python"
        if not (place / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", self.package], check=True)
            (place / "complete").touch()
        return str(python)

    @property
    def version(self) -> str:
        """The version that the environment holds."""
        code = f"from importlib.metadata import version; print(version({self.package or 'daskptycho'!r}))"
        done = subprocess.run([self.python(), "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()


PEERS: dict[str, Peer] = {
    "daskptycho": Peer(None, "with_daskptycho.py"),
    "cdtools L-BFGS": Peer("cdtools-py", "with_cdtools.py"),
    "cdtools L-BFGS, Poisson": Peer("cdtools-py", "with_cdtools.py", {"loss": "poisson"}),
    "pty-chi LSQML": Peer("ptychi", "with_ptychi.py"),
    "PtyLab mPIE": Peer("ptylab", "with_ptylab.py"),
}


class Trial(NamedTuple):
    """A scan to reconstruct, and what of it is known."""

    scan: xr.Dataset
    known: bool = True
    probe: NDArray | None = None
    """The probe, or the first guess of it; that of the scan by default."""
    positions: NDArray | None = None
    """Positions [y, x] to start from, in pixels; those of the scan by default."""


class Moment(NamedTuple):
    """The state of a run after an iteration."""

    iteration: int
    processor: float
    """Seconds of processor time so far, without those for recording."""
    wall: float
    error: float
    positions: NDArray | None = None


def true_error(scan: xr.Dataset, *, known: bool, weighted: bool = False) -> Callable[[NDArray], float]:
    """The error of an image of well-lit pixels, or weighted by the illumination.

    If the probe is not known, the image is first laid over the truth: shift and ramp are the probe's choice.
    """
    import daskptycho as dp

    truth = scan["truth_object"].values
    light = np.zeros(truth.shape)
    power = (abs(scan["truth_probe"].values) ** 2).sum(axis=0)
    for y, x in np.rint(scan["position"].values).astype(int):
        light[y : y + power.shape[0], x : x + power.shape[1]] += power
    weight = light if weighted else (light >= 0.1 * light.max()).astype(float)

    def measure(image: NDArray) -> float:
        if not np.isfinite(image).all():
            return np.inf
        if known:
            return dp.relative_error(image, truth, weight)
        return dp.compare_images(image, truth, weight).error

    return measure


def run_peer(
    peer: Peer,
    trial: Trial,
    error: Callable[[NDArray], float],
    *,
    iterations: int,
    limit: float = 300.0,
    looks: int | None = None,
    **options: Any,
) -> list[Moment]:
    """Run a peer on a trial until its iterations or the limit of processor seconds are over.

    What it has recorded counts, however it ends; an empty list if there is nothing, and why is printed. With
    `looks`, the error is measured at this many iterations only, evenly spread on a logarithmic scale.
    """
    scan, python = trial.scan, peer.python()
    probe = scan["probe"].values[0] if trial.probe is None else trial.probe
    positions = scan["position"].values if trial.positions is None else trial.positions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(
            folder / "problem.npz",
            counts=scan["intensity"].values.astype(np.float32),
            corner=positions,
            probe=probe.astype(np.complex64),
            shape=scan["truth_object"].shape,
        )
        given = {"known": trial.known, "limit": limit, "iterations": iterations, **peer.options, **options}
        command = [python, str(SCRIPTS / peer.script), str(folder), json.dumps(given)]
        try:
            done = subprocess.run(
                command,
                env=os.environ | ONE_THREAD,
                capture_output=True,
                text=True,
                check=False,
                # On a loaded machine, the wall's clock is faster than the processor's.
                timeout=10 * limit,
            )
            if done.returncode:
                print(f"{peer.script} ended with an error:\n{done.stderr[-2000:]}", file=sys.stderr)
        except subprocess.TimeoutExpired:
            pass
        moments = []
        if not (folder / "times.jsonl").exists():
            return []
        lines = (folder / "times.jsonl").read_text().splitlines()
        numbers = np.arange(len(lines))
        if looks is not None:
            numbers = np.unique(np.rint(np.geomspace(1, len(lines), looks)).astype(int)) - 1
        for number in numbers:
            iteration, processor, wall = json.loads(lines[number])
            with np.load(folder / f"image-{number}.npz") as held:
                found = held.get("positions")
                moments.append(Moment(iteration, processor, wall, error(held["image"]), found))
        return moments
