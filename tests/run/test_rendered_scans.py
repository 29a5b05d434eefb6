"""Reconstructions of frames that `tests.rendering` drew in metres: whatever scan and solver could share is wrong.

Errors are those of the image at its own places in metres: an axis the other way round, a shift by half a pixel
or a factor is an error too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import daskptycho as dp
from daskptycho.model.forward import NearField
from tests.rendering import Bench, Scene, make_scene

WAVELENGTH = 1e-10


def near(
    shape: tuple[int, int] = (40, 40),
    pixel: tuple[float, float] = (1e-7, 1e-7),
    source: float | None = None,
    distance: float = 2e-3,
) -> Bench:
    """A bench with this pixel and effective distance, whatever the magnification."""
    if source is None:
        return Bench(shape, WAVELENGTH, distance, pixel)
    enlarged = source / (source - distance)
    detector = (enlarged * pixel[0], enlarged * pixel[1])
    return Bench(shape, WAVELENGTH, enlarged * distance, detector, source=source)


def far(shape: tuple[int, int] = (40, 40), pixel: tuple[float, float] = (5e-5, 5e-5)) -> Bench:
    return Bench(shape, WAVELENGTH, 1.0, pixel, near=False)


def write(scene: Scene, url: Path, frames: NDArray | None = None, **changes: Any) -> xr.Dataset:
    given = {"probe": scene.probe.astype(np.complex64), "tile_frames": 12, **scene.bench.geometry()}
    counts = scene.frames if frames is None else frames
    return dp.create_scan(url, counts.astype(np.float32), scene.corner, **given | changes)


def error(scene: Scene, result: xr.Dataset, *, recovered: bool = False) -> float:
    measure = scene.error_with_recovered_probe if recovered else scene.error
    values = (result[name].values for name in ("object", "y", "x", "illumination"))
    return measure(*values)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(near())


BENCHES: dict[str, Bench] = {
    "near": near(),
    "near, point source": near(source=0.01),
    "near, odd frames, not square": near((45, 38)),
    "near, pixels not square": near(pixel=(1e-7, 0.8e-7)),
    "near, point source, odd, neither square": near((37, 44), (1.1e-7, 0.9e-7), source=0.02),
    "far": far(),
    "far, odd frames, not square": far((45, 38)),
    "far, pixels not square": far(pixel=(5e-5, 4e-5)),
    "far, odd, neither square": far((37, 44), (4.5e-5, 6e-5)),
}


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES.keys())
def test_known_probe_at_fractional_positions(bench: Bench, tmp_path: Path) -> None:
    scene = make_scene(bench)
    scan = write(scene, tmp_path / "s.zarr")
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], bench.pixel, rtol=1e-9)
    result = dp.reconstruct(scan, sweeps=60, update_probe=False)
    assert float(result["residual"][-1]) < 1e-4
    assert error(scene, result) < 0.03


# The shift of the probe left in the image, as in former versions, and taken off twice.
WRONG: dict[str, Callable[[NDArray], NDArray]] = {"no shift": np.zeros_like, "the other way": np.negative}


@pytest.mark.parametrize("wrong", WRONG)
def test_other_kernels_do_not_fit(
    wrong: str, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, right = write(scene, tmp_path / "s.zarr"), NearField.at
    monkeypatch.setattr(NearField, "at", lambda self, fraction: right(self, WRONG[wrong](fraction)))
    result = dp.reconstruct(scan, sweeps=60, update_probe=False)
    assert float(result["residual"][-1]) > 3e-3
    assert error(scene, result) > 0.2


def test_recovered_probe_at_fractional_positions(scene: Scene, tmp_path: Path) -> None:
    flat = abs(scene.probe).astype(np.complex64)
    result = dp.reconstruct(write(scene, tmp_path / "s.zarr", probe=flat), sweeps=80)
    assert float(result["residual"][-1]) < 1e-4
    assert error(scene, result, recovered=True) < 0.06


def test_several_modes(tmp_path: Path) -> None:
    scene = make_scene(near(), modes=2)
    result = dp.reconstruct(write(scene, tmp_path / "s.zarr"), sweeps=60, update_probe=False)
    assert float(result["residual"][-1]) < 1e-4
    assert error(scene, result) < 0.03
    one = dp.reconstruct(write(scene, tmp_path / "one.zarr", probe=scene.probe[0]), sweeps=60)
    assert float(one["residual"][-1]) > 10 * float(result["residual"][-1])


def test_a_detector_smaller_than_the_frame_and_dead_pixels(tmp_path: Path) -> None:
    """Light beyond the detector's edge comes back at the other one, unless the frame is larger."""
    scene = make_scene(near((52, 52)), radius=0.085)
    valid = np.zeros((52, 52), dtype=bool)
    valid[8:44, 8:44] = True
    valid[20, 12:30] = valid[25:35, 27] = False
    frames = np.where(valid, scene.frames, 0)
    scan = write(scene, tmp_path / "s.zarr", frames, valid=valid)
    result = dp.reconstruct(scan, sweeps=80, update_probe=False)
    assert float(result["residual"][-1]) < 1e-4
    assert error(scene, result) < 0.03


@pytest.mark.parametrize("bench", [near(), far()], ids=["near", "far"])
def test_a_frame_and_its_gradient_belong_to_the_same_place(bench: Bench, tmp_path: Path) -> None:
    """Lazy arrays: the true object is a fixed point of one projection, frame by frame."""
    scene = make_scene(bench, frames=(3, 3))
    scan = write(scene, tmp_path / "s.zarr", tile_frames=4)
    canvas = dp.reconstruct(scan, sweeps=1, update_probe=False, sync=dp.Sync(None))
    truth = scene.specimen(canvas["y"].values, canvas["x"].values)
    found = dp.weighted_frames(scan, truth.astype(np.complex64)).compute()
    whole = dp.weighted_frames(scan, truth.astype(np.complex64), subpixel=False).compute()
    order = scan["frame_number"].values
    # conj(P) P psi, in metres: the beam stands at the fraction, and so do the pixels of the object.
    expected = []
    for corner, (y, x) in zip(scan["position"].values, scene.position[order], strict=True):
        pixel = np.rint(corner / bench.pixel)
        rows, columns = (
            (pixel[axis] + np.arange(bench.shape[axis])) * bench.pixel[axis] for axis in (0, 1)
        )
        expected.append(abs(scene.modes[0](rows - y, columns - x)) ** 2 * scene.specimen(rows, columns))
    scale = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < 0.02 * scale < np.linalg.norm(whole - expected)
