"""Simulated scans: the frames of a plain loop, the same for tiles of any size, with the truth kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from daskptycho.errors import OptionError, ScanError
from daskptycho.scan.dataset import position_in_pixels, scan_period
from daskptycho.scan.optics import fresnel_numbers
from daskptycho.scan.phantom import phantom_object, zone_plate_probe
from daskptycho.scan.simulate import simulate_scan
from daskptycho.tiling import split_position

NEAR: dict[str, Any] = {
    "propagation": "near-field",
    "energy_eV": 17_000,
    "detector_distance_m": 1e-3,
    "detector_pixel_size_m": 1e-7,
}
SMALL: dict[str, Any] = {"frames": (6, 5), "frame_size": 12, "step": 4}


def plain_frame(ds: xr.Dataset, position: np.ndarray) -> np.ndarray:
    """One frame in detector order, by plain loops."""
    sample = ds["truth_object"].values.astype(complex)
    size = ds.sizes["y"]
    (y, x), (fy, fx) = (part[0] for part in split_position(position[None]))
    near = ds.attrs["propagation"] == "near-field"
    total = np.zeros((size, size))
    for mode in ds["truth_probe"].values.astype(complex):
        spectrum = np.fft.fft2(mode)
        for ky, qy in enumerate(np.fft.fftfreq(size)):
            for kx, qx in enumerate(np.fft.fftfreq(size)):
                spectrum[ky, kx] *= np.exp(-2j * np.pi * (qy * fy + qx * fx))
        wave = np.fft.ifft2(spectrum)
        for i in range(size):
            for j in range(size):
                wave[i, j] *= sample[(y + i) % sample.shape[0], (x + j) % sample.shape[1]]
        if near:
            # The beam does not move on the detector: only the object does.
            spectrum = np.fft.fft2(wave)
            for ky, qy in enumerate(np.fft.fftfreq(size)):
                for kx, qx in enumerate(np.fft.fftfreq(size)):
                    chirp = np.pi * (qy**2 + qx**2) / fresnel_numbers(ds.attrs)[0]
                    spectrum[ky, kx] *= np.exp(2j * np.pi * (qy * fy + qx * fx) - 1j * chirp)
            total += abs(np.fft.ifft2(spectrum)) ** 2
        else:
            total += abs(np.fft.fftshift(np.fft.fft2(wave) / size)) ** 2
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subpixel": True, "jitter": 1.5, "modes": 3},
        {"periodic": True, "jitter": 2, "subpixel": True, "frames": (7, 6)},
        {"pattern": "spiral", "modes": 2},
        {"frame_size": 11, "step": 3.5, "subpixel": True},
        {"subpixel": True, "jitter": 1.5, "modes": 2, **NEAR},
        {"jitter": 1.5, **NEAR},
    ],
    ids=lambda options: "-".join(options) or "raster",
)
def test_frames_equal_those_of_a_plain_loop(tmp_path: Path, options: dict) -> None:
    ds = simulate_scan(tmp_path / "s.zarr", **(SMALL | options), tile_frames=7)
    position = position_in_pixels(ds)
    for frame in (0, 8, len(position) - 1):
        expected = plain_frame(ds, position[frame])
        np.testing.assert_allclose(ds["intensity"][frame], expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("photons", [None, 500.0])
def test_counts_do_not_depend_on_the_tiles(tmp_path: Path, photons: float | None) -> None:
    options = SMALL | {"jitter": 1, "photons": photons}
    one, many = (simulate_scan(tmp_path / f"{n}.zarr", **options, tile_frames=n) for n in (100, 4))
    assert len(many["intensity"].chunks[0]) == 8
    for name in ("intensity", "position"):
        np.testing.assert_array_equal(
            one[name].sortby(one["frame_number"]), many[name].sortby(many["frame_number"])
        )
    np.testing.assert_array_equal(one["truth_object"], many["truth_object"])


def test_seed_determines_the_noise_and_the_jitter(tmp_path: Path) -> None:
    options = SMALL | {"jitter": 3, "photons": 500}
    a, b, c = (
        simulate_scan(tmp_path / f"{i}.zarr", **options, seed=seed) for i, seed in enumerate((1, 1, 2))
    )
    assert a.drop_attrs().equals(b.drop_attrs())
    assert not np.array_equal(a["position"], c["position"])
    assert not np.array_equal(a["intensity"], c["intensity"])


def test_noise_is_poissonian(tmp_path: Path) -> None:
    options = SMALL | {"frames": (20, 20)}
    mean = simulate_scan(tmp_path / "mean.zarr", **options)["intensity"].values.astype(float)
    noisy = simulate_scan(tmp_path / "noisy.zarr", **options, photons=2000)
    assert noisy["intensity"].dtype == np.uint16
    counts = noisy["intensity"].values.astype(float)
    assert counts.sum(axis=(1, 2)).mean() == pytest.approx(2000, rel=0.01)
    expected = mean * (2000 / mean.sum(axis=(1, 2)).mean())
    # The variance of a Poisson count equals its mean; both are summed over 57600 pixels.
    assert ((counts - expected) ** 2).sum() / expected.sum() == pytest.approx(1, abs=0.02)


def test_without_noise_the_probe_has_unit_power_a_pixel(tmp_path: Path) -> None:
    ds = simulate_scan(tmp_path / "s.zarr", **SMALL, modes=3)
    power = (abs(ds["truth_probe"]) ** 2).sum(("y", "x")).values
    assert power.sum() == pytest.approx(12 * 12, rel=1e-5)
    np.testing.assert_allclose(power[1:] / power[:-1], 0.3, rtol=1e-5)
    np.testing.assert_array_equal(ds["probe"], ds["truth_probe"])


def test_truth_has_coordinates_in_the_unit_of_the_positions(tmp_path: Path) -> None:
    ds = simulate_scan(tmp_path / "s.zarr", **SMALL, jitter=1)
    position = ds["position"].values
    assert ds["position"].attrs["units"] == "pixel"
    np.testing.assert_array_equal(position.min(axis=0), 0)
    assert ds["object_y"].values[[0, -1]].tolist() == [0, position[:, 0].max() + 11]
    assert ds["object_x"].values[[0, -1]].tolist() == [0, position[:, 1].max() + 11]
    assert ds["truth_object"].dtype == np.complex64
    assert "pixel_size_m" not in ds.attrs


def test_periodic_scan_stays_inside_its_period(tmp_path: Path) -> None:
    ds = simulate_scan(tmp_path / "s.zarr", frames=(8, 10), frame_size=16, step=4, periodic=True, jitter=3)
    assert scan_period(ds) == (32, 40) == ds["truth_object"].shape
    assert (ds["position"].values >= 0).all()
    assert (ds["position"].values < (32, 40)).all()


def test_jitter_stays_within_its_bound_and_on_whole_pixels(tmp_path: Path) -> None:
    straight = simulate_scan(tmp_path / "a.zarr", **SMALL)
    jittered = simulate_scan(tmp_path / "b.zarr", **SMALL, jitter=1)
    shift = jittered["position"].values - straight["position"].values
    shift -= np.median(shift, axis=0)
    assert set(np.unique(shift)) == {-1, 0, 1}


def test_spiral_is_as_dense_as_the_raster(tmp_path: Path) -> None:
    ds = simulate_scan(tmp_path / "s.zarr", (20, 20), 12, 4, pattern="spiral", subpixel=True)
    position = ds["position"].values
    distance = np.linalg.norm(position - position.mean(axis=0), axis=1)
    inside = distance < 0.8 * distance.max()
    density = inside.sum() / (np.pi * (0.8 * distance.max()) ** 2)
    assert density == pytest.approx(1 / 4**2, rel=0.05)


def test_own_object_and_probe_are_used(tmp_path: Path) -> None:
    sample = np.full((60, 70), 0.5 + 0.5j)
    probe = zone_plate_probe(12, modes=2) * 7
    ds = simulate_scan(tmp_path / "s.zarr", **SMALL, object=sample, probe=probe)
    assert ds["truth_object"].shape == (32, 28)
    assert (ds["truth_object"] == np.complex64(0.5 + 0.5j)).all()
    assert np.vdot(ds["probe"], probe) == pytest.approx(12 * 7, rel=1e-5)
    # Half of the light is transmitted.
    np.testing.assert_allclose(ds["intensity"].sum(("qy", "qx")), 72, rtol=1e-5)


def test_progress_is_reported(tmp_path: Path) -> None:
    done = []
    simulate_scan(
        tmp_path / "s.zarr", **SMALL, photons=10, tile_frames=16, progress=lambda *args: done.append(args)
    )
    assert done == [(16, 30), (30, 30)]


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_probe_fills_the_frame_and_reaches_its_neighbours(size: int) -> None:
    power = abs(zone_plate_probe(size)[0]) ** 2
    assert power.sum() == pytest.approx(1)
    middle = slice(size // 4, size - size // 4)
    # The power is more central than a constant, and small at the rim of the frame.
    assert 0.3 < power[middle, middle].sum() < 0.7
    rim = 4 * (size - 1) / size**2
    assert power[[0, -1]].sum() + power[1:-1, [0, -1]].sum() < 0.9 * rim
    # Frames a quarter apart illuminate every pixel.
    step = size // 4
    coverage = power.reshape(4, step, 4, step).sum(axis=(0, 2))
    assert coverage.min() > 0.15 * coverage.max()
    centre = (power * np.mgrid[:size, :size]).sum(axis=(1, 2))
    np.testing.assert_allclose(centre, size // 2, atol=0.05 * size)


def test_probe_modes_are_orthogonal() -> None:
    modes = zone_plate_probe(32, 7).reshape(7, -1)
    overlap = modes.conj() @ modes.T
    np.testing.assert_allclose(overlap, np.diag(np.diag(overlap)), atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 33), (538, 200), (1300, 40)])
@pytest.mark.parametrize("periodic", [False, True])
def test_object_fills_any_canvas_with_detail(shape: tuple[int, int], periodic: bool) -> None:
    sample = phantom_object(shape, periodic)
    assert sample.shape == shape
    assert 0.499 <= abs(sample).min() < 0.6
    assert 0.9 < abs(sample).max() <= 1.001
    assert 0.5 < np.angle(sample).max() < np.pi / 4 + 0.01
    # Neighbouring pixels differ everywhere, and not more across the seam of a periodic canvas.
    for axis in (0, 1):
        steps = abs(np.roll(sample, -1, axis) - sample).mean(axis=1 - axis)
        assert steps[:-1].min() > 0.01
        if periodic:
            assert steps[-1] < 2 * np.median(steps)


BAD_OPTIONS = [
    ({"frames": (0, 4)}, r"frames is \(0, 4\); expected at least"),
    ({"frames": 8}, "frames is 8; expected two whole numbers"),
    ({"frame_size": 3}, "frame_size is 3; expected at least 4"),
    ({"step": 0.5}, "step is 0.5; expected at least 1"),
    ({"jitter": -1}, "jitter is -1; expected 0"),
    ({"photons": 0}, "photons is 0; expected more than 0"),
    ({"photons": np.nan}, "photons is nan; expected more"),
    ({"seed": -1}, "seed is -1; expected 0"),
    ({"pattern": "cross"}, "pattern is 'cross'; expected 'raster' or 'spiral'"),
    ({"modes": 0}, "modes is 0; expected 1"),
    ({"modes": 2, "probe": np.ones((12, 12))}, "modes and probe are both given"),
    ({"probe": np.ones((10, 12))}, r"probe has the shape \(1, 10, 12\); expected \(mode, 12, 12\)"),
    ({"periodic": True, "pattern": "spiral"}, "a periodic spiral does not exist"),
    ({"periodic": True}, r"is \(24, 20\) pixels; expected at least 24"),
    ({"periodic": True, "frames": (9, 9), "step": 4.1}, "expected whole numbers"),
    ({"object": np.ones((32, 27))}, r"object has the shape \(32, 27\); expected at least \(32, 28\)"),
    (
        {"object": np.ones((50, 50)), "periodic": True, "frames": (8, 8)},
        r"object has the shape \(50, 50\); expected exactly the period \(32, 32\)",
    ),
    ({"tile_frames": 0}, "tile_frames is 0; expected at least 1"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_impossible_options_are_refused(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        simulate_scan(tmp_path / "s.zarr", **(SMALL | options))
    assert list(tmp_path.iterdir()) == []


def test_existing_scan_is_not_overwritten_unasked(tmp_path: Path) -> None:
    simulate_scan(tmp_path / "s.zarr", **SMALL)
    with pytest.raises(ScanError, match="overwrite"):
        simulate_scan(tmp_path / "s.zarr", **SMALL)
    simulate_scan(tmp_path / "s.zarr", **SMALL, overwrite=True)
