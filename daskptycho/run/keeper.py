"""Decides when checkpoints are written: as often as the options say, at the end, and at an interruption."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xarray as xr

from daskptycho.backend import Device
from daskptycho.cluster.client import current_client
from daskptycho.errors import FaultError, ScanError
from daskptycho.run.checkpoint import Checkpoints, location_of
from daskptycho.run.loop import Loop
from daskptycho.run.options import RunOptions
from daskptycho.run.standing import Standing
from daskptycho.storage.checkpoints import CheckpointStore, Snapshot
from daskptycho.storage.retrying import fail_fast
from daskptycho.storage.store import Location, parse_location, read_bytes
from daskptycho.tasks.waiting import WorkersLost

__all__ = ["Keeper", "refuse_to_lose_checkpoints"]

# On a cluster, the number of sweeps after which the state is read back from the store. The scheduler then
# forgets the tasks that led to it, and after the loss of a worker no more than this number of sweeps is
# repeated.
LINEAGE_SWEEPS = 10


def refuse_to_lose_checkpoints(out: Location, device: Device) -> None:
    """Refuse to start a run if an earlier one with the same `out` has checkpoints but no result yet.

    Raises
    ------
    ScanError
        The message has the command that resumes the earlier run, with the option for this device.
    """
    location = location_of(out)
    # A killed run may leave parts of a result in a bucket, but never this file.
    if read_bytes(out, "zarr.json") is None and _holds_checkpoints(location):
        raise ScanError(
            f"{location} holds checkpoints of an earlier run; continue it with resume "
            f"({_resume_command(out, device)}), or pass overwrite=True (--overwrite) to begin again"
        )


def _holds_checkpoints(location: Location) -> bool:
    """Whether there is a store with checkpoints; one that was only just created has none."""
    return CheckpointStore.exists(location) and bool(CheckpointStore(location).list_snapshots())


def _resume_command(out: Location, device: Device) -> str:
    return f"daskptycho resume {shlex.quote(str(out))}{' --gpu' if device == 'gpu' else ''}"


@contextmanager
def _convert_store_errors(done: str) -> Iterator[None]:
    """Turn an error of the checkpoint store into a `FaultError` of the run; `done` is "read" or "written"."""
    try:
        yield
    except OSError as error:
        raise FaultError(f"a checkpoint cannot be {done}: {error}") from error


class Keeper:
    """Writes the checkpoints of a run, and restores the run from the last of them.

    Parameters
    ----------
    options : RunOptions
    scan : xarray.Dataset
    out : Location or None
        The location of the result. Without it, checkpoints are only for the run itself and deleted at its
        end.
    device : "cpu" or "gpu"
    checkpoints : Checkpoints, optional
        Those of a run that is resumed.
    snapshot : Snapshot, optional
        The checkpoint from which it is resumed.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(
        self,
        options: RunOptions,
        scan: xr.Dataset,
        out: Location | None,
        device: Device,
        checkpoints: Checkpoints | None = None,
        snapshot: Snapshot | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scan = scan
        self._out, self._device, self._clock = out, device, clock
        self._every, self._minutes = options.checkpoint_every, options.checkpoint_minutes
        self._keeps_history = out is not None and (self._every is not None or self._minutes is not None)
        self._checkpoints = checkpoints
        self._temporary_folder: str | None = None
        # The last checkpoint and its sweep, and the sweep of the last one that is not temporary.
        self._snapshot = None if snapshot is None else snapshot.id
        self.saved = 0 if snapshot is None else snapshot.sweep
        self._last_kept = self.saved if snapshot is not None and not snapshot.temporary else 0
        self._last_kept_at = clock()
        self._is_of_stage = True
        self.scan_of_checkpoint = None if snapshot is None else scan
        """The scan of the last checkpoint; None if there is none."""
        self.ended_at_checkpoint = False
        """Whether no more frames were to come then, in a run that follows a scan."""

    def begin_stage(self, scan: xr.Dataset, *, kept: bool = False) -> None:
        """Keep the run with these frames from now on.

        The checkpoints that are there stay until the next one is due; with `kept` they are of these frames.
        """
        self.scan, self._is_of_stage = scan, kept

    def restore(self, loop: Loop) -> Standing | None:
        """The standing of the run at its last checkpoint; None if there is no checkpoint yet."""
        if self._snapshot is None or self._checkpoints is None:
            return None
        with _convert_store_errors("read"):
            return self._checkpoints.restore(self._snapshot, loop.layout)

    def keep_if_due(self, loop: Loop, standing: Standing) -> bool:
        """Write a checkpoint if it is time, or on a cluster after `LINEAGE_SWEEPS`; whether it was due."""
        sweep = standing.sweep
        due = self._keeps_history and (
            (self._every is not None and sweep - self._last_kept >= self._every)
            or (self._minutes is not None and self._clock() - self._last_kept_at >= 60 * self._minutes)
        )
        if not due and not (current_client() is not None and sweep - self.saved >= LINEAGE_SWEEPS):
            return False
        self._save(loop, standing, temporary=not due)
        return True

    def forget_older(self) -> None:
        """Delete all temporary checkpoints except the last."""
        if self._checkpoints is not None:
            with _convert_store_errors("written"):
                self._checkpoints.store.forget_temporary(keep=self._snapshot)

    def finish(self, loop: Loop, standing: Standing) -> None:
        """Write a checkpoint of the last state of a run, from which it can be continued with more sweeps."""
        if not self._keeps_history:
            return
        if self._last_kept < standing.sweep:
            self._save(loop, standing, temporary=False)
        if self._checkpoints is not None:
            with _convert_store_errors("written"):
                self._checkpoints.store.forget_temporary()

    def rescue(self, loop: Loop | None, standing: Standing | None, has_workers: Callable[[], bool]) -> str:
        """Save what can be saved of a run that is interrupted.

        Parameters
        ----------
        loop : Loop or None
        standing : Standing or None
            The standing after the last complete sweep; None if it is lost.
        has_workers : callable
            Whether the state can still be fetched from the workers.

        Returns
        -------
        str
            A note for the user: what is saved, what is lost, and how to resume.
        """
        sweep = self.saved if standing is None else standing.sweep
        if not self._keeps_history:
            return f"The {sweep} sweeps done are lost: no checkpoints were asked for."
        lost = ""
        if loop is not None and standing is not None and sweep > self.saved:
            try:
                if not has_workers():
                    raise WorkersLost("it went with the workers")
                if self._checkpoints is not None:
                    self._checkpoints.store.check_reachable()
                self._save(loop, standing, temporary=False)
            except KeyboardInterrupt:
                # The user does not want to wait for a checkpoint, but still gets the note.
                lost = f"Sweep {sweep} could not be kept (interrupted once more). "
            except Exception as error:
                lost = f"Sweep {sweep} could not be kept ({error}). "
        if self.saved == 0:
            return f"{lost}There is no checkpoint yet."
        assert self._out is not None
        return (
            f"{lost}Sweep {self.saved} is kept in {location_of(self._out)}; resume with: "
            f"{_resume_command(self._out, self._device)}"
        )

    def close(self) -> None:
        """Delete checkpoints that were only for the run itself."""
        if self._temporary_folder is not None:
            shutil.rmtree(self._temporary_folder, ignore_errors=True)

    def _save(self, loop: Loop, standing: Standing, *, temporary: bool) -> None:
        with _convert_store_errors("written"):
            if self._checkpoints is None or not self._is_of_stage:
                # Created when first needed, so that a run that fails earlier leaves none.
                self._checkpoints, self._snapshot = self._begin_store(loop, standing, temporary=temporary)
            else:
                self._snapshot = self._checkpoints.save(loop, standing, temporary=temporary)
        self._is_of_stage, self.scan_of_checkpoint = True, self.scan
        self.ended_at_checkpoint = loop.is_last
        self.saved = standing.sweep
        if not temporary:
            self._last_kept, self._last_kept_at = self.saved, self._clock()

    def _begin_store(self, loop: Loop, standing: Standing, *, temporary: bool) -> tuple[Checkpoints, str]:
        """Write the first checkpoint of a run, or of a stage: with it, a new store replaces an old one."""
        begun = Checkpoints.create(self._choose_location(), self.scan, loop, standing.state)
        try:
            snapshot = begun.save(loop, standing, temporary=temporary)
            begun.store.settle()
        except BaseException:
            with fail_fast(), suppress(OSError):
                begun.store.remove()
            raise
        return begun, snapshot

    def _choose_location(self) -> Location:
        """The location of the store of checkpoints: beside the result, or in a temporary folder."""
        if self._keeps_history and self._out is not None:
            return location_of(self._out)
        self._temporary_folder = self._temporary_folder or tempfile.mkdtemp(prefix="daskptycho-")
        return parse_location(Path(self._temporary_folder) / "run.checkpoints")
