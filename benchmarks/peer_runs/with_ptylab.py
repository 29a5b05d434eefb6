"""PtyLab's momentum-accelerated PIE (mPIE). See `recording`.

Tuned: its step of the object is 1 in place of 0.25, with the probe known. Its loop over frames is Python's.
"""

from __future__ import annotations

import logging
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
from PtyLab import Engines, ExperimentalData, Params, Reconstruction
from PtyLab.Monitor.Monitor import DummyMonitor
from recording import Problem, read_problem


class _Done(Exception):
    """The time is up."""


def make_engine(problem: Problem, frames: int) -> Engines.mPIE:
    """The engine for the first frames; the canvas lies at 1, 1 of its image."""
    size = problem.counts.shape[-1]
    side = max(problem.shape) + 2
    # Lengths are such that a pixel of the object is a metre.
    data = ExperimentalData()
    data.ptychogram = problem.counts[:frames].astype(np.float32)
    data.wavelength, data.dxd, data.zo = 1.0, 1.0, float(size)
    data.encoder = problem.corner[:frames] - (side // 2 - size // 2) + 1.0
    data.entrancePupilDiameter = data.spectralDensity = data.theta = data.emptyBeam = None
    data._setData()
    params = Params()
    params.gpuSwitch = False
    params.positionCorrectionSwitch = problem.options.get("positions", False)
    reconstruction = Reconstruction(data, params)
    reconstruction.No = side
    reconstruction.initializeObjectProbe()
    reconstruction.initialGuessObject[:] = 1
    reconstruction.initialGuessProbe[:] = problem.probe
    reconstruction.object = reconstruction.initialGuessObject.copy()
    reconstruction.probe = reconstruction.initialGuessProbe.copy()
    engine = Engines.mPIE(reconstruction, data, params, DummyMonitor())
    known = problem.options["known"]
    engine.betaObject = problem.options.get("step", 1.0 if known else 0.25)
    engine.betaProbe = 0.0 if known else 0.25
    engine.numIterations = problem.options["iterations"]
    return engine


def main() -> None:
    logging.disable(logging.WARNING)
    problem, recorder = read_problem()
    # It draws from NumPy's old random numbers.
    np.random.seed(0)  # noqa: NPY002
    engine = make_engine(problem, len(problem.corner))
    height, width = problem.shape

    def record(iteration: int, reconstruction: Reconstruction) -> None:
        image = np.squeeze(reconstruction.object)[1 : 1 + height, 1 : 1 + width]
        positions = None
        if problem.options.get("positions"):
            moved = np.asarray(reconstruction.encoder_corrected) - engine.experimentalData.encoder
            positions = problem.corner + moved
        if recorder.add(iteration + 1, image, positions):
            raise _Done

    # Its bars of progress go to stdout.
    with Path("said.txt").open("w") as said, redirect_stdout(said), suppress(_Done):
        engine.reconstruct(vis_after_each_iteration=record)


if __name__ == "__main__":
    main()
