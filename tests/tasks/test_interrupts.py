"""Interruptions: where Python would drop one, a run still stops, and keeps where it stood."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.tasks import interrupts
from daskptycho.tasks.interrupts import Terminated, catch_stop_signals, raise_missed
from daskptycho.tasks.spec import task
from daskptycho.tasks.waiting import compute


class Signalled:
    """A signal comes while this is finalised: Python lets no exception out of there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


signals = pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)],
    ids=["Ctrl-C", "SIGTERM"],
)


@signals
def test_signal_in_a_finaliser_stops_the_run_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, kind: type[BaseException]
) -> None:
    scan = dp.simulate_scan(tmp_path / "scan.zarr", frames=(6, 6), frame_size=16, step=4, tile_frames=9)
    with pytest.raises(KeyboardInterrupt) as stopped:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=50, callback=lambda _: Signalled(number) and None)
    assert stopped.type is kind
    assert stopped.value.__notes__[-1].startswith("Sweep 1 is kept in ")
    assert capsys.readouterr().err == ""


@signals
def test_callback_of_the_garbage_collector_is_not_cut_off(number: int, kind: type[BaseException]) -> None:
    told: list[str] = []

    def collecting(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and not told:
            signal.raise_signal(number)
            told.append(phase)

    with catch_stop_signals():
        gc.callbacks.append(collecting)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(collecting)
        assert told == ["stop"]
        with pytest.raises(KeyboardInterrupt) as stopped:
            raise_missed()
        assert stopped.type is kind


nobody_waits = threading.Event()


def sweep_that_is_interrupted() -> None:
    interrupts._missed.append(KeyboardInterrupt)
    nobody_waits.wait()


def test_interruption_that_was_missed_ends_the_wait_for_workers(caplog: pytest.LogCaptureFixture) -> None:
    nobody_waits.clear()
    with (
        LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
        catch_stop_signals(),
    ):
        try:
            with pytest.raises(KeyboardInterrupt):
                compute(task(sweep_that_is_interrupted))
        finally:
            nobody_waits.set()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_what_else_a_finaliser_raises_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    hook = sys.unraisablehook
    with catch_stop_signals():
        Broken()
        raise_missed()
    assert told == ["broken"]
    assert sys.unraisablehook is hook


@signals
def test_signal_that_nobody_asked_for_again_is_raised_at_the_end(
    number: int, kind: type[BaseException]
) -> None:
    done: list[str] = []

    def signalled() -> None:
        with catch_stop_signals():
            Signalled(number)
            done.append("the block")

    with pytest.raises(KeyboardInterrupt) as stopped:
        signalled()
    assert done == ["the block"]
    assert stopped.type is kind
    # Whatever comes next is not interrupted once more.
    raise_missed()
