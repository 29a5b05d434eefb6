"""Counts taken to be Poisson's, in rendered frames of a photon a pixel and less."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import daskptycho as dp
from tests.plain import smooth
from tests.smooth_rendering import probe_of, raster
from tests.stopping import Stop, stop_at

# With so few counts, a frame of the rim that got stuck stands out.
pytestmark = pytest.mark.filterwarnings("ignore:frames? .* fits? far worse than the others")

SIZE, SWEEPS = 24, 45
POISSON: dict[str, Any] = {"likelihood": "poisson", "update_probe": False, "sweeps": SWEEPS}


def detailed_object(side: int) -> NDArray[np.complex128]:
    """Detail down to single pixels, as photographs have it."""
    random = np.random.default_rng(11)
    absorption, phase = (
        sum(scale / 4 * smooth(random, (side, side), scale) for scale in (0.5, 1, 2, 4)) for _ in range(2)
    )
    return np.exp(-0.15 * np.abs(absorption) + 0.5j * phase)


def arrays(photons: float) -> tuple[NDArray, NDArray, NDArray]:
    """Counts of frames, their positions, and the probe with the power of frames."""
    position = np.rint(raster(10)).astype(int)
    position -= position.min(axis=0)
    side = int(position.max()) + SIZE
    image, probe = detailed_object(side), probe_of(SIZE)
    windows = np.array([image[y : y + SIZE, x : x + SIZE] for y, x in position])
    power = abs(np.fft.fftshift(np.fft.fft2(probe * windows, norm="ortho"), axes=(1, 2))) ** 2
    scale = photons / power.sum(axis=(1, 2)).mean()
    counts = np.random.default_rng(8).poisson(scale * power).astype(np.uint32)
    return counts, position, np.sqrt(scale) * probe


@cache
def rendered(photons: float) -> xr.Dataset:
    counts, position, probe = arrays(photons)
    with TemporaryDirectory() as folder:
        scan = dp.create_scan(
            Path(folder) / "s.zarr", counts, position, probe=probe, position_unit="pixel"
        ).load()
    scan.encoding.clear()
    return scan


def error(result: xr.Dataset) -> float:
    image, light = result["object"].values, result["illumination"].values
    truth = detailed_object(max(image.shape))[: image.shape[0], : image.shape[1]]
    return dp.relative_error(image, truth, light)


def apart(result: xr.Dataset, other: xr.Dataset) -> float:
    """Distance of two images, relative and in the light."""
    return dp.relative_error(result["object"].values, other["object"].values, other["illumination"].values)


def test_it_is_about_as_good_where_photons_are_few() -> None:
    ds = rendered(500)
    found = dp.reconstruct(ds, **POISSON)
    default = dp.reconstruct(ds, **POISSON | {"likelihood": "amplitude"})
    # On rendered objects it is equal or up to some per cent above (docs/benchmarks.md).
    assert error(found) < 1.05 * error(default)
    # Up to the polish the runs are one.
    np.testing.assert_array_equal(found["residual"][:30], default["residual"][:30])
    used = [json.loads(run.attrs["options"])["likelihood"] for run in (found, default)]
    assert used == ["poisson", "amplitude"]


def test_many_photons_are_polished_too() -> None:
    ds = rendered(5e5)
    found = dp.reconstruct(ds, **POISSON)
    default = dp.reconstruct(ds, **POISSON | {"likelihood": "amplitude"})
    assert not np.array_equal(found["object"], default["object"])
    assert error(found) < 1.1 * error(default)


def test_tiles_change_nothing() -> None:
    ds = rendered(500)
    sync = dp.Sync("full")
    one, many = (dp.reconstruct(tiled, sync=sync, **POISSON) for tiled in (ds, ds.chunk({"frame": 27})))
    assert apart(many, one) < 1e-3


def test_a_background_and_invalid_pixels_are_part_of_it() -> None:
    valid = np.ones((SIZE, SIZE), dtype=bool)
    valid[4:8, 5:9] = False
    ds = rendered(500)
    light = np.random.default_rng(1).poisson(0.2, ds["intensity"].shape)
    lit = ds.assign(
        intensity=(ds["intensity"] + light).where(xr.DataArray(valid, dims=("qy", "qx")), 60),
        valid=(("qy", "qx"), valid),
        background=(("qy", "qx"), np.full((SIZE, SIZE), 0.2, dtype=np.float32)),
    )
    known = dp.reconstruct(lit, **POISSON)
    ignored = dp.reconstruct(lit.drop_vars("background"), **POISSON)
    assert error(known) < 0.9 * error(ignored)


def test_modes_share_the_counts(tmp_path: Path) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", (9, 9), SIZE, 4, jitter=1, photons=500, modes=2, seed=3)
    truth = ds["truth_object"].values

    def error(**options: Any) -> float:
        result = dp.reconstruct(ds, **POISSON | options)
        return dp.relative_error(result["object"].values, truth, result["illumination"].values)

    assert error() < error(likelihood="amplitude")


@pytest.mark.parametrize("cut", [20, 38], ids=["before", "in the polish"])
def test_it_is_resumed_to_the_same_bits(tmp_path: Path, cut: int) -> None:
    counts, position, probe = arrays(500)
    ds = dp.create_scan(tmp_path / "s.zarr", counts, position, probe=probe, position_unit="pixel")
    expected = dp.reconstruct(ds, **POISSON)
    with pytest.raises(Stop):
        dp.reconstruct(ds, tmp_path / "r.zarr", callback=stop_at(cut), **POISSON)
    found = dp.resume(tmp_path / "r.zarr")
    np.testing.assert_array_equal(found["object"], expected["object"])
    assert json.loads(found.attrs["options"])["likelihood"] == "poisson"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_probe": True}, "likelihood is 'poisson' with algorithm ap; expected algorithm 'lbfgs'"),
        ({"algorithm": "raar"}, "likelihood is 'poisson' with algorithm raar"),
        ({"refine": ["positions", "gain"]}, "likelihood is 'poisson' with positions, gain refined; .*'ap'"),
        ({"polish": False}, "likelihood is 'poisson' with no polish"),
        ({"sweeps": 2}, "likelihood is 'poisson' with sweeps=2, .* expected 3 or more"),
        ({"likelihood": "gauss"}, "likelihood is 'gauss'; expected 'amplitude' or 'poisson'"),
    ],
)
def test_what_it_cannot_be_used_with_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dp.OptionError, match=message):
        dp.reconstruct(rendered(500), **POISSON | options)


def test_frames_that_hold_no_counts_are_refused() -> None:
    ds = rendered(500)
    with pytest.raises(dp.OptionError, match="likelihood is 'poisson', and the frames hold fractions"):
        dp.reconstruct(ds.assign(intensity=ds["intensity"] * np.float32(0.37)), **POISSON)
