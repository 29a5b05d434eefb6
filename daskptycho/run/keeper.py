"""When a run is kept: checkpoints as often as the options say, at its end, and where it is cut off.

`run` and `resume` call this module, between two sweeps and when something goes wrong; it calls `checkpoint`.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from daskptycho.backend import Device
from daskptycho.errors import FaultError, OptionError, ScanError
from daskptycho.run.checkpoint import Checkpoints, location_of
from daskptycho.run.loop import Loop, Progress, Standing
from daskptycho.run.options import RunOptions
from daskptycho.storage.checkpoints import CheckpointStore, Snapshot
from daskptycho.storage.retrying import fail_fast
from daskptycho.storage.store import Location, parse_location, read_bytes
from daskptycho.tasks.interrupts import stoppable
from daskptycho.tasks.spec import current_client, task
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost, computed, despite_losses, workers_left

T = TypeVar("T")

__all__ = ["Keeper", "refuse_to_lose_checkpoints"]

# On a cluster, sweeps after which the state is read back from the store: the scheduler then
# forgets the tasks that led to it, and a lost worker costs no more than so many sweeps.
LINEAGE_SWEEPS = 10


def refuse_to_lose_checkpoints(out: Location, device: Device) -> None:
    """Refuse to begin a run where an earlier one has no result yet and can be gone on with on this device.

    Raises
    ------
    ScanError
    """
    location = location_of(out)
    # What a killed run leaves of its result in a bucket is none.
    if read_bytes(out, "zarr.json") is None and CheckpointStore.exists(location):
        raise ScanError(
            f"{location} holds checkpoints of an earlier run; go on with it by resume "
            f"({_resume(out, device)}), or pass overwrite=True (--overwrite) to begin anew"
        )


def _resume(out: Location, device: Device) -> str:
    """The command that goes on with a run where it was."""
    return f"daskptycho resume {shlex.quote(str(out))}{' --gpu' if device == 'gpu' else ''}"


@contextmanager
def _of_checkpoints(done: str) -> Iterator[None]:
    """A store of checkpoints that fails in the middle of a run is a fault of the run."""
    try:
        yield
    except OSError as error:
        raise FaultError(f"a checkpoint cannot be {done}: {error}") from error


class Keeper:
    """Keeps a run: drives its loop, and takes it up again where workers are lost.

    Parameters
    ----------
    lay_out : callable
        The loop, with a plan on the workers and no state yet.
    start : callable or None
        Where a loop begins; None where it goes on from a checkpoint.
    options : RunOptions
    scan : xarray.Dataset
    out : Location or None
        Where the result will be; without it checkpoints are for the run itself, and vanish with it.
    checkpoints : Checkpoints, optional
        Of the run that is gone on with.
    snapshot : Snapshot, optional
        The one that it goes on from.
    """

    def __init__(
        self,
        lay_out: Callable[[], Loop],
        start: Callable[[Loop], Standing] | None,
        options: RunOptions,
        scan: xr.Dataset,
        out: Location | None,
        checkpoints: Checkpoints | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self._lay_out, self._start = lay_out, start
        self._client = current_client()
        self._current: Loop | None = None
        self._options = options
        self._scan = scan
        self._out = out
        self._checkpoints = checkpoints
        self._aside: str | None = None
        self._every, self._minutes = options.checkpoint_every, options.checkpoint_minutes
        self._keeps = out is not None and (self._every is not None or self._minutes is not None)
        # The last checkpoint and its sweep, and the sweep of the last one that is history.
        self._snapshot = None if snapshot is None else snapshot.id
        self._saved = 0 if snapshot is None else snapshot.sweep
        self._kept = self._saved if snapshot is not None and not snapshot.temporary else 0
        self._kept_at = time.monotonic()

    @property
    def _loop(self) -> Loop:
        assert self._current is not None
        return self._current

    def drive(self, callback: Callable[[Progress], Any] | None, result: Callable[[Loop], T]) -> T:
        """Drive the loop to its end, and return the result of it.

        Where Dask cannot bring back what lost workers had, the run goes on from its last checkpoint, or
        begins anew where it has none yet.

        Raises
        ------
        FaultError
            Workers were lost again and again, and the run came no further.
        """

        def attempt() -> T:
            try:
                self._take_up()
                self._loop.drive(callback, self.between_sweeps)
                self.finish()
                return result(self._loop)
            except WorkersLost:
                # All that the run has on the workers goes before it is put there anew.
                self._current = None
                raise

        return despite_losses(attempt, lambda: self._saved)

    def _take_up(self) -> None:
        """Begin the run, or go back to where it stood last."""
        loop = self._lay_out()
        if self._snapshot is None:
            assert self._start is not None
            loop.standing = self._start(loop)
        else:
            checkpoints = self._made()
            with _of_checkpoints("read"):
                state = checkpoints.state(self._snapshot, loop.plan)
                loop.standing = checkpoints.load(self._snapshot).moved(state)
        self._current = loop

    def between_sweeps(self) -> None:
        """Keep the run where it is time to, and cut the lineage of its tasks."""
        sweep, clustered = self._loop.standing.sweep, current_client() is not None
        due = self._keeps and (
            (self._every is not None and sweep - self._kept >= self._every)
            or (self._minutes is not None and time.monotonic() - self._kept_at >= 60 * self._minutes)
        )
        if not due and not (clustered and sweep - self._saved >= LINEAGE_SWEEPS):
            return
        snapshot = self._save(passing=not due)
        checkpoints = self._made()
        if clustered:
            # The older state goes first: the two would need twice the memory.
            self._loop.standing = self._loop.standing.moved(None)
            with _of_checkpoints("read"):
                self._loop.standing = self._loop.standing.moved(checkpoints.state(snapshot, self._loop.plan))
        with _of_checkpoints("written"):
            checkpoints.store.forget_temporary(keep=snapshot)

    def finish(self) -> None:
        """Keep the last state of a run: further sweeps can go on from there."""
        if not self._keeps:
            return
        if self._kept < self._loop.standing.sweep:
            self._save(passing=False)
        if self._checkpoints is not None:
            with _of_checkpoints("written"):
                self._checkpoints.store.forget_temporary()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Where the block is cut off, keep where the run stands, and say in the error how to go on."""
        try:
            with stoppable():
                yield
        except (ScanError, OptionError):
            # Neither would a run that goes on be better.
            raise
        except OutOfMemory as error:
            planned = "" if self._current is None else f"; {self._current.needs.told()}"
            out_of_memory = FaultError(f"{error}{planned}")
            out_of_memory.add_note(self._rescued())
            raise out_of_memory from error
        except Exception as error:
            fault: Exception = error
            if self._abandoned() and not isinstance(error, FaultError):
                # Whatever a client that has closed makes of the next thing that it is asked for.
                fault = FaultError(f"the connection to the Dask scheduler is gone: {error!r}")
            # A store that has been waited for in vain is asked once more and not waited for again.
            of_store = any(isinstance(found, OSError) for found in (error, error.__cause__))
            with fail_fast() if of_store else nullcontext():
                fault.add_note(self._rescued())
            if fault is error:
                raise
            raise fault from error
        except BaseException as error:
            error.add_note(self._rescued())
            raise
        finally:
            if self._aside is not None:
                shutil.rmtree(self._aside, ignore_errors=True)

    def _abandoned(self) -> bool:
        """Whether the cluster that the run is on has gone."""
        return self._client is not None and self._client.status == "closed"

    def _rescued(self) -> str:
        """Keep what can be kept; how to go on."""
        sweep = self._saved if self._current is None else self._current.standing.sweep
        if not self._keeps:
            return f"The {sweep} sweeps done are lost: no checkpoints were asked for."
        lost = ""
        if sweep > self._saved:
            try:
                if self._abandoned() or not workers_left():
                    raise WorkersLost("it went with the workers")
                if self._checkpoints is not None:
                    self._checkpoints.store.check_reachable()
                self._save(passing=False)
            except KeyboardInterrupt:
                # Whoever cannot wait for a checkpoint is still told where the run stood.
                lost = f"Sweep {sweep} could not be kept (interrupted once more). "
            except Exception as error:
                lost = f"Sweep {sweep} could not be kept ({error}). "
        if self._saved == 0:
            return f"{lost}There is no checkpoint yet."
        return (
            f"{lost}Sweep {self._saved} is kept in {location_of(self._target())}; go on with: "
            f"{_resume(self._target(), self._made().device)}"
        )

    def _save(self, *, passing: bool) -> str:
        loop = self._loop
        with _of_checkpoints("written"):
            snapshot = self._made().save(loop.options, loop.standing, passing=passing)
        self._snapshot, self._saved = snapshot, loop.standing.sweep
        if not passing:
            self._kept, self._kept_at = self._saved, time.monotonic()
        return snapshot

    def _made(self) -> Checkpoints:
        """The checkpoints, made when they are first needed: a run that fails before leaves none."""
        if self._checkpoints is None:
            loop = self._loop
            assert loop.standing.state is not None
            modes = computed(task(len, loop.standing.state.probe))
            if self._keeps:
                location = location_of(self._target())
            else:
                self._aside = self._aside or tempfile.mkdtemp(prefix="daskptycho-")
                location = parse_location(Path(self._aside) / "run.checkpoints")
            self._checkpoints = Checkpoints.create(
                location,
                self._scan,
                loop.options,
                loop.plan.tiling,
                modes,
                loop.counts,
                device=loop.plan.device,
            )
        return self._checkpoints

    def _target(self) -> Location:
        assert self._out is not None
        return self._out
