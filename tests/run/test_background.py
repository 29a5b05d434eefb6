"""A background in rendered frames: known or found, it is part of the model, whatever tiles and mask."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import daskptycho as dp
from tests.smooth_rendering import error_of, frames_at, object_at, probe_of, raster
from tests.stopping import Stop, stop_at

SIZE, PHOTONS, SWEEPS = 24, 2e4, 60


def hill(mean: float) -> NDArray[np.float32]:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    shape = 0.3 + np.exp(-((y - 0.35) ** 2 + (x - 0.6) ** 2) / 0.08)
    return (shape * mean / shape.mean()).astype(np.float32)


def flat(mean: float) -> NDArray[np.float32]:
    return np.full((SIZE, SIZE), mean, dtype=np.float32)


MEAN = 0.1 * PHOTONS / SIZE**2
BACKGROUNDS = {"none": flat(0), "flat": flat(MEAN), "smooth": hill(MEAN)}


@cache
def rendered(kind: str) -> xr.Dataset:
    """Counts of the sample and of a background that the scan does not tell."""
    position = np.rint(raster(9))
    counts = frames_at(position, PHOTONS, SIZE)
    counts = counts + np.random.default_rng(1).poisson(BACKGROUNDS[kind], counts.shape)
    with TemporaryDirectory() as folder:
        scan = dp.create_scan(
            Path(folder) / "s.zarr",
            counts.astype(np.uint16),
            position,
            probe=probe_of(SIZE),
            position_unit="pixel",
        )
        scan = scan.load()
    # The power of the beam, with the frames of an object that absorbs a little.
    scan.encoding.clear()
    return scan.assign(probe=scan["probe"] * np.complex64(power_of_the_beam(position)))


def power_of_the_beam(position: NDArray) -> float:
    """The factor of `probe_of` that gives frames their mean sum."""
    side = np.arange(SIZE)
    waves = [probe_of(SIZE) * object_at(y + side, x + side) for y, x in position]
    return float(np.sqrt(PHOTONS / np.mean([(abs(wave) ** 2).sum() for wave in waves])))


def told(ds: xr.Dataset, background: NDArray) -> xr.Dataset:
    return ds.assign(background=(("qy", "qx"), background))


def run(ds: xr.Dataset, **options: Any) -> xr.Dataset:
    return dp.reconstruct(ds, **{"sweeps": SWEEPS, "update_probe": False} | options)


def subtracted(ds: xr.Dataset, background: NDArray) -> xr.Dataset:
    return run(ds.assign(intensity=np.maximum(ds["intensity"] - background, 0)))


def error(result: xr.Dataset) -> float:
    parts = (result[name].values for name in ("object", "y", "x", "illumination"))
    return error_of(*parts)


@pytest.mark.parametrize("kind", ["flat", "smooth"])
def test_a_known_background_is_better_in_the_model_than_subtracted(kind: str) -> None:
    ds, background = rendered(kind), BACKGROUNDS[kind]
    known = run(told(ds, background))
    assert error(known) < 0.9 * error(subtracted(ds, background)) < 0.5 * error(run(ds))
    np.testing.assert_array_equal(known["background"], background)
    # Counting leaves what it leaves where the background is a part of the counts.
    assert known["residual"][-1] == pytest.approx(known.attrs["expected_residual"], rel=0.2)


@pytest.mark.parametrize(("kind", "asked"), [("flat", "background"), ("smooth", "smooth-background")])
@pytest.mark.parametrize("update_probe", [False, True])
def test_a_background_is_found(kind: str, asked: str, update_probe: bool) -> None:
    ds, background = rendered(kind), BACKGROUNDS[kind]
    found = run(ds, refine=asked, update_probe=update_probe)
    off = found["background"].values - background
    assert found["background"].dims == ("qy", "qx")
    # It is a little too small: the object takes up a part of the noise, which is never negative.
    assert np.sqrt((off**2).mean()) < 0.25 * MEAN
    assert error(found) < 0.7 * error(run(ds, update_probe=update_probe))
    if not update_probe:
        assert error(found) < error(subtracted(ds, background))


@pytest.mark.parametrize("asked", ["background", "smooth-background"])
def test_where_there_is_none_next_to_none_is_found(asked: str) -> None:
    found = run(rendered("none"), refine=asked)
    assert found["background"].max() < 0.15 * MEAN
    assert error(found) < 1.02 * error(run(rendered("none")))


def test_a_first_guess_that_is_wrong_is_put_right() -> None:
    found = run(told(rendered("flat"), flat(3 * MEAN)), refine="background")
    expected = run(rendered("flat"), refine="background")["background"]
    np.testing.assert_allclose(found["background"], expected, rtol=0.02)


def test_tiles_and_invalid_pixels_change_nothing() -> None:
    valid = np.ones((SIZE, SIZE), dtype=bool)
    valid[4:8, 5:9] = False
    found = []
    ds = rendered("flat").assign(valid=(("qy", "qx"), valid))
    ds = ds.assign(intensity=ds["intensity"].where(ds["valid"], 60000).astype(np.uint16))
    for tiled in (ds, ds.chunk({"frame": 27})):
        found.append(run(tiled, refine="background")["background"].values)
    one, many = found
    assert not one[~valid].any()
    np.testing.assert_allclose(one[valid], MEAN, rtol=0.25)
    np.testing.assert_allclose(many, one, rtol=0.02)


def test_near_field(tmp_path: Path) -> None:
    near: dict[str, Any] = {
        "frames": (6, 6),
        "frame_size": 24,
        "step": 5,
        "photons": 2e5,
        "propagation": "near-field",
        "energy_eV": 17_000,
        "source_distance_m": 0.005,
        "detector_distance_m": 0.095,
        "detector_pixel_size_m": 4e-6,
    }
    ds = dp.simulate_scan(tmp_path / "s.zarr", **near).load()
    background = np.linspace(10, 60, 24, dtype=np.float32) * np.ones((24, 1), np.float32)
    counts = ds["intensity"] + np.random.default_rng(1).poisson(background, ds["intensity"].shape)
    found = run(ds.assign(intensity=counts), refine=dp.Background(6), sweeps=100)["background"].values
    assert np.corrcoef(found.ravel(), background.ravel())[0, 1] > 0.9


def test_a_resumed_run_goes_on_with_what_it_had_found(tmp_path: Path) -> None:
    ds = rendered("smooth")
    given: dict[str, Any] = {"refine": ("smooth-background",), "sweeps": 16, "update_probe": False}
    whole = dp.reconstruct(ds, **given)
    arrays = (ds[name].values for name in ("intensity", "position"))
    stored = dp.create_scan(tmp_path / "s.zarr", *arrays, probe=ds["probe"].values, position_unit="pixel")
    with pytest.raises(Stop):
        dp.reconstruct(stored, tmp_path / "r.zarr", checkpoint_every=1, callback=stop_at(11), **given)
    resumed = dp.resume(tmp_path / "r.zarr")
    np.testing.assert_allclose(resumed["background"], whole["background"], rtol=1e-4)
    assert dp.open_result(tmp_path / "r.zarr")["background"].dims == ("qy", "qx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "haze"}, "refine holds 'haze'; expected one of .*'background'"),
        ({"refine": 3}, "refine is 3; expected one of"),
        ({"refine": ["background", "background"]}, "refine holds background twice"),
        (
            {"refine": ["background", "smooth-background"]},
            "refine holds background and smooth-background, two ways to refine one background",
        ),
        ({"refine": "background", "algorithm": "raar"}, "background is refined with algorithm raar"),
    ],
)
def test_impossible_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dp.OptionError, match=message):
        run(rendered("flat"), **options)


@pytest.mark.parametrize("smooth", [0, -1.0, np.nan, np.inf, "3"])
def test_impossible_widths_are_refused(smooth: Any) -> None:
    with pytest.raises(dp.OptionError, match="smooth of Background is"):
        dp.Background(smooth)


def test_more_background_than_counts_is_refused() -> None:
    with pytest.raises(dp.ScanError, match=r"background has .* counts in a frame, where frames have"):
        run(told(rendered("flat"), flat(20 * MEAN)))
