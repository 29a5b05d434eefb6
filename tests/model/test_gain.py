"""The gain of the beam at each frame: a scan that drifted ends as well as one that did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import daskptycho as dp
from daskptycho.model.algorithms import AP
from daskptycho.model.gain import Gain
from daskptycho.model.light import illuminate_tile
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import merge, sweep_tile
from daskptycho.sync.options import Sync
from daskptycho.tasks.layout import Residency
from daskptycho.tiling import Tile
from tests import plain
from tests.plain import Projections
from tests.stopping import Stop, stop_at
from tests.sweeping import PROBE, on_tile, sweep_scan

SCANS: dict[str, dict[str, Any]] = {
    "whole": {},
    "fractional": {"fractional": True},
    "modes": {"modes": 2},
    "modes-fractional": {"modes": 2, "fractional": True, "invalid": True},
    "periodic": {"periodic": True, "fractional": True},
}
every_scan = pytest.mark.parametrize("options", SCANS.values(), ids=SCANS.keys())


def drift(frames: int) -> NDArray[np.float64]:
    """A gain of geometric mean one that drifts, and jumps from frame to frame."""
    number = np.arange(frames)
    gain = 1 + 0.3 * np.sin(2 * np.pi * number / frames) + 0.15 * np.cos(7 * number)
    return gain / np.exp(np.log(gain).mean())


def drifted(ds: xr.Dataset) -> xr.Dataset:
    """The scan with each frame recorded with the gain of `drift`, which it does not know of."""
    counts = ds["intensity"] * (drift(ds.sizes["frame"]) ** 2)[:, None, None]
    return ds.assign(intensity=counts)


def with_gain(ds: xr.Dataset, gain: Any = None) -> xr.Dataset:
    return ds.assign(gain=("frame", drift(ds.sizes["frame"]) if gain is None else gain))


# Runs


def counted(ds: xr.Dataset, photons: float) -> xr.Dataset:
    """The scan with counts of Poisson noise, this number of photons for each of its mean counts."""
    counts = np.random.default_rng(1).poisson(photons * ds["intensity"].values).astype(np.uint32)
    probe = (ds["probe"] * np.sqrt(photons)).astype(np.complex64)
    return ds.assign(intensity=(ds["intensity"].dims, counts), probe=probe)


def error_of(ds: xr.Dataset, update_probe: bool) -> float:
    """Relative error of the image that a run ends at, up to what ptychography leaves open."""
    found = dp.reconstruct(ds, sweeps=40, update_probe=update_probe)
    return dp.compare_images(
        found["object"].values, ds["truth_object"].values, found["illumination"].values
    ).error


@pytest.mark.filterwarnings("ignore:R2 is .* where counting photons would leave")
@every_scan
@pytest.mark.parametrize("update_probe", [False, True], ids=["known", "recovered"])
def test_a_scan_that_drifted_ends_as_well_as_one_that_did_not(options: dict, update_probe: bool) -> None:
    ds = plain.scan(frames=(8, 8), frame_shape=(16, 16), **options)
    photons = 1e5 / float(ds["intensity"].where(ds.get("valid", True)).sum(("qy", "qx")).mean())
    steady = error_of(counted(ds, photons), update_probe)
    recorded = counted(drifted(ds), photons)
    # A beam monitor has any scale.
    known = error_of(with_gain(recorded, 17 * drift(64)), update_probe)
    assert steady < 0.03
    assert known < 1.2 * steady
    assert error_of(recorded, update_probe) > 10 * steady


def test_without_noise_a_drifted_scan_is_fitted_to_the_last_digits() -> None:
    ds = with_gain(drifted(plain.scan(frames=(8, 8), frame_shape=(16, 16), periodic=True)))
    found = dp.reconstruct(ds, sweeps=60, update_probe=False)
    assert found["residual"][-1] < 1e-12
    assert plain.relative_up_to_a_factor(found["object"].values, ds["truth_object"].values) < 1e-5


def test_result_has_the_gain_in_the_scans_order_with_a_geometric_mean_of_one(tmp_path: Path) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", frames=(6, 6), frame_size=16, step=4, tile_frames=10)
    # Frames lie in the order of tiles, not in that of their numbers.
    assert (np.diff(ds["frame_number"].values) < 0).any()
    gain = 40 * drift(36)[ds["frame_number"].values]
    found = dp.reconstruct(with_gain(ds, gain), tmp_path / "r.zarr", sweeps=2)
    assert found["gain"].dims == ("frame",)
    np.testing.assert_allclose(found["gain"], gain / np.exp(np.log(gain).mean()), rtol=1e-6)
    assert np.log(found["gain"].values.astype(float)).mean() == pytest.approx(0, abs=1e-6)
    xr.testing.assert_identical(dp.open_result(tmp_path / "r.zarr"), found)
    assert "gain" not in dp.reconstruct(ds, sweeps=1)


@pytest.mark.parametrize("method", ["full", None])
@pytest.mark.parametrize(
    "options",
    [
        {"update_probe": False},
        {"update_probe": True},
        {"update_probe": True, "residency": Residency.WAVES_TWICE},
    ],
    ids=["known", "recovered", "recovered-waves-twice"],
)
def test_two_tiles_are_as_one(method: Any, options: dict[str, Any]) -> None:
    ds = with_gain(drifted(plain.scan(frames=(6, 6), fractional=True, modes=2, invalid=True)))
    sync = Sync(method, every=1, iterations=300)
    one, two = (sweep_scan(ds, chunks, sync=sync, **options) for chunks in ((36,), (24, 12)))
    assert plain.relative(two.image, one.image) < 1e-5
    assert plain.relative(two.probe, one.probe) < 1e-5
    assert plain.relative(two.illumination, one.illumination) < 1e-5
    np.testing.assert_allclose(two.reports, one.reports, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("update_probe", [False, True])
def test_two_tiles_synchronised_on_two_levels_end_where_one_does(update_probe: bool) -> None:
    ds = with_gain(drifted(plain.scan(frames=(8, 8), frame_shape=(16, 16), periodic=True)))
    options: dict[str, Any] = {"sweeps": 80, "update_probe": update_probe, "sync": Sync(every=1)}
    one, two = (dp.reconstruct(ds.chunk({"frame": size}), **options) for size in (64, 36))
    assert one["residual"][-1] < 1e-7
    assert two["residual"][-1] < 1e-7
    assert plain.relative_up_to_a_factor(two["object"].values, one["object"].values) < 1e-2


# Resumption


@pytest.fixture
def recorded(tmp_path: Path) -> xr.Dataset:
    ds = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=10, photons=None
    )
    return with_gain(ds, drift(36))


def cut_off(ds: xr.Dataset, out: Path) -> None:
    with pytest.raises(Stop):
        dp.reconstruct(ds, out, sweeps=9, callback=stop_at(5))


@pytest.mark.parametrize("given", [False, True], ids=["from its store", "given"])
def test_resumed_run_keeps_the_gain_bit_for_bit(recorded: xr.Dataset, tmp_path: Path, given: bool) -> None:
    """The gain was put beside a scan whose store has none."""
    whole = dp.reconstruct(recorded, tmp_path / "whole.zarr", sweeps=9)
    cut_off(recorded, tmp_path / "r.zarr")
    kept = dp.open_checkpoint(tmp_path / "r.zarr")
    np.testing.assert_array_equal(kept["gain"], whole["gain"])
    found = dp.resume(tmp_path / "r.zarr", scan=recorded if given else None)
    xr.testing.assert_equal(found.drop_vars("seconds"), whole.drop_vars("seconds"))
    assert found.attrs == whole.attrs


def test_gain_of_a_stored_scan_lies_with_its_frames(tmp_path: Path) -> None:
    """A scan whose store has the gain, in tiles that are compact: it runs, and goes on, as one in memory."""
    ds = drifted(plain.scan(frames=(6, 6), periodic=True))
    shuffled = np.random.default_rng(0).permutation(36)
    recorded = ds.isel(frame=shuffled)
    stored = dp.create_scan(
        tmp_path / "s.zarr",
        recorded["intensity"].values,
        recorded["position"].values,
        probe=recorded["probe"].values,
        position_unit="pixel",
        period=ds.attrs["period"],
        tile_frames=9,
        frame_values={"gain": drift(36)[shuffled]},
    )
    order = shuffled[stored["frame_number"].values]
    np.testing.assert_array_equal(stored["gain"], drift(36)[order])
    options: dict[str, Any] = {"sweeps": 6, "sync": Sync("full", every=1), "update_probe": False}
    # The opening of L-BFGS would be longer in the longer run.
    options["algorithm"] = "ap"
    found = dp.reconstruct(stored, tmp_path / "r.zarr", **options)
    in_memory = dp.reconstruct(with_gain(ds), **options)
    assert plain.relative(found["object"].values, in_memory["object"].values) < 1e-4
    more = dp.resume(tmp_path / "r.zarr", sweeps=9)
    whole = dp.reconstruct(stored, **options | {"sweeps": 9})
    xr.testing.assert_equal(more.drop_vars("seconds"), whole.drop_vars("seconds"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: with_gain(ds, drift(36)[::-1]), "the scan has another gain than the one that the run"),
        (lambda ds: ds.drop_vars("gain"), "the scan has no gain; expected the one that the run began with"),
    ],
    ids=["another", "none"],
)
def test_run_does_not_go_on_with_another_gain(
    recorded: xr.Dataset, tmp_path: Path, change: Any, said: str
) -> None:
    cut_off(recorded, tmp_path / "r.zarr")
    with pytest.raises(dp.ScanError, match=said):
        dp.resume(tmp_path / "r.zarr", scan=change(recorded))


def test_run_that_began_without_a_gain_goes_on_without(recorded: xr.Dataset, tmp_path: Path) -> None:
    cut_off(recorded.drop_vars("gain"), tmp_path / "r.zarr")
    said = "the scan has a gain; expected none, as in the one that the run began with"
    with pytest.raises(dp.ScanError, match=said):
        dp.resume(tmp_path / "r.zarr", scan=recorded)


# Nonsense


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (("other", np.ones(15)), r"gain has shape \(15,\); expected one number for each of 16 frames"),
        (((), 1.0), r"gain has shape \(\); expected one number for each of 16 frames"),
        ((("frame", "axis"), np.ones((16, 2))), r"gain has shape \(16, 2\)"),
        (("frame", np.where(np.arange(16) == 3, 0, 1)), "gain of frame 3 is 0.0; expected a number above 0"),
        (("frame", np.where(np.arange(16) == 15, -2.5, 1)), "gain of frame 15 is -2.5"),
        (("frame", np.where(np.arange(16) > 6, np.nan, 1)), "gain of frame 7 is nan"),
        (("frame", np.where(np.arange(16) == 0, np.inf, 1)), "gain of frame 0 is inf"),
    ],
    ids=["length", "scalar", "dimensions", "zero", "negative", "nan", "infinite"],
)
def test_nonsense_is_refused(gain: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(dp.ScanError, match=said):
        dp.reconstruct(plain.scan().assign(gain=gain), tmp_path / "r.zarr", sweeps=1)
    assert not list(tmp_path.iterdir())


# The formulas


def gained_probe(ds: xr.Dataset, tile: Tile) -> NDArray:
    """(frame, mode, y, x): the probe that each frame of a tile saw."""
    gain = ds["gain"].values[tile.frames]
    return gain[:, None, None, None] * plain.shifted(ds["probe"].values, tile.fraction)


@every_scan
def test_sums_are_those_of_the_plainest_numpy(options: dict) -> None:
    """Waves, misfit, overlap sum, illumination, image, and the sums of the probe."""
    ds = with_gain(drifted(plain.scan(**options)))
    random = np.random.default_rng(2)
    for tile in plain.tiling_of(ds, (4, 7, 5)).tiles:
        shape, amplitude = tile.window.shape, plain.amplitudes_of(ds)[tile.frames]
        image = plain.complex_noise(random, shape)
        damping = plain.damping_of(ds, 1e-2)
        on = Projections(gained_probe(ds, tile), tile.corner, amplitude.astype(float), shape, damping)
        waves = on.split(image)
        projected = on.data(waves)
        at = on_tile(ds, tile, due=PROBE)
        swept = sweep_tile(AP(), at, tile, amplitude, image)
        assert swept.misfit == pytest.approx(plain.misfit(waves, on.amplitude), rel=1e-4)
        image_sum = plain.overlap(plain.weigh(projected, on.probe), tile.corner, shape)
        assert plain.relative(swept.left.image_sum, image_sum) < 1e-4
        lit = illuminate_tile(tile, at)
        assert plain.relative(lit, plain.illuminate(on.probe, tile.corner, shape)) < 1e-5
        bright = lit > 0.1 * lit.max()
        assert (
            plain.relative(
                merge(swept.left.image_sum, lit, at, image)[bright], on.image(projected, image)[bright]
            )
            < 1e-4
        )

        patches = plain.windows(image, tile.corner, ds["probe"].shape[1:])
        patches = patches * ds["gain"].values[tile.frames][:, None, None]
        terms = patches.conj()[:, None] * (projected - waves)
        back = [plain.shifted(own, -by[None])[0] for own, by in zip(terms, tile.fraction, strict=True)]
        numerator, denominator = swept.sums["probe"]
        assert plain.relative(numerator, np.sum(back, axis=0)) < 1e-4
        # At fractional positions it has an array for each class of fractions.
        total = denominator.sum(axis=0) if denominator.ndim == 3 else denominator
        assert plain.relative(total, (abs(patches) ** 2).sum(axis=0)) < 1e-5


@pytest.mark.parametrize("modes", [1, 2])
def test_update_is_the_least_squares_fit_of_frames_of_unlike_gain(modes: int) -> None:
    """P = sum g conj(psi_i) p_i / sum g^2 |psi_i|^2 for whole-pixel positions."""
    ds = with_gain(drifted(plain.scan(modes=modes)))
    tile = plain.tiling_of(ds).tiles[0]
    image = (ds["truth_object"].values * 0.9).astype(np.complex64)
    swept = sweep_tile(AP(), on_tile(ds, tile, due=PROBE), tile, plain.amplitudes_of(ds), image)
    found = Probe().update(ds["probe"].values, swept.sums["probe"])
    patches = plain.windows(image, tile.corner, ds["probe"].shape[1:]) * ds["gain"].values[:, None, None]
    projected = plain.project(
        plain.split(image, gained_probe(ds, tile), tile.corner), plain.amplitudes_of(ds)
    )
    expected = (patches.conj()[:, None] * projected).sum(axis=0) / (abs(patches) ** 2).sum(axis=0)
    # Well lit here, so next to nothing of the old probe is kept.
    assert plain.relative(found, expected) < 5e-3


@pytest.mark.parametrize("options", [{}, {"fractional": True, "modes": 2}], ids=str)
def test_h_is_that_of_weighted_frames_with_their_gain(options: dict) -> None:
    ds = with_gain(drifted(plain.scan(**options)))
    tiling, tile = plain.tiling_of(ds), plain.tiling_of(ds).tiles[0]
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    shape = tiling.window.shape
    on = Projections(gained_probe(ds, tile), corner, plain.amplitudes_of(ds).astype(float), shape)
    weighted = plain.weigh(on.data(on.split(np.ones(shape))), on.probe)
    frames = dp.weighted_frames(ds)
    assert plain.relative(frames.compute(), weighted) < 1e-4
    expected = plain.gramian(weighted, corner, plain.illuminate(on.probe, corner, shape))
    assert plain.relative(dp.gramian(ds, frames).matrix().toarray(), expected) < 1e-4


def test_truth_is_a_fixed_point() -> None:
    ds = with_gain(drifted(plain.scan(fractional=True, modes=2)))
    tile, truth = plain.tiling_of(ds).tiles[0], ds["truth_object"].values
    at = on_tile(ds, tile, due=PROBE)
    swept = sweep_tile(AP(), at, tile, plain.amplitudes_of(ds), truth)
    assert swept.misfit / float(ds["intensity"].sum()) < 1e-9
    lit = illuminate_tile(tile, at)
    assert plain.relative(merge(swept.left.image_sum, lit, at, truth)[lit > 0], truth[lit > 0]) < 1e-4
    assert plain.relative(Probe(fractional=True).update(at.probe, swept.sums["probe"]), at.probe) < 1e-4


def test_gain_is_held_and_says_so() -> None:
    gain, first = Gain.choose(with_gain(plain.scan(), np.arange(1.0, 17)), {})
    assert gain.schedule is None
    assert gain.describe((16,)) == "gain of each frame (held)"
    assert gain.nbytes(16) == first.nbytes == 64
    np.testing.assert_array_equal(gain.update(first, ()), first)
    assert Gain.choose(plain.scan(), {}) is None
