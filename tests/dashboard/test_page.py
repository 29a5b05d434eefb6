"""The live page without a browser and the notebook cell: what they show, when, and at which cost."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bokeh.document import Document
from bokeh.events import RangesUpdate, Reset
from bokeh.server.tornado import BokehTornado
from click.testing import CliRunner
from distributed import Client, LocalCluster
from tornado.netutil import bind_sockets

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.dashboard import latest_view, live_view, servers
from daskptycho.dashboard.html_parts import render_headline, render_numbers
from daskptycho.dashboard.latest_view import LatestView
from daskptycho.dashboard.page import fill_page
from daskptycho.dashboard.view import Extent, Scale, View
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost
from daskptycho.views.quantities import format_duration

SWEEPS = 4


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    url = tmp_path_factory.mktemp("scans") / "scan.zarr"
    return dp.simulate_scan(url, frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=12)


class Clock:
    """A clock that only the test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A server that keeps the views to be shown."""

    link = "nowhere"

    def __init__(self, is_watched: bool) -> None:
        self.views: list[View] = []
        self.is_watched = is_watched
        self.extent: Extent | None = None

    def show(self, view: View) -> bool:
        self.views.append(view)
        return self.is_watched

    def looked_at(self) -> Extent | None:
        return self.extent

    def is_up_to_date(self) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.fixture
def make_page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a live page and the recorder of its views."""

    def make(scan: xr.Dataset, is_watched: bool) -> tuple[dp.LivePage, Recorder]:
        recorder = Recorder(is_watched)
        monkeypatch.setattr("daskptycho.dashboard.servers.LocalServer", lambda view: recorder)
        return dp.LivePage(scan, "out.zarr"), recorder

    return make


def test_page_shows_what_the_result_will_be(scan: xr.Dataset, make_page: Any) -> None:
    page, recorder = make_page(scan, is_watched=True)
    with page:
        result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)
    last = recorder.views[-1]
    assert (last.status, last.note) == ("done", "The result is in out.zarr.")
    assert (last.sweep, last.sweeps, last.frames) == ((1, 2, 3, 4), SWEEPS, 36)
    np.testing.assert_array_equal(last.residual, result["residual"])
    np.testing.assert_array_equal(last.disagreement, result["disagreement"])
    pictured = [view for view in recorder.views if view.image is not None]
    # Pictures are shown after the first sweep, and always after the last.
    assert pictured[0].sweep == (1,)
    image, tiles, probe = pictured[-1].image, pictured[-1].tiles, pictured[-1].probe
    assert image is not None
    assert tiles is not None
    assert probe is not None
    assert (image.sweep, image.step, last.scale) == (SWEEPS, 1, Scale((1.0, 1.0), "pixel"))
    lit = np.isfinite(image.amplitude)
    left, _, top, _ = image.extent
    rows, columns = (int(edge + 0.5 - result[axis][0]) for edge, axis in ((top, "y"), (left, "x")))
    expected = result["object"].values[rows:, columns:][: lit.shape[0], : lit.shape[1]]
    np.testing.assert_allclose(image.amplitude[lit], np.abs(expected)[lit], rtol=1e-5)
    assert list(tiles.frames) == [12, 12, 12]
    assert tiles.homes == ("", "", "")
    assert probe.modes.shape == (1, 16, 16, 3)


def test_part_that_is_looked_at_has_its_own_pixels(
    scan: xr.Dataset, make_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PICTURE_PIXELS", "LAST_PICTURE_PIXELS"):
        monkeypatch.setattr(live_view, name, 12)
    page, recorder = make_page(scan, is_watched=True)
    recorder.extent = (9.7, 18.2, 11.6, 20.4)
    with page:
        result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)
    last = next(view for view in reversed(recorder.views) if view.image is not None)
    image, detail = last.image, last.detail
    assert image is not None
    assert detail is not None
    assert image.step == 4
    assert detail.step == 1
    # All pixels of which a part is seen: 10 to 18 along x, 12 to 20 along y.
    assert detail.extent == (9.5, 18.5, 11.5, 20.5)
    own = result["object"].sel(y=slice(12, 20), x=slice(10, 18)).values
    np.testing.assert_allclose(detail.amplitude, np.abs(own), rtol=1e-5)
    # The whole shows means of 4 x 4 of these pixels, with the same phase and slope subtracted.
    shown = detail.amplitude * np.exp(1j * detail.phase)
    rows, columns = (
        int(np.ceil((12 - first) / 4)) for first in (image.extent[2] + 0.5, image.extent[0] + 0.5)
    )
    y, x = (
        int(first + 0.5 + 4 * at) - corner
        for first, at, corner in ((image.extent[2], rows, 12), (image.extent[0], columns, 10))
    )
    mean = shown[y : y + 4, x : x + 4].mean()
    assert mean == pytest.approx(
        image.amplitude[rows, columns] * np.exp(1j * image.phase[rows, columns]), abs=0.02
    )
    # What is not zoomed into has no detail, and neither has a picture of all pixels.
    recorder.extent = (-100, 100, -100, 100)
    with page:
        dp.reconstruct(scan, sweeps=1, callback=page)
    assert recorder.views[-1].detail is None


def test_a_page_says_which_part_it_shows() -> None:
    clock = Clock()
    latest = LatestView(View(), clock)
    doc = Document()
    fill_page(doc, latest)
    (amplitude,) = [root for root in doc.roots if root.name == "amplitude"]
    assert latest.looked_at() is None
    doc.callbacks.trigger_event(RangesUpdate(amplitude, x0=3.0, x1=9.0, y0=8.0, y1=2.0))
    assert latest.looked_at() == (3, 9, 2, 8)
    doc.callbacks.trigger_event(Reset(amplitude))
    assert latest.looked_at() is None
    latest.look_at((0, 1, 0, 1))
    clock.now += 2 * latest_view.OPEN_PAGE_SECONDS
    assert latest.looked_at() is None


# The sweeps after which pictures and numbers are shown, of fifty sweeps that take half a second each.
@pytest.mark.parametrize(
    ("is_watched", "cost", "pictures", "numbers"),
    [
        # Pictures are shown at most once a second, or every twenty seconds while nobody watches.
        (True, 0, range(1, 50, 2), range(2, 50, 2)),
        (False, 0, [1, 41], [*range(2, 41), *range(42, 50)]),
        # Pictures and numbers each take at most a twentieth of the time, unwatched pictures a two-hundredth.
        (True, 0.125, range(1, 50, 5), range(2, 50, 5)),
        (False, 0.125, [1, 49], range(2, 50, 5)),
    ],
)
def test_views_are_shown_as_often_as_their_cost_allows(
    scan: xr.Dataset,
    make_page: Any,
    monkeypatch: pytest.MonkeyPatch,
    is_watched: bool,
    cost: float,
    pictures: list[int],
    numbers: list[int],
) -> None:
    page, recorder = make_page(scan, is_watched)
    page.clock = clock = Clock()
    show = recorder.show

    def show_slowly(view: View) -> bool:
        clock.now += cost
        return show(view)

    def callback(progress: dp.Progress) -> None:
        clock.now += 0.5
        page(progress)

    monkeypatch.setattr(recorder, "show", show_slowly)
    dp.reconstruct(scan, sweeps=50, callback=callback)
    shown = {view.sweep[-1]: view.image is not None for view in recorder.views}
    # Pictures are always shown after the last sweep.
    assert [sweep for sweep in shown if shown[sweep]] == [*pictures, 50]
    assert [sweep for sweep in shown if not shown[sweep]] == list(numbers)


@pytest.mark.parametrize(("asked", "waited"), [(3, 1.0), (1000, live_view.LAST_VIEW_SECONDS)])
def test_page_closes_once_the_last_view_has_been_read_or_time_is_up(
    scan: xr.Dataset, make_page: Any, monkeypatch: pytest.MonkeyPatch, asked: int, waited: float
) -> None:
    page, recorder = make_page(scan, is_watched=True)
    page.clock = clock = Clock()
    answers = iter([False] * asked)

    def is_up_to_date() -> bool:
        clock.now += 0.25
        return next(answers, True)

    closed: list[float] = []
    monkeypatch.setattr(recorder, "is_up_to_date", is_up_to_date)
    monkeypatch.setattr(recorder, "close", lambda: closed.append(clock.now))
    with page:
        pass
    assert recorder.views[-1].status == "done"
    assert closed == [waited]


def test_repeated_sweeps_replace_the_lost_ones(scan: xr.Dataset, make_page: Any) -> None:
    page, recorder = make_page(scan, is_watched=True)
    result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)

    def repeat(progress: dp.Progress) -> None:
        if progress.sweep > 1:
            page(progress)

    dp.reconstruct(scan, sweeps=SWEEPS, callback=repeat)
    last = recorder.views[-1]
    assert last.sweep == (1, 2, 3, 4)
    np.testing.assert_array_equal(last.residual, result["residual"])
    assert len(last.disagreement) == len(last.seconds) == SWEEPS
    assert last.image is not None


def test_run_outlives_its_page(scan: xr.Dataset, make_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page, recorder = make_page(scan, is_watched=True)

    def fail(view: View) -> bool:
        raise OSError("the scheduler is gone")

    monkeypatch.setattr(recorder, "show", fail)
    with pytest.warns(UserWarning, match="no longer updated") as warned, page:
        result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)
    assert result.sizes["sweep"] == SWEEPS
    assert len(warned) == 1


@pytest.mark.parametrize("fault", [WorkersLost, OutOfMemory, dp.FaultError])
def test_fault_of_the_run_in_a_picture_is_raised(
    scan: xr.Dataset, make_page: Any, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    page, recorder = make_page(scan, is_watched=True)
    seen: list[dp.Progress] = []
    dp.reconstruct(scan, sweeps=1, callback=seen.append)

    def fail(*_: Any) -> None:
        raise fault("a worker is gone")

    monkeypatch.setattr(dp.Progress, "preview", fail)
    with pytest.raises(fault, match="a worker is gone"):
        page(seen[0])
    monkeypatch.undo()
    # Once the run has recovered, so has the page. At the end the same fault is only warned of.
    page.clock = Clock()
    dp.reconstruct(scan, sweeps=SWEEPS, callback=lambda progress: page(progress) or progress.sweep == 2)
    assert recorder.views[-1].sweep == (1, 2)
    assert any(view.image is not None for view in recorder.views)
    monkeypatch.setattr(dp.Progress, "preview", fail)
    with pytest.warns(UserWarning, match="no longer updated"):
        page.show_done()


def test_page_of_a_failed_run_says_why(scan: xr.Dataset, make_page: Any) -> None:
    page, recorder = make_page(scan, is_watched=False)

    def callback(progress: dp.Progress) -> None:
        page(progress)
        raise ZeroDivisionError("the beam is off\nand more")

    with pytest.raises(ZeroDivisionError), page:
        dp.reconstruct(scan, sweeps=SWEEPS, callback=callback)
    assert (recorder.views[-1].status, recorder.views[-1].note) == ("stopped", "the beam is off")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a page waits for its server on a busy machine too."""
    monkeypatch.setattr(servers, "CLOSING_SECONDS", 300.0)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The sockets of the local servers that the test starts."""
    bound: list[socket.socket] = []

    def bind(*arguments: Any) -> list[socket.socket]:
        own = bind_sockets(*arguments)
        bound.extend(own)
        return own

    monkeypatch.setattr(servers, "bind_sockets", bind)
    return bound


def count_servers() -> int:
    return sum(thread.name == "daskptycho-live-page" for thread in threading.enumerate())


def test_page_without_a_scan_counts_pixels(scan: xr.Dataset, sockets: list[socket.socket]) -> None:
    with dp.LivePage() as page:
        dp.reconstruct(scan, sweeps=1, callback=page)
        assert page.link in page._repr_html_()
        with urllib.request.urlopen(page.link) as answer:
            assert b"Bokeh" in answer.read()
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]
    assert [one.fileno() for one in sockets] == [-1]
    assert count_servers() == 0


def test_page_that_cannot_be_served_says_why(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more threads")

    monkeypatch.setattr(servers, "BokehTornado", fail)
    with pytest.raises(RuntimeError, match="no more threads"):
        dp.LivePage()
    assert [one.fileno() for one in sockets] == [-1]


def test_page_can_be_closed_twice(sockets: list[socket.socket]) -> None:
    page = dp.LivePage()
    assert count_servers() == 1
    page.close()
    page.close()
    assert count_servers() == 0
    assert [one.fileno() for one in sockets] == [-1]


def test_page_interrupted_while_it_starts_is_closed(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()
    close = servers.LocalServer.close

    def start_slowly(*arguments: Any, **options: Any) -> Any:
        signal.pthread_kill(main, signal.SIGINT)
        assert interrupted.wait(300)
        return BokehTornado(*arguments, **options)

    def close_while_it_starts(server: servers.LocalServer) -> None:
        interrupted.set()
        close(server)

    monkeypatch.setattr(servers, "BokehTornado", start_slowly)
    monkeypatch.setattr(servers.LocalServer, "close", close_while_it_starts)
    with pytest.raises(KeyboardInterrupt):
        dp.LivePage()
    assert count_servers() == 0
    assert [one.fileno() for one in sockets] == [-1]


def test_page_whose_server_fails_to_stop_is_closed(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("cannot wait on a running loop")

    monkeypatch.setattr(servers.BokehTornado, "stop", fail)
    dp.LivePage().close()
    assert count_servers() == 0
    assert [one.fileno() for one in sockets] == [-1]


def test_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    page = dp.LivePage()
    with monkeypatch.context() as changed:
        changed.setattr(servers, "CLOSING_SECONDS", 0.01)
        changed.setattr(servers.BokehTornado, "stop", lambda *_, **__: stuck.wait(300))
        page.close()
        assert count_servers() == 1
        stuck.set()
    page.close()
    assert count_servers() == 0


def test_missing_bokeh_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bokeh" else found(name, *more)
    )
    with pytest.raises(dp.OptionError, match=r"pip install '.\[dashboard\]'"):
        dp.LivePage()


def test_schedulers_without_and_with_a_dashboard(scan: xr.Dataset) -> None:
    options: dict[str, Any] = {"n_workers": 1, "processes": False, "protocol": "tcp", "host": "127.0.0.1"}
    options["dashboard_address"] = "127.0.0.1:0"
    with (
        LocalCluster(**options, scheduler_kwargs={"dashboard": False}) as cluster,
        Client(cluster),
        pytest.raises(dp.OptionError, match="the scheduler has no dashboard"),
    ):
        dp.LivePage()
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        pages = [dp.LivePage(scan, f"{number}.zarr") for number in range(10)]
        dp.reconstruct(scan, sweeps=2, callback=pages[-1])
        dp.reconstruct(scan, sweeps=2, callback=pages[0])
        assert pages[-1].link.startswith(client.dashboard_link.removesuffix("status"))
        for link in (pages[-1].link, pages[0].link, client.dashboard_link):
            with urllib.request.urlopen(link) as answer:
                # The menu has one link, however many runs there were.
                assert answer.read().count(b'<a href="daskptycho">') == (link == client.dashboard_link)
        known = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.extensions["daskptycho"]))
        assert known == 8


def test_latest_view_keeps_pictures_and_knows_whether_a_page_is_open() -> None:
    clock = Clock()
    first = View(image=object(), probe=object(), tiles=object())  # type: ignore[arg-type]
    latest = LatestView(first, clock)
    assert not latest.is_watched()
    assert latest.read() == (0, first)
    assert latest.show(View(note="later"))
    assert not latest.is_up_to_date()
    assert latest.read() == (1, replace(first, note="later"))
    assert latest.is_up_to_date()
    clock.now += latest_view.OPEN_PAGE_SECONDS
    assert not latest.show(View())
    # Nobody is left to wait for.
    assert latest.is_up_to_date()


def test_names_are_escaped_and_numbers_are_written_out() -> None:
    view = View(scan="<b>scan", note="<i>", status="running", sweeps=10, frames=100)
    assert "&lt;b&gt;scan" in render_headline(view)
    assert "<i>" not in render_headline(view)
    assert "<b>-</b><span>left" in render_numbers(view)
    view = replace(view, sweep=(1, 2), residual=(0.5, 0.25), disagreement=(0.1, np.nan), seconds=(2.0, 2.0))
    for said in ("<b>2 of 10</b>", "<b>16 s</b><span>left", "<b>0.25</b>", "<b>0.1</b>", "<b>50</b>"):
        assert said in render_numbers(view)
    written = [format_duration(seconds) for seconds in (0.123, 9.96, 59.6, 3599, 3600 * 25 + 61)]
    assert written == ["0.12 s", "10 s", "1 min 0 s", "59 min 59 s", "25 h 1 min"]


def test_command_prints_the_link_and_serves_the_page(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "daskptycho", "reconstruct", scan.encoding["source"], str(out)]
    with subprocess.Popen(
        [*command, "--sweeps", "1000000", "--dashboard"], stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        try:
            link = next(line for line in run.stderr if line.startswith("Live page: ")).split()[-1]
            with urllib.request.urlopen(link) as answer:
                assert b"Bokeh" in answer.read()
            next(line for line in run.stderr if "sweep 1 of" in line)
            run.send_signal(signal.SIGINT)
            assert "daskptycho resume" in run.stderr.read()
        finally:
            run.kill()
    assert run.returncode == 130
    resumed = CliRunner().invoke(daskptycho, ["resume", str(out), "--sweeps", "1000000", "--help"])
    assert "--dashboard" in resumed.output


def test_cell_of_a_notebook_is_kept_up_to_date(scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[str]] = {}

    class Handle:
        """IPython's handle of an output below a cell."""

        def display(self, html: Any) -> None:
            self.name = "text" if "waiting" in html.data else "pictures"
            shown[self.name] = [html.data]

        def update(self, html: Any) -> None:
            shown[self.name].append(html.data)

    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    with dp.LiveCell(scan, "out.zarr") as cell:
        # No time passes: text is due at every sweep, pictures only at the first and the last.
        cell.clock = Clock()
        dp.reconstruct(scan, sweeps=SWEEPS, callback=cell)
    assert "the image appears after the first sweep" in shown["text"][0]
    assert "<b>4 of 4</b>" in shown["text"][-1]
    assert "The result is in out.zarr." in shown["text"][-1]
    assert len(shown["text"]) == SWEEPS + 2
    # An empty output, then the pictures of the first sweep and of the last.
    assert len(shown["pictures"]) == 3
    assert shown["pictures"][-1].startswith("<img ")


def test_missing_ipython_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dp.OptionError, match=r"pip install '.\[jupyter\]'"):
        dp.LiveCell()
