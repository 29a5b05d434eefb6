"""Reconstructions of frames that `tests.rendering` drew in metres: what scan and solver share may be wrong.

Errors are those of the image at its own places in metres: an axis the other way round, a shift by half a
pixel or a factor is an error too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import daskptycho as dp
from daskptycho.model.forward import NearField
from daskptycho.scan.first_probe import Pupil, estimate_disc_radius, make_disc
from tests.rendering import Beam, Bench, Scene, make_scene

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
    scene = make_scene(bench, frames=(5, 5))
    scan = write(scene, tmp_path / "s.zarr")
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], bench.pixel, rtol=1e-9)
    result = dp.reconstruct(scan, sweeps=50, update_probe=False)
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


def test_a_beam_as_wide_as_the_detector_needs_a_margin(tmp_path: Path) -> None:
    """Light comes in from beside the detector and goes out again; a periodic frame would bring it back."""
    size, margin = 36, 12
    bench = replace(near((size + 2 * margin,) * 2), oversampling=4)
    wide = make_scene(bench, radius=10.0, frames=(5, 5), step=6.3)
    seen = slice(margin, margin + size)
    bench = replace(wide.bench, shape=(size, size))
    scene = replace(wide, bench=bench)
    counts = wide.frames[:, seen, seen].astype(np.float32)
    np.savez(tmp_path / "f.npz", data=counts, position=scene.corner, probe=scene.probe)
    errors, residuals = {}, {}
    for pad in (0, 8):
        scan = dp.import_scan(tmp_path / "f.npz", tmp_path / f"{pad}.zarr", pad=pad, **bench.geometry())
        assert scan.sizes["qy"] == size + 2 * pad
        result = dp.reconstruct(scan, sweeps=60)
        y, x, light = (result[name].values for name in ("y", "x", "illumination"))
        # Where the middle of the detector has been.
        low, high = scene.position.min(axis=0), scene.position.max(axis=0)
        inside = np.outer((y > low[0]) & (y < high[0]), (x > low[1]) & (x < high[1]))
        errors[pad] = scene.error_with_recovered_probe(result["object"].values, y, x, light * inside)
        residuals[pad] = float(result["residual"][-1])
    assert residuals[8] < 0.2 * residuals[0]
    assert errors[8] < 0.5 * errors[0]


@pytest.mark.parametrize("propagation", ["near", "far"])
def test_the_simulator_counts_what_is_rendered(propagation: str, tmp_path: Path) -> None:
    bench = near() if propagation == "near" else far()
    scene = make_scene(bench)
    size = bench.shape[0]
    told = {name: value for name, value in bench.geometry().items() if name != "wavelength_m"}
    canvas = [(np.arange(size + 40) - size // 2) * step for step in bench.pixel]
    scan = dp.simulate_scan(
        tmp_path / "s.zarr",
        frames=(3, 3),
        frame_size=size,
        step=4.4,
        jitter=2,
        subpixel=True,
        object=scene.specimen(*canvas),
        probe=scene.probe,
        energy_eV=1.23984198e-6 / WAVELENGTH,
        **told,
    )
    assert scan.attrs["propagation"] == f"{propagation}-field"
    expected = bench.frames(scene.specimen, scene.modes, scan["position"].values * bench.pixel)
    expected *= size**2 / (abs(scene.probe) ** 2).sum()
    found = scan["intensity"].values
    assert (np.sqrt(found) - np.sqrt(expected)).std() < 0.01 * np.sqrt(expected).std()
    assert np.square(np.sqrt(found) - np.sqrt(expected)).sum() < 1e-4 * expected.sum()


@pytest.mark.parametrize(
    "bench",
    [far(), far((64, 40)), far((40, 60)), far(pixel=(5e-5, 1e-4))],
    ids=["square", "high", "wide", "pixels"],
)
def test_first_disc_is_round_in_metres(bench: Bench) -> None:
    flat = make_scene(bench, frames=(5, 5))
    radius = 0.11 * min(n * p for n, p in zip(bench.shape, bench.pixel, strict=True))
    beam = replace(flat.modes[0], radius=(radius, radius), roughness=0.0)
    frames = bench.frames(flat.specimen, [beam], flat.position)
    pixel = np.array(bench.pixel)
    guess = abs(make_disc(bench.shape, estimate_disc_radius(frames, pixel), pixel))
    y, x = (bench.places(axis) for axis in (0, 1))
    width = [np.sqrt((guess**2 * square).sum() / (guess**2).sum()) for square in (y[:, None] ** 2, x**2)]
    np.testing.assert_allclose(width, 2 * [np.mean(width)], rtol=0.05)
    # Of the Gaussian, 2 r^2 wide along both axes together.
    assert np.hypot(*width) == pytest.approx(np.sqrt(2) * radius, rel=0.25)


def likeness_of_guess(bench: Bench, beam: Beam, defocus_m: float = 0.0) -> float:
    """Of the guess from a lens to the beam behind a thin specimen; at most 1."""
    scene = make_scene(bench, frames=(4, 4))
    thin = replace(scene.specimen, absorption=0.02, phase=0.05)
    frames = bench.frames(thin, [beam], scene.position)
    pupil = Pupil.from_mean_frame(frames.mean(axis=0), np.array(bench.pixel))
    guess = pupil.probe(bench.wavelength * defocus_m)
    (probe,) = bench.probe([beam])
    return float(abs(np.vdot(guess, probe)) / np.linalg.norm(guess) / np.linalg.norm(probe))


@pytest.mark.parametrize("towards", [1, -1], ids=["focus before the sample", "focus behind it"])
def test_first_probe_is_defocused_the_way_the_beam_is(towards: int) -> None:
    bench = far((44, 38))
    # A Gaussian beam: the distance from its focus, from its radius and its curvature.
    radius, curvature = 4e-7, towards / 1.5e-13
    real, imaginary = 1 / (4 * radius**2), np.pi * curvature
    defocus = np.pi * imaginary / (WAVELENGTH * (real**2 + imaginary**2))
    flat = make_scene(bench, frames=(1, 1)).modes[0]
    beam = replace(flat, focal=-1 / curvature, roughness=0.0, radius=(radius, radius))
    right, wrong, none = (likeness_of_guess(bench, beam, sign * defocus) for sign in (1, -1, 0))
    assert right > 0.95
    assert max(wrong, none) < 0.8


@pytest.mark.parametrize("shape", [(44, 38), (37, 45)], ids=["even", "odd"])
def test_first_probe_travels_where_the_bright_field_lies(shape: tuple[int, int]) -> None:
    bench = far(shape)
    flat = replace(make_scene(bench, frames=(1, 1)).modes[0], roughness=0.0)
    # Onto the pixel three rows below and two columns left of the zero frequency.
    slope = [2 * np.pi * n / (size * p) for n, size, p in zip((3, -2), shape, bench.pixel, strict=True)]
    assert likeness_of_guess(bench, replace(flat, tilt=tuple(slope))) > 0.99


@pytest.mark.parametrize(
    ("shape", "cut", "crop"), [((54, 51), (3, 4), (45, 42)), ((51, 54), (2, 5), (46, 43))]
)
def test_frames_are_cropped_round_the_optical_axis(
    shape: tuple[int, int], cut: tuple[int, int], crop: tuple[int, int], tmp_path: Path
) -> None:
    """A detector that the beam does not meet in the middle: first rows and columns are cut off."""
    whole = make_scene(far(shape))
    # Pixels of the object are larger under fewer pixels of the detector, and hold more light.
    counts = whole.frames[:, cut[0] :, cut[1] :] * (np.prod(crop) / np.prod(shape))
    axis = [n // 2 - gone for n, gone in zip(shape, cut, strict=True)]
    np.savez(tmp_path / "f.npz", data=counts, position=whole.position)
    told = {name: value for name, value in whole.bench.geometry().items() if name != "propagation"}
    scan = dp.import_scan(tmp_path / "f.npz", tmp_path / "s.zarr", centre=axis, crop=crop, **told)
    scene = replace(whole, bench=far(crop))
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], scene.bench.pixel)
    result = dp.reconstruct(scan, sweeps=60, probe=scene.probe, update_probe=False)
    y, x = (result[name].values + scene.bench.places(number)[0] for number, name in enumerate("yx"))
    assert float(result["residual"][-1]) < 1e-4
    assert scene.error(result["object"].values, y, x, result["illumination"].values) < 0.03


@pytest.mark.parametrize("bench", [near(), far()], ids=["near", "far"])
def test_true_frames_stay_where_they_are(bench: Bench, tmp_path: Path) -> None:
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
        rows, columns = ((pixel[axis] + np.arange(bench.shape[axis])) * bench.pixel[axis] for axis in (0, 1))
        expected.append(abs(scene.modes[0](rows - y, columns - x)) ** 2 * scene.specimen(rows, columns))
    scale = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < 0.02 * scale < np.linalg.norm(whole - expected)


@pytest.mark.parametrize("bench", [near(), near(source=0.01), far()], ids=["near", "point source", "far"])
def test_positions_that_are_wrong_by_a_pixel_are_refined(bench: Bench, tmp_path: Path) -> None:
    """Against positions in metres, in the near field and in the far field."""
    scene = make_scene(bench)
    scan = write(scene, tmp_path / "s.zarr")
    true, pixel = scan["position"].values, np.array(scan.attrs["pixel_size_m"])
    wrong = np.random.default_rng(5).normal(0, 0.7, true.shape) * pixel
    moved = scan.assign(position=scan["position"] + wrong)
    moved["position"].attrs = scan["position"].attrs
    result = dp.reconstruct(moved, sweeps=80, update_probe=False, refine=dp.Positions(start=8))

    def off(name: str) -> float:
        apart = (result[name].values - true) / pixel
        return float(np.sqrt(((apart - apart.mean(axis=0)) ** 2).mean()))

    assert off("position_given") > 0.5
    assert off("position") < 0.05
    assert result["position"].attrs["units"] == "m"
