"""The live page without a browser: what it is fed, when, at which price, and from the command line."""

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
from click.testing import CliRunner
from distributed import Client, LocalCluster
from tornado.netutil import bind_sockets

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.dashboard import board, feed, serving
from daskptycho.dashboard.board import Board
from daskptycho.dashboard.view import Scale, View
from daskptycho.dashboard.wording import duration, facts, headline
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost

SWEEPS = 4


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    url = tmp_path_factory.mktemp("scans") / "scan.zarr"
    return dp.simulate_scan(url, frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=12)


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A server that keeps what it is given."""

    link = "nowhere"

    def __init__(self, watched: bool) -> None:
        self.views: list[View] = []
        self.watched = watched

    def put(self, view: View) -> bool:
        self.views.append(view)
        return self.watched

    def unseen(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    def record(scan: xr.Dataset, watched: bool) -> tuple[dp.LivePage, Recorder]:
        recorder = Recorder(watched)
        monkeypatch.setattr("daskptycho.dashboard.serving.OwnServer", lambda view: recorder)
        return dp.LivePage(scan, "out.zarr"), recorder

    return record


def test_page_shows_what_the_result_will_be(scan: xr.Dataset, recorded: Any) -> None:
    page, recorder = recorded(scan, watched=True)
    with page:
        result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)
    last = recorder.views[-1]
    assert (last.status, last.note) == ("done", "The result is in out.zarr.")
    assert (last.sweep, last.sweeps, last.frames) == ((1, 2, 3, 4), SWEEPS, 36)
    np.testing.assert_array_equal(last.residual, result["residual"])
    np.testing.assert_array_equal(last.consensus, result["consensus"])
    pictured = [view for view in recorder.views if view.image is not None]
    # The first sweep's at once, and the last one's in any case.
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


# Fifty sweeps of half a second.
@pytest.mark.parametrize(
    ("watched", "cost", "pictures", "numbers"),
    [
        # Pictures come at most once a second, or every twenty seconds while nobody looks.
        (True, 0, range(1, 50, 2), range(2, 50, 2)),
        (False, 0, [1, 41], [*range(2, 41), *range(42, 50)]),
        # Of the time either takes a twentieth, and pictures that nobody looks at a two-hundredth.
        (True, 0.125, range(1, 50, 5), range(2, 50, 5)),
        (False, 0.125, [1, 49], range(2, 50, 5)),
    ],
)
def test_views_come_as_often_as_their_cost_and_those_who_look_allow(
    scan: xr.Dataset,
    recorded: Any,
    monkeypatch: pytest.MonkeyPatch,
    watched: bool,
    cost: float,
    pictures: list[int],
    numbers: list[int],
) -> None:
    page, recorder = recorded(scan, watched)
    page.clock = clock = Clock()
    put = recorder.put

    def take_time(view: View) -> bool:
        clock.now += cost
        return put(view)

    def callback(progress: dp.Progress) -> None:
        clock.now += 0.5
        page(progress)

    monkeypatch.setattr(recorder, "put", take_time)
    dp.reconstruct(scan, sweeps=50, callback=callback)
    shown = {view.sweep[-1]: view.image is not None for view in recorder.views}
    # The last one in any case.
    assert [sweep for sweep in shown if shown[sweep]] == [*pictures, 50]
    assert [sweep for sweep in shown if not shown[sweep]] == list(numbers)


@pytest.mark.parametrize(("asked", "waited"), [(3, 1.0), (1000, feed.FAREWELL)])
def test_whoever_looks_has_the_last_view_before_the_page_closes(
    scan: xr.Dataset, recorded: Any, monkeypatch: pytest.MonkeyPatch, asked: int, waited: float
) -> None:
    page, recorder = recorded(scan, watched=True)
    page.clock = clock = Clock()
    behind = iter([True] * asked)

    def unseen() -> bool:
        clock.now += 0.25
        return next(behind, False)

    closed: list[float] = []
    monkeypatch.setattr(recorder, "unseen", unseen)
    monkeypatch.setattr(recorder, "close", lambda: closed.append(clock.now))
    with page:
        pass
    assert recorder.views[-1].status == "done"
    # Until the view has been taken, but not for ever.
    assert closed == [waited]


def test_sweeps_that_come_once_more_replace_the_lost_ones(scan: xr.Dataset, recorded: Any) -> None:
    page, recorder = recorded(scan, watched=True)
    result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)

    def again(progress: dp.Progress) -> None:
        if progress.sweep > 1:
            page(progress)

    dp.reconstruct(scan, sweeps=SWEEPS, callback=again)
    last = recorder.views[-1]
    assert last.sweep == (1, 2, 3, 4)
    np.testing.assert_array_equal(last.residual, result["residual"])
    assert len(last.consensus) == len(last.seconds) == SWEEPS
    assert last.image is not None


def test_run_outlives_its_page(scan: xr.Dataset, recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page, recorder = recorded(scan, watched=True)

    def lost(view: View) -> bool:
        raise OSError("the scheduler is gone")

    monkeypatch.setattr(recorder, "put", lost)
    with pytest.warns(UserWarning, match="no longer kept up to date") as warned, page:
        result = dp.reconstruct(scan, sweeps=SWEEPS, callback=page)
    assert result.sizes["sweep"] == SWEEPS
    assert len(warned) == 1


@pytest.mark.parametrize("fault", [WorkersLost, OutOfMemory, dp.FaultError])
def test_picture_that_meets_a_fault_of_the_run_tells_the_run(
    scan: xr.Dataset, recorded: Any, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    page, recorder = recorded(scan, watched=True)
    seen: list[dp.Progress] = []
    dp.reconstruct(scan, sweeps=1, callback=seen.append)

    def failed(*_: Any) -> None:
        raise fault("a worker is gone")

    monkeypatch.setattr(dp.Progress, "preview", failed)
    with pytest.raises(fault, match="a worker is gone"):
        page(seen[0])
    monkeypatch.undo()
    # Once the run has recovered the page goes on; at the end nobody is left to recover.
    page.clock = Clock()
    dp.reconstruct(scan, sweeps=SWEEPS, callback=lambda progress: page(progress) or progress.sweep == 2)
    assert recorder.views[-1].sweep == (1, 2)
    assert any(view.image is not None for view in recorder.views)
    monkeypatch.setattr(dp.Progress, "preview", failed)
    with pytest.warns(UserWarning, match="no longer kept up to date"):
        page.done()


def test_page_of_a_run_that_failed_says_why(scan: xr.Dataset, recorded: Any) -> None:
    page, recorder = recorded(scan, watched=False)

    def callback(progress: dp.Progress) -> None:
        page(progress)
        raise ZeroDivisionError("the beam is off\nand more")

    with pytest.raises(ZeroDivisionError), page:
        dp.reconstruct(scan, sweeps=SWEEPS, callback=callback)
    assert (recorder.views[-1].status, recorder.views[-1].note) == ("stopped", "the beam is off")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Those on which pages are served from now on; once closed, others may have their ports."""
    bound: list[socket.socket] = []

    def bind(*arguments: Any) -> list[socket.socket]:
        own = bind_sockets(*arguments)
        bound.extend(own)
        return own

    monkeypatch.setattr(serving, "bind_sockets", bind)
    return bound


def test_page_without_a_scan_counts_pixels(scan: xr.Dataset, sockets: list[socket.socket]) -> None:
    with dp.LivePage() as page:
        dp.reconstruct(scan, sweeps=1, callback=page)
        assert page.link in page._repr_html_()
        with urllib.request.urlopen(page.link) as answer:
            assert b"Bokeh" in answer.read()
        assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]
    assert [one.fileno() for one in sockets] == [-1]
    assert not [thread for thread in threading.enumerate() if thread.name == "daskptycho-live-page"]


def test_page_that_cannot_be_served_says_why(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more threads")

    monkeypatch.setattr(serving, "BokehTornado", broken)
    with pytest.raises(RuntimeError, match="no more threads"):
        dp.LivePage()
    assert [one.fileno() for one in sockets] == [-1]


def test_bokeh_is_asked_for_by_the_name_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bokeh" else found(name, *more)
    )
    with pytest.raises(dp.OptionError, match=r"pip install 'daskptycho\[dashboard\]'"):
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
                # Once in the menu, however many runs there were.
                assert answer.read().count(b'<a href="daskptycho">') == (link == client.dashboard_link)
        known = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.extensions["daskptycho"]))
        assert known == 8


def test_board_keeps_pictures_and_knows_who_looks() -> None:
    clock = Clock()
    first = View(image=object(), probe=object(), tiles=object())  # type: ignore[arg-type]
    kept = Board(first, clock)
    assert not kept.watched()
    assert kept.look() == (0, first)
    assert kept.put(View(note="later"))
    assert kept.unseen()
    assert kept.look() == (1, replace(first, note="later"))
    assert not kept.unseen()
    clock.now += board.ATTENTION
    assert not kept.put(View())
    # Nobody is there to be waited for.
    assert not kept.unseen()


def test_names_are_text_and_numbers_can_be_read() -> None:
    view = View(scan="<b>scan", note="<i>", status="running", sweeps=10, frames=100)
    assert "&lt;b&gt;scan" in headline(view)
    assert "<i>" not in headline(view)
    assert "<b>-</b><span>left" in facts(view)
    view = replace(view, sweep=(1, 2), residual=(0.5, 0.25), consensus=(0.1, np.nan), seconds=(2.0, 2.0))
    for said in ("<b>2 of 10</b>", "<b>16 s</b><span>left", "<b>0.25</b>", "<b>0.1</b>", "<b>50</b>"):
        assert said in facts(view)
    spoken = [duration(seconds) for seconds in (0.123, 9.96, 59.6, 3599, 3600 * 25 + 61)]
    assert spoken == ["0.12 s", "10 s", "1 min 0 s", "59 min 59 s", "25 h 1 min"]


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
        """What IPython gives for a display below a cell."""

        def display(self, html: Any) -> None:
            self.name = "words" if "waiting" in html.data else "pictures"
            shown[self.name] = [html.data]

        def update(self, html: Any) -> None:
            shown[self.name].append(html.data)

    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    with dp.LiveCell(scan, "out.zarr") as cell:
        # No time passes: words come at every sweep, and pictures when they must.
        cell.clock = Clock()
        dp.reconstruct(scan, sweeps=SWEEPS, callback=cell)
    assert "the image appears after the first sweep" in shown["words"][0]
    assert "<b>4 of 4</b>" in shown["words"][-1]
    assert "The result is in out.zarr." in shown["words"][-1]
    assert len(shown["words"]) == SWEEPS + 2
    # Nothing, then the first sweep's and the last one's.
    assert len(shown["pictures"]) == 3
    assert shown["pictures"][-1].startswith("<img ")


def test_ipython_is_asked_for_by_the_name_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dp.OptionError, match=r"pip install 'daskptycho\[jupyter\]'"):
        dp.LiveCell()
