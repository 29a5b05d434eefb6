"""Count the sweeps to a relative error of 1e-2, 1e-3 and 1e-4 on a jittered raster.

    python benchmarks/raster.py            # minutes
    python benchmarks/raster.py --quick
    python benchmarks/raster.py --probe aperture --other-object --seeds 10 --side 16

Frames of 32x32 pixels, positions jittered by a pixel, probe known, no noise, start from ones. The error is
weighted by the illumination, which makes it the relative error of the exit waves; or it is that of the pixels
that get a tenth of the most light, all with the same weight (--unweighted). Methods: the default; alternating
projections with momentum; the same without sync.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from measured_run import measure_run
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import daskptycho as dp

SIZE = 32
TARGETS = (1e-2, 1e-3, 1e-4)
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum": {"algorithm": "ap"},
    "no sync": {"algorithm": "ap", "sync": dp.Sync(method=None)},
}


def lens_probe(rim: float, stop: float, softness: float, spread: float) -> NDArray[np.complex128]:
    """The defocused focus of an annular pupil: radii in cycles per pixel, spread as a share of the frame."""
    frequency = np.fft.fftfreq(SIZE)
    radius = np.hypot(frequency[:, None], frequency)
    pupil = 0.5 * (1 - np.tanh((radius - rim) / softness))
    if stop:
        pupil *= 0.5 * (1 + np.tanh((radius - stop) / softness))
    wave = pupil * np.exp(1j * np.pi * spread * SIZE / rim * radius**2)
    return np.fft.fftshift(np.fft.ifft2(wave, norm="ortho"))


def gaussian_probe(width: float) -> NDArray[np.complex128]:
    """A Gaussian of this standard deviation of the amplitude, in pixels, without phase."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return np.exp(-(y**2 + x**2) / (2 * width**2)).astype(complex)


# The probe, and the step of the scan; None for that of `simulate_scan`.
PROBES: dict[str, tuple[NDArray[np.complex128] | None, int]] = {
    "default": (None, 8),
    "zone-plate": (lens_probe(0.25, 0.07, 0.027, 0.3), 8),
    "defocused": (lens_probe(0.25, 0.07, 0.027, 0.5), 8),
    "aperture": (lens_probe(0.2, 0.0, 0.02, 0.4), 8),
    "gaussian-7": (gaussian_probe(7), 8),
    "gaussian-4": (gaussian_probe(4), 5),
}


def other_object(shape: tuple[int, int], seed: int) -> NDArray[np.complex128]:
    """Two of scikit-image's photographs that the default object does not use, turned at random."""
    from skimage import data
    from skimage.transform import resize

    random = np.random.default_rng(seed)
    photographs = [data.brick, data.coins, data.moon, data.page, data.text, data.grass]
    parts = []
    for number in random.permutation(len(photographs))[:2]:
        image = np.rot90(photographs[number](), random.integers(4)).astype(float)
        image = resize(image, shape, anti_aliasing=True)
        low, high = np.percentile(image, (0.5, 99.5))
        parts.append(np.clip((image - low) / (high - low), 0, 1))
    return (0.5 + 0.5 * parts[0]) * np.exp(0.5j * np.pi * (parts[1] - 0.5))


def simulate(
    folder: Path,
    side: int,
    probe: str,
    seed: int,
    *,
    tiles: int = 1,
    other: bool = False,
    sample: NDArray | None = None,
    photons: float | None = None,
) -> Any:
    """Simulate a scan of this raster, of the default object, of `other_object`, or of a given one."""
    wave, step = PROBES[probe]
    options: dict[str, Any] = {"frames": (side, side), "frame_size": SIZE, "step": step, "jitter": 1}
    options |= {"seed": seed, "tile_frames": -(-(side**2) // tiles), "photons": photons, "overwrite": True}
    if wave is not None:
        options["probe"] = wave
    path = folder / f"{side}-{probe}-{seed}-{tiles}-{photons}.zarr"
    if sample is None:
        scan = dp.simulate_scan(path, **options)
        if not other:
            return scan
        sample = other_object(scan["truth_object"].shape, seed)
    return dp.simulate_scan(path, object=sample, **options)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only 8x8 frames.")
@click.option("--side", "sides", type=int, multiple=True, help="Frames along a side.  [default: 16, 32, 64]")
@click.option("--probe", "probes", type=click.Choice(list(PROBES)), multiple=True, default=("default",))
@click.option("--method", "methods", type=click.Choice(list(METHODS)), multiple=True, default=tuple(METHODS))
@click.option("--other-object", "other", is_flag=True, help="An object that no default was chosen with.")
@click.option("--tiles", default=1, help="Number of tiles of each scan.")
@click.option("--seed", default=0, help="First seed of the jitter.")
@click.option("--seeds", default=1, help="Number of seeds.")
@click.option("--most", default=80, help="Sweeps after which a run is given up.")
@click.option("--unweighted", is_flag=True, help="The error of well-lit pixels, all with the same weight.")
def main(
    quick: bool,
    sides: tuple[int, ...],
    probes: tuple[str, ...],
    methods: tuple[str, ...],
    other: bool,
    tiles: int,
    seed: int,
    seeds: int,
    most: int,
    unweighted: bool,
) -> None:
    console = Console(width=110)
    table = Table(title=f"Sweeps to relative error, jittered raster, tiles {tiles}")
    targets = [f"to {target:.0e}" for target in TARGETS]
    for name in ("probe", "frames", "seed", "method", *targets, "least error", "time"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for probe in probes:
            for size in (8,) if quick else sides or (16, 32, 64):
                for number in range(seed, seed + seeds):
                    scan = simulate(Path(folder), size, probe, number, tiles=tiles, other=other)
                    for name in methods:
                        run = measure_run(scan, 20 if quick else most, well_lit=unweighted, **METHODS[name])
                        error = run.error if unweighted else run.weighted_error
                        sweeps = [run.sweeps_to(target, weighted=not unweighted) for target in TARGETS]
                        counts = [str(count) if count else f"over {len(error)}" for count in sweeps]
                        seconds = f"{run.seconds / len(error):.2f} s"
                        row = (probe, f"{size}x{size}", str(number), name, *counts, f"{error.min():.1e}")
                        table.add_row(*row, seconds)
    console.print(table)


if __name__ == "__main__":
    main()
