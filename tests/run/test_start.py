"""Where a run begins: ones, an object, random phases in every frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pytest

from daskptycho.model.forward import NearField
from daskptycho.model.model import choose_model
from daskptycho.run.start import RandomPhases, begin_random, place_values
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.layout import Residency, lay_out
from daskptycho.tasks.state import merge_images
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Window
from tests import plain
from tests.sweeping import begin, begin_with_random_phases, images_on_canvas, lay_out_scan, sweep_scan

RASTER: dict[str, Any] = {"frames": (6, 6)}
PERIODIC: dict[str, Any] = {"frames": (6, 6), "periodic": True}
FOUR, NINE = (9,) * 4, (4,) * 9
NONE = Sync(method=None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def test_a_start_from_ones() -> None:
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, FOUR)
    image = images_on_canvas(layout, begin(layout, ds))
    assert image.dtype == np.complex64
    assert (image[plain.illumination_of(ds) > 0] == 1).all()


@pytest.mark.parametrize("scan", [RASTER, PERIODIC | {"fractional": True}], ids=str)
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, np.float64, np.int64])
def test_a_start_from_an_object_is_that_object(scan: dict, dtype: Any) -> None:
    ds = plain.scan(**scan)
    layout = lay_out_scan(ds, NINE)
    tiling = layout.tiling
    canvas = np.arange(np.prod(tiling.window.shape)).reshape(tiling.window.shape).astype(dtype)
    state = begin(layout, ds, canvas)
    found = images_on_canvas(layout, state)
    assert found.dtype == np.complex64
    covered = plain.illumination_of(ds) > 0
    np.testing.assert_array_equal(found[covered], canvas[covered].astype(np.complex64))
    for tile, image in zip(tiling.tiles, compute(merge_images(layout, state)), strict=True):
        assert image.shape == tile.window.shape
        origin = tiling.window if tiling.period is None else Window(0, 0, 0, 0)
        at = ((tile.window.y - origin.y) % canvas.shape[0], (tile.window.x - origin.x) % canvas.shape[1])
        assert image[0, 0] == canvas[at]


@pytest.mark.parametrize("modes", [1, 3])
def test_random_frames_have_the_measured_amplitudes(modes: int) -> None:
    """One frame alone: its image times the probe is the wave that the start made."""
    ds = plain.scan(frames=(1, 1), modes=modes, invalid=modes == 1)
    amplitude = plain.amplitudes_of(ds)
    start = sweep_scan(ds, (1,), sweeps=0, start="random", sync=NONE)
    other = sweep_scan(ds, (1,), sweeps=0, start="random", sync=NONE)
    np.testing.assert_array_equal(start.image, other.image)
    assert np.isnan(start.reports[0][1:]).all()
    if modes == 1:
        wave = plain.transform(start.image * ds["probe"].values)
        np.testing.assert_allclose(abs(wave[0]), np.clip(amplitude[0], 0, None), rtol=1e-3, atol=1e-3)
    phases = np.angle(plain.transform(start.image * ds["probe"].values[0]))
    assert np.std(phases) > 1


def test_random_frames_of_the_near_field_have_the_measured_amplitudes() -> None:
    """The same between pixels: on the detector the beam is where it is for every position."""
    ds = plain.scan(frames=(1, 1), fractional=True)
    kernel = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, (12, 10))).astype(np.complex64)
    model, first = choose_model(ds, {"update_probe": False, "fractional": True}, NearField(kernel))
    tiling = plain.tiling_of(ds, (1,))
    layout = persist(lay_out(ds.chunk({"frame": 1}), tiling, model, "full", residency=Residency.HELD))
    phases = RandomPhases(5, [np.array([0])])
    state, _ = begin_random(layout, *place_values(layout, first), phases, Synchronisation(NONE, None))
    fraction = tiling.tiles[0].fraction
    assert fraction.all()
    wave = images_on_canvas(layout, state) * plain.shifted(ds["probe"].values, fraction)[0]
    back = plain.shifted(wave, -fraction)[0, 0]
    detected = np.fft.ifft2(plain.transform(back) * kernel, norm="ortho")
    np.testing.assert_allclose(abs(detected), np.sqrt(ds["intensity"].values[0]), rtol=1e-3, atol=1e-3)


def test_random_phases_follow_the_frames_number_and_the_seed() -> None:
    ds = plain.scan(**PERIODIC)
    layout = lay_out_scan(ds, FOUR)

    def start(numbers: np.ndarray, seed: int) -> np.ndarray:
        how = Synchronisation(NONE, None)
        state, _ = begin_with_random_phases(layout, ds, how, seed=seed, numbers=numbers)
        return images_on_canvas(layout, state)

    numbers = np.arange(36)
    np.testing.assert_array_equal(start(numbers, 0), start(numbers, 0))
    assert plain.relative(start(numbers, 1), start(numbers, 0)) > 0.5
    assert plain.relative(start(numbers[::-1], 0), start(numbers, 0)) > 0.5


def test_a_random_start_is_synchronised_once() -> None:
    ds = plain.scan(**PERIODIC)
    start = sweep_scan(ds, FOUR, sweeps=0, start="random", normalisation="frame")
    (report,) = start.reports
    assert report.misfit == 0
    assert 0 < report.disagreement < 1
    assert report.spread > 0.5
    assert report.localisation > 1
    plainly = sweep_scan(ds, FOUR, sweeps=0, start="random", sync=NONE)
    # Frames that were turned to agree add up to more.
    assert np.linalg.norm(start.image) > 1.05 * np.linalg.norm(plainly.image)
