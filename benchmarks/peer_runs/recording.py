"""What every peer's script is given, and how it reports: NumPy only, since each runs in its own environment.

    with its own Python:  SCRIPT.py FOLDER 'KEYS AND VALUES IN JSON'

FOLDER holds ``problem.npz``; images and times are written beside it while the script runs, so that they are
kept if it is ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Problem", "Recorder", "read_problem"]


class Problem:
    """Frames with one probe at whole pixels of a canvas.

    Attributes
    ----------
    counts : (frame, N, N) float32 array
        Intensities in detector order, the zero frequency at N // 2.
    corner : (frame, 2) int array
        Corner [y, x] of each frame on the canvas.
    probe : (N, N) complex64 array
        In units in which a unitary Fourier transform gives counts.
    shape : (int, int)
        Of the canvas.
    options : dict
        ``known``: whether the probe is known; ``limit``: seconds of processor time; others are the script's.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        stored = np.load(folder / "problem.npz")
        self.counts, self.corner, self.probe = (stored[name] for name in ("counts", "corner", "probe"))
        self.shape = tuple(map(int, stored["shape"]))
        self.options = options


class Recorder:
    """Images of a run, with the processor time and the wall time up to each; recording takes none of it."""

    def __init__(self, folder: Path, limit: float) -> None:
        self._folder, self._limit = folder, limit
        self._number = 0
        self._processor = self._wall = 0.0
        self.restart()

    def add(self, iteration: int, image: Any, positions: Any = None) -> bool:
        """Record an image on the canvas after an iteration; True if the time is up."""
        self._processor += time.process_time() - self._since[0]
        self._wall += time.perf_counter() - self._since[1]
        held = {"image": np.asarray(image, dtype=np.complex64)}
        if positions is not None:
            held["positions"] = np.asarray(positions, dtype=np.float64)
        np.savez(self._folder / f"image-{self._number}.npz", **held)
        with (self._folder / "times.jsonl").open("a") as file:
            file.write(json.dumps([iteration, self._processor, self._wall]) + "\n")
        self._number += 1
        over = self._processor > self._limit
        self.restart()
        return over

    def restart(self) -> None:
        """Forget what passed since the last image."""
        self._since = time.process_time(), time.perf_counter()


def read_problem() -> tuple[Problem, Recorder]:
    """The problem, and a recorder whose clock runs from now on. Call it when all is imported."""
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.chdir(folder)
    problem = Problem(folder, options)
    return problem, Recorder(folder, options["limit"])
