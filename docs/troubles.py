"""Draw what goes wrong: one small simulated scan, reconstructed with one fault at a time.

    python docs/troubles.py [FOLDER]

The picture and its residuals are those of the page on troubleshooting. It is written to docs/pictures, or to
another folder, and takes a minute or two on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

import daskptycho as dp
from daskptycho.views.saving import save_figure

HERE = Path(__file__).parent
SWEEPS, COLOURS = 40, 48

Arrays = dict[str, Any]
"""Arguments of `create_scan`."""


def simulate(folder: Path, **options: Any) -> Arrays:
    """A scan of a known object, with counts, as arrays in the order of acquisition."""
    given: dict[str, Any] = {"frames": (12, 12), "frame_size": 48, "step": 6, "jitter": 1.5, "photons": 3e5}
    given |= {"object": make_star(160)}
    scan = dp.simulate_scan(folder / "simulated.zarr", overwrite=True, **given | options)
    scan = scan.load().sortby("frame_number")
    return {
        "intensity": scan["intensity"].values,
        "position": scan["position"].values,
        "probe": scan["probe"].values,
        "position_unit": "pixel",
    }


def make_star(size: int) -> Any:
    """A star of 20 spokes of phase and of little absorption, off the middle."""
    y, x = np.meshgrid(*[np.arange(size, dtype=float)] * 2, indexing="ij")
    y, x = y - 0.44 * size, x - 0.4 * size
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    spokes = 0.5 + 0.5 * np.tanh(0.12 * radius * np.sin(20 * angle))
    inside = 0.5 * (1 + np.tanh((radius - 6) / 1.5))
    return np.exp((1.4j - 0.1) * spokes * inside)


def move_centre(arrays: Arrays) -> Arrays:
    return arrays | {"intensity": np.roll(arrays["intensity"], (3, -2), axis=(1, 2))}


def reverse_axis(arrays: Arrays) -> Arrays:
    return arrays | {"position": arrays["position"] * [1, -1]}


def scale_positions(arrays: Arrays) -> Arrays:
    return arrays | {"position": 1.06 * arrays["position"]}


def shake_positions(arrays: Arrays) -> Arrays:
    errors = np.random.default_rng(0).normal(0, 1.5, arrays["position"].shape)
    return arrays | {"position": arrays["position"] + errors}


def take_wrong_probe(arrays: Arrays) -> Arrays:
    off = np.hypot(*np.meshgrid(*[np.arange(48) - 24] * 2, indexing="ij"))
    return arrays | {"probe": (off < 5).astype(complex)}


def stick_pixels(arrays: Arrays) -> Arrays:
    """Pixels that count a varying number too much, so that they are not taken for dead ones."""
    random = np.random.default_rng(0)
    counts = arrays["intensity"].copy()
    for y, x in random.integers(14, 34, (12, 2)):
        counts[:, y, x] += random.poisson(random.uniform(0, 3000, len(counts))).astype(counts.dtype)
    return arrays | {"intensity": counts}


FAULTS: dict[str, Callable[[Arrays], Arrays]] = {
    "nothing wrong": lambda arrays: arrays,
    "centre 3 and 2 pixels off": move_centre,
    "one axis reversed": reverse_axis,
    "positions 6 % too large": scale_positions,
    "positions off by 1.5 pixels": shake_positions,
    "first probe: a small disc": take_wrong_probe,
    "twelve bad pixels": stick_pixels,
}


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    figure = Figure((11, 6.2), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        arrays = simulate(folder)
        for panel, (fault, spoil) in zip(axes, FAULTS.items(), strict=False):
            draw(panel, fault, dp.create_scan(folder / "scan.zarr", **spoil(arrays), overwrite=True))
        sparse = simulate(folder, frames=(4, 4), step=32, jitter=2)
        draw(axes[-1], "too little overlap", dp.create_scan(folder / "scan.zarr", **sparse, overwrite=True))
    path = Path(save_figure(figure, str(target / "troubles.png"), dpi=72))
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def draw(panel: Any, fault: str, scan: xr.Dataset) -> None:
    """Draw the phase of a reconstruction in the middle of a scan, with its R2."""
    result = dp.reconstruct(scan, sweeps=SWEEPS)
    found, expected = float(result["residual"][-1]), result.attrs["expected_residual"]
    shape = np.array(result["object"].shape)
    middle = tuple(slice(n // 2 - 42, n // 2 + 42) for n in shape)
    image = result["object"].values
    phase = np.angle(image * np.exp(-1j * np.angle(image[middle].sum())))
    panel.imshow(phase[middle], cmap="viridis", vmin=-1.2, vmax=1.2)
    panel.set_title(f"{fault}\n$R^2$ = {found:.3g} ({expected:.1g} expected)", fontsize=9)
    panel.set_axis_off()
    print(f"{fault}: {found:.4f} of {expected:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "pictures")
