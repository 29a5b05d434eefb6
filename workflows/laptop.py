"""A first reconstruction on a laptop: simulate a scan, reconstruct it, draw the result.

    python workflows/laptop.py FOLDER

For your own data, replace the simulation by ``daskptycho import`` on the command line and ``dp.open_scan``
here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import daskptycho as dp


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # 16x16 frames with 10 000 photons each.
    scan = dp.simulate_scan(
        folder / "scan.zarr", frames=(16, 16), frame_size=32, step=8, jitter=1, photons=1e4, overwrite=True
    )
    result = dp.reconstruct(
        scan,
        folder / "result.zarr",
        sweeps=40,
        overwrite=True,
        callback=lambda progress: print(f"sweep {progress.sweep}: residual {progress.residual:.4f}"),
    )
    picture = folder / "result.png"
    dp.plot_result(result).savefig(picture)
    print("picture:", picture)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "laptop"))
