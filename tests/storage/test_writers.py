"""A store has one writer: what a dead one has left is taken over, what a living one writes is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import daskptycho as dp
from daskptycho.errors import ScanError
from daskptycho.storage.folder import write_atomically
from daskptycho.storage.writers import Writer, claim, read_writer, release, this_writer

ROOT = Path(__file__).resolve().parents[2]
NOTE = "a.zarr.partial.writer"


def dead_writer() -> Writer:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return Writer(this_writer().host, this_writer().machine, process.pid, time.time())


def leave_remains(folder: Path, writer: Writer) -> None:
    (folder / "a.zarr.partial").mkdir()
    (folder / "a.zarr.partial" / "half").write_text("of it")
    (folder / NOTE).write_bytes(writer.to_bytes())


def write(folder: Path, *, overwrite: bool = False) -> None:
    with write_atomically(folder / "a.zarr", overwrite=overwrite) as partial:
        assert not any(partial.iterdir())
        (partial / "zarr.json").write_text("{}")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_process_knows_that_it_lives_and_that_others_do_not() -> None:
    own = this_writer()
    assert own.lives
    assert read_writer(own.to_bytes()) == own
    assert dead_writer().lives is False
    # A number that was given to another process since.
    assert Writer(own.host, own.machine, own.pid, own.began - 3600).lives is False
    assert Writer("elsewhere", "elsewhere", own.pid, own.began).lives is None


@pytest.mark.parametrize("note", [b"", b"{", b"{}", b'{"host": 1}', None])
def test_a_note_that_cannot_be_read_names_nobody(note: bytes | None) -> None:
    assert read_writer(note) is None


def test_what_a_dead_process_has_left_is_taken_over(tmp_path: Path) -> None:
    leave_remains(tmp_path, dead_writer())
    write(tmp_path)
    assert names_in(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    leave_remains(tmp_path, this_writer())
    before = names_in(tmp_path)
    with pytest.raises(ScanError, match=rf"is being written by process {os.getpid()} on .* at this moment"):
        write(tmp_path, overwrite=overwrite)
    assert names_in(tmp_path) == before
    assert (tmp_path / "a.zarr.partial" / "half").exists()


def test_a_process_on_another_machine_is_replaced_only_when_asked(tmp_path: Path) -> None:
    leave_remains(tmp_path, Writer("node7", "elsewhere", 12, 1.0))
    with pytest.raises(ScanError, match=r"another write \(by process 12 on node7\) is in progress or was"):
        write(tmp_path)
    write(tmp_path, overwrite=True)
    assert names_in(tmp_path) == ["a.zarr"]


def test_a_note_that_was_cut_off_is_that_of_a_dead_process(tmp_path: Path) -> None:
    leave_remains(tmp_path, dead_writer())
    (tmp_path / NOTE).write_bytes(b"")
    write(tmp_path)
    assert names_in(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("attempt", range(20))
def test_of_many_at_once_one_is_the_writer(tmp_path: Path, attempt: int) -> None:
    (tmp_path / NOTE).write_bytes(dead_writer().to_bytes())
    begin, won = threading.Barrier(8), []

    def try_it() -> None:
        begin.wait()
        if claim(tmp_path / NOTE).other is None:
            won.append(1)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_writer((tmp_path / NOTE).read_bytes()) == this_writer()
    release(tmp_path / NOTE)
    assert names_in(tmp_path) == []


RUN = """
import sys, time, daskptycho as dp
scan = dp.open_scan(sys.argv[1])
def wait(progress):
    print("swept", flush=True)
    time.sleep(600)
dp.reconstruct(scan, sys.argv[2], sweeps=3, callback=wait)
"""


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun_again(tmp_path: Path) -> None:
    scan = dp.simulate_scan(tmp_path / "scan.zarr", (4, 4), 16, 4)
    out = tmp_path / "result.zarr"
    command = [sys.executable, "-c", RUN, str(tmp_path / "scan.zarr"), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"swept\n"
            for overwrite in (False, True):
                with pytest.raises(ScanError, match=f"is being written by process {process.pid} on"):
                    dp.reconstruct(scan, out, sweeps=2, overwrite=overwrite)
        finally:
            process.send_signal(signal.SIGKILL)
    assert names_in(tmp_path) == ["result.zarr.partial", "result.zarr.partial.writer", "scan.zarr"]
    result = dp.reconstruct(scan, out, sweeps=2, checkpoint_minutes=None)
    np.testing.assert_array_equal(dp.open_result(out)["object"], result["object"])
    assert names_in(tmp_path) == ["result.zarr", "scan.zarr"]


def test_the_note_holds_no_more_than_it_needs() -> None:
    assert set(json.loads(this_writer().to_bytes())) == {"host", "machine", "pid", "began"}
