"""The reconstruction by this package; its image starts from ones. See `recording`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recording import read_problem

import daskptycho as dp


def main() -> None:
    problem, recorder = read_problem()
    scan = dp.create_scan(
        Path("scan.zarr"), problem.counts, problem.corner, probe=problem.probe, position_unit="pixel"
    )
    scan.load()
    # Code is compiled, or read from the cache, at the first call.
    options = {"update_probe": not problem.options["known"], **problem.options.get("run", {})}
    dp.reconstruct(scan, sweeps=2, **options)
    recorder.restart()

    def record(progress: dp.Progress) -> bool:
        image = np.ones(problem.shape, dtype=np.complex64)
        found = progress.object()[: problem.shape[0], : problem.shape[1]]
        image[: found.shape[0], : found.shape[1]] = found
        return recorder.add(progress.sweep, image)

    dp.reconstruct(scan, sweeps=problem.options["iterations"], callback=record, **options)


if __name__ == "__main__":
    main()
