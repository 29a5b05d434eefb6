"""The demonstration: one scan reconstructed with and without sync, and a picture of the difference.

The command line calls `run_demo`, and users may call it as well. This module uses public functions only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.analysis.metrics import common_region, relative_error
from daskptycho.run.loop import Progress
from daskptycho.run.reconstruction import reconstruct
from daskptycho.scan.phantom import phantom_object
from daskptycho.scan.simulate import simulate_scan
from daskptycho.sync.options import Sync
from daskptycho.views.plotting import plot_sync_difference
from daskptycho.views.saving import save_figure

__all__ = ["SWEEPS", "Demo", "run_demo"]

SWEEPS = 40
FRAMES = (48, 48)
FRAME_SIZE = 32
STEP = 8
JITTER = 1
# Several tiles, so that every core has work and phases are synchronised across tiles.
TILES = 4

# Hills and valleys in the thickness of the sample: height in radians, then centre and width as fractions of
# the field.
HILLS = ((2.6, 0.32, 0.28, 0.20), (-2.2, 0.42, 0.76, 0.18), (1.8, 0.82, 0.62, 0.22), (-1.6, 0.86, 0.14, 0.16))


@dataclass(frozen=True)
class Demo:
    """What a demonstration has written.

    Attributes
    ----------
    scan, picture : Path
        Paths of the scan and of the picture.
    results : dict of Dataset
        Results by name, "without sync" and "with sync".
    error : dict of (sweep,) arrays
        Relative error of the image after each sweep, by the same names.
    """

    scan: Path
    picture: Path
    results: dict[str, xr.Dataset]
    error: dict[str, NDArray[np.float64]]


def run_demo(
    folder: str | Path,
    *,
    frames: tuple[int, int] = FRAMES,
    frame_size: int = FRAME_SIZE,
    step: int = STEP,
    sweeps: int = SWEEPS,
    seed: int = 0,
    on_frames: Callable[[int, int], Any] | None = None,
    on_sweep: Callable[[str, Progress], Any] | None = None,
) -> Demo:
    """Simulate a scan of a sample of uneven thickness and reconstruct it with and without sync.

    Both runs know the probe and start from a constant object; they differ only in sync. After the same number
    of sweeps, the run without sync still lacks the smooth part of the phase, which is as wide as the field.

    Parameters
    ----------
    folder : path
        Folder for ``scan.zarr``, ``without-sync.zarr``, ``with-sync.zarr`` and ``sync-difference.png``. Those
        of an earlier call are replaced.
    frames : (int, int)
        Number of frames along y and x.
    frame_size, step : int
        Pixels along each side of a frame, and from one frame to the next.
    sweeps : int
        Number of sweeps of each run.
    seed : int
        Seed of the position jitter.
    on_frames : callable, optional
        Called with (frames simulated, all frames) during the simulation.
    on_sweep : callable, optional
        Called with the name of the run and its `Progress` after each sweep.

    Returns
    -------
    Demo
        Paths, results and errors.

    Raises
    ------
    ScanError
        Something that is not of an earlier demonstration exists at one of the paths.
    OptionError
        An option is out of its range.
    """
    folder = Path(folder).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    canvas = tuple(n * step + frame_size + 2 * JITTER for n in frames)
    scan = simulate_scan(
        folder / "scan.zarr",
        frames,
        frame_size,
        step,
        jitter=JITTER,
        seed=seed,
        object=uneven_sample((canvas[0], canvas[1])),
        tile_frames=-(-frames[0] * frames[1] // TILES),
        overwrite=True,
        progress=on_frames,
    )
    truth = scan["truth_object"].rename(object_y="y", object_x="x")
    results, error = {}, {}
    for name, sync in (("without sync", Sync(method=None)), ("with sync", Sync())):
        images: list[NDArray] = []

        def keep_image(state: Progress, name: str = name, images: list[NDArray] = images) -> None:
            images.append(state.object())
            if on_sweep is not None:
                on_sweep(name, state)

        out = folder / f"{name.replace(' ', '-')}.zarr"
        results[name] = reconstruct(
            scan,
            out,
            sweeps=sweeps,
            sync=sync,
            update_probe=False,
            checkpoint_minutes=None,
            callback=keep_image,
            overwrite=True,
        )
        error[name] = _relative_errors(images, results[name], truth)
    figure = plot_sync_difference(
        results["without sync"], results["with sync"], truth, error["without sync"], error["with sync"]
    )
    picture = folder / "sync-difference.png"
    save_figure(figure, picture)
    return Demo(folder / "scan.zarr", picture, results, error)


def uneven_sample(shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Make the phantom on hills and valleys of phase, which are much wider than a frame.

    Parameters
    ----------
    shape : (int, int)
        Pixels along y and x.

    Returns
    -------
    (y, x) complex64 array
    """
    y, x = (np.linspace(0, 1, size) for size in shape)
    thickness = sum(
        height * np.exp(-((y[:, np.newaxis] - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
        for height, cy, cx, width in HILLS
    )
    return (phantom_object(shape) * np.exp(1j * thickness)).astype(np.complex64)


def _relative_errors(images: list[NDArray], result: xr.Dataset, truth: xr.DataArray) -> NDArray[np.float64]:
    """Relative error of each image, weighted by the illumination, which a known probe keeps fixed."""
    weight, target = common_region(result["illumination"], truth)
    errors = []
    for image in images:
        cropped, _ = common_region(result["object"].copy(data=image), truth)
        errors.append(relative_error(cropped.values, target.values, weight.values))
    return np.array(errors)
