"""The live page in a real browser: before, during and after a run, with and without a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from PIL import Image

import daskptycho as dp
from daskptycho.dashboard import live_view
from tests.chromium import Browser, browser
from tests.waiting import wait_until

pytestmark = pytest.mark.long

SWEEPS, HALFWAY = 12, 6


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Nine tiles, with a scale in metres."""
    url = tmp_path_factory.mktemp("scans") / "scan.zarr"
    simulated = dp.simulate_scan(
        url.with_name("pixels.zarr"), frames=(24, 24), frame_size=64, step=12, jitter=2, photons=1e5
    )
    size = 1.23984198e-6 / 6200 * 2 / (64 * 75e-6)
    return dp.create_scan(
        url,
        simulated["intensity"].data,
        simulated["position"].values * size,
        probe=simulated["probe"].values,
        energy_eV=6200,
        detector_distance_m=2,
        detector_pixel_size_m=75e-6,
        tile_frames=64,
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


class Gate:
    """A callback that holds a run at two sweeps until `open` is called, or its block ends."""

    def __init__(self, page: dp.LivePage) -> None:
        self._page = page
        self._open = {sweep: threading.Event() for sweep in (1, HALFWAY)}

    def __call__(self, progress: dp.Progress) -> None:
        if progress.sweep == 1:
            # The page does not know of a sweep yet.
            self._open[1].wait()
        self._page(progress)
        if progress.sweep == HALFWAY:
            # As during a slow sweep, a page that is opened now shows the sweeps before.
            self._open[HALFWAY].wait()

    def open(self, sweep: int) -> None:
        self._open[sweep].set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self._open.values():
            gate.set()


@contextmanager
def two_workers() -> Iterator[Any]:
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("served", ["by the scheduler", "without cluster"])
def test_page_follows_a_run_from_before_its_first_sweep_to_its_end(
    served: str, scan: xr.Dataset, chromium: Browser, tmp_path: Path
) -> None:
    out = tmp_path / "result.zarr"
    name = served.replace(" ", "-")
    chromium.resize(1400, 900)
    with (
        two_workers() if served == "by the scheduler" else nullcontext(None) as client,
        dp.LivePage(scan, out) as page,
        ThreadPoolExecutor(1) as background,
        Gate(page) as gate,
    ):
        if client is not None:
            chromium.open(client.dashboard_link)
            link = "document.querySelector(\"a[href='daskptycho']\")"
            wait_until(lambda: chromium.ask(link))
        run = background.submit(dp.reconstruct, scan, out, sweeps=SWEEPS, callback=gate)
        chromium.open(page.link)
        for said in ("waiting", "after the first sweep"):
            wait_until(lambda said=said: said in chromium.text())
        chromium.picture(f"{name}-waiting")
        gate.open(1)

        # The browser lays out and paints the page later than it gets the data.
        wait_until(lambda: read_figures(chromium))
        wait_until(lambda: read_figures(chromium)["aspect"] == pytest.approx(1, abs=0.03))
        wait_until(lambda: has_both_images(chromium.picture(f"{name}-halfway")))
        halfway = read_figures(chromium)
        assert halfway["after"] <= HALFWAY
        assert halfway["unit"] == "µm"
        text = chromium.text()
        for said in (f" of {SWEEPS}", "running", "left", "residual", "frames per second", str(out)):
            assert said in text
        assert len(halfway["workers"]) == (1 if client is None else 2)

        chromium.resize(390, 844, mobile=True)
        width = "document.documentElement.scrollWidth"
        wait_until(lambda: chromium.ask(width) == 390)
        chromium.picture(f"{name}-phone")
        chromium.resize(1400, 900)

        gate.open(HALFWAY)
        run.result()
        page.show_done()
        wait_until(lambda: f"The result is in {out}" in chromium.text())
        wait_until(lambda: read_figures(chromium)["after"] == SWEEPS)
        found = read_figures(chromium)
        assert len(found["residual"]) == SWEEPS
        np.testing.assert_allclose(found["residual"], dp.open_result(out)["residual"])
        wait_until(lambda: has_both_images(chromium.picture(f"{name}-done")))
    # The server of this process has closed, and the page stays as it was.
    assert "done" in chromium.text()
    assert chromium.complaints() == []


def test_part_that_is_zoomed_into_gets_its_own_pixels(
    scan: xr.Dataset, chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "PICTURE_PIXELS", 120)
    chromium.resize(1400, 900)
    with dp.LivePage(scan) as page, ThreadPoolExecutor(1) as background, Gate(page) as gate:
        run = background.submit(dp.reconstruct, scan, sweeps=SWEEPS, callback=gate)
        chromium.open(page.link)
        wait_until(lambda: "after the first sweep" in chromium.text())
        gate.open(1)
        wait_until(lambda: read_figures(chromium))
        wait_until(lambda: "means of 3 x 3 pixels" in chromium.ask(TITLE))
        chromium.picture("zoom-before")
        x, y = chromium.ask(MIDDLE)
        chromium.turn_wheel(x, y, -500)
        wait_until(lambda: page._display.looked_at() is not None)
        # The next sweep brings the pixels of this part.
        gate.open(HALFWAY)
        wait_until(lambda: "means" not in chromium.ask(TITLE))
        chromium.picture("zoom-after")
        width, height = chromium.ask(DETAIL)
        assert 0 < width <= 120
        assert 0 < height <= 120
        run.result()
    assert chromium.complaints() == []


TITLE = "Bokeh.documents[0].roots().find(root => root.name == 'amplitude').title.text"
# The middle of the picture of the amplitude, in pixels of the window.
MIDDLE = """(() => {
    const amplitude = Bokeh.documents[0].roots().find(root => root.name == 'amplitude')
    const view = Bokeh.index.find_one(amplitude), box = view.frame.bbox
    const at = view.el.getBoundingClientRect()
    return [at.left + box.left + box.width / 2, at.top + box.top + box.height / 2]
})()"""
# Pixels of the part that is drawn on top of the whole.
DETAIL = """(() => {
    const amplitude = Bokeh.documents[0].roots().find(root => root.name == 'amplitude')
    return [...amplitude.renderers[1].data_source.data.amplitude[0].shape]
})()"""


def read_figures(chromium: Browser) -> dict[str, Any] | None:
    """The contents of the figures, or None before the first image."""
    return chromium.ask(
        """(() => {
        const roots = Object.fromEntries(Bokeh.documents[0].roots().map(root => [root.name, root]))
        const data = root => root.renderers[0].data_source.data
        const after = /after sweep (\\d+)/.exec(roots.phase.title.text)
        // Before the first picture of the tiles there is one without a worker.
        if (after == null || data(roots.tiles).home[0] == "") return null
        const view = Bokeh.index.find_one(roots.amplitude)
        const {x_range, y_range} = roots.amplitude, box = view.frame.bbox
        return {
            after: Number(after[1]),
            unit: /\\((.*)\\)/.exec(roots.phase.below[0].axis_label)[1],
            aspect: (box.width / Math.abs(x_range.end - x_range.start))
                / (box.height / Math.abs(y_range.end - y_range.start)),
            residual: [...data(roots.residual).residual],
            workers: [...new Set(data(roots.tiles).home)],
        } })()"""
    )


def has_both_images(picture: Path) -> bool:
    """Whether the amplitude is drawn in greys on the left, and the phase in colours on the right."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=int)[200:560]
    left, right = pixels[:, 100:500], pixels[:, 650:1050]
    greys = np.ptp(left, axis=-1).max() < 60 and left.std() > 30
    return bool(greys and (np.ptp(right, axis=-1) > 60).mean() > 0.3)
