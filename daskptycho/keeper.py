"""When a run is kept: checkpoints as often as the options say, at its end, and where it is cut off.

`run` and `resume` call this module, between two sweeps and when something goes wrong; it calls `checkpoint`.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dask.base
import xarray as xr

from daskptycho.checkpoint import Checkpoints, location_of
from daskptycho.checkpoint_store import Store
from daskptycho.errors import OptionError, ScanError, StoreError
from daskptycho.loop import Loop
from daskptycho.retrying import impatient
from daskptycho.store import Location, located
from daskptycho.tasks import client_in_use

__all__ = ["Keeper", "refuse_to_lose_checkpoints"]

# On a cluster, sweeps after which the state is read back from the store: the scheduler then
# forgets the tasks that led to it, and a lost worker costs no more than so many sweeps.
LINEAGE_SWEEPS = 10


def refuse_to_lose_checkpoints(out: Location) -> None:
    """Refuse to begin a run where an earlier one can be gone on with.

    Raises
    ------
    ScanError
    """
    location = location_of(out)
    if Store.there(location):
        raise ScanError(
            f"{location} holds checkpoints of an earlier run; go on with it by resume "
            f"(daskptycho resume {shlex.quote(str(out))}), or pass overwrite=True (--overwrite) to begin anew"
        )


class Keeper:
    """Keeps a run.

    Parameters
    ----------
    loop : Loop
    scan : xarray.Dataset
    out : Location or None
        Where the result will be; without it checkpoints are for the run itself, and vanish with it.
    checkpoints : Checkpoints, optional
        Of the run that is gone on with.
    kept : bool
        Whether these have in their history what the loop begins with.
    """

    def __init__(
        self,
        loop: Loop,
        scan: xr.Dataset,
        out: Location | None,
        checkpoints: Checkpoints | None = None,
        *,
        kept: bool = False,
    ) -> None:
        self._loop = loop
        self._scan = scan
        self._out = out
        self._checkpoints = checkpoints
        self._aside: str | None = None
        self._every, self._minutes = loop.options.checkpoint_every, loop.options.checkpoint_minutes
        self._keeps = out is not None and (self._every is not None or self._minutes is not None)
        begun = loop.standing.sweep
        # Sweeps of the last checkpoint, and of the last one that is history.
        self._saved, self._kept = begun, begun if kept else 0
        self._kept_at = time.monotonic()

    def between_sweeps(self) -> None:
        """Keep the run where it is time to, and cut the lineage of its tasks."""
        sweep, clustered = self._loop.standing.sweep, client_in_use() is not None
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
            self._loop.standing = self._loop.standing.moved(checkpoints.state(snapshot))
        checkpoints.store.forget_passing(but=snapshot)

    def finish(self) -> None:
        """Keep the last state of a run: further sweeps can go on from there."""
        if not self._keeps:
            return
        if self._kept < self._loop.standing.sweep:
            self._save(passing=False)
        if self._checkpoints is not None:
            self._checkpoints.store.forget_passing()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Where the block is cut off, keep where the run stands, and say in the error how to go on."""
        try:
            yield
        except (ScanError, OptionError):
            # Neither would a run that goes on be better.
            raise
        except BaseException as error:
            # A store that has been waited for in vain is asked once more and not waited for again.
            with impatient() if isinstance(error, StoreError) else nullcontext():
                error.add_note(self._rescued())
            raise
        finally:
            if self._aside is not None:
                shutil.rmtree(self._aside, ignore_errors=True)

    def _rescued(self) -> str:
        """Keep what can be kept; how to go on."""
        sweep = self._loop.standing.sweep
        if not self._keeps:
            return f"The {sweep} sweeps done are lost: no checkpoints were asked for."
        lost = ""
        if sweep > self._saved:
            try:
                if self._checkpoints is not None:
                    self._checkpoints.store.answers()
                self._save(passing=False)
            except Exception as error:
                lost = f"Sweep {sweep} could not be kept ({error}). "
        if self._saved == 0:
            return f"{lost}There is no checkpoint yet."
        return (
            f"{lost}Sweep {self._saved} is kept in {location_of(self._target())}; go on with: "
            f"daskptycho resume {shlex.quote(str(self._out))}"
        )

    def _save(self, *, passing: bool) -> str:
        loop = self._loop
        snapshot = self._made().save(loop.options, loop.standing, passing=passing)
        self._saved = loop.standing.sweep
        if not passing:
            self._kept, self._kept_at = self._saved, time.monotonic()
        return snapshot

    def _made(self) -> Checkpoints:
        """The checkpoints, made when they are first needed: a run that fails before leaves none."""
        if self._checkpoints is None:
            loop = self._loop
            assert loop.standing.state is not None
            if self._keeps:
                location = location_of(self._target())
            else:
                self._aside = self._aside or tempfile.mkdtemp(prefix="daskptycho-")
                location = located(Path(self._aside) / "run.checkpoints")
            modes = len(dask.base.compute(loop.standing.state.probe)[0])
            self._checkpoints = Checkpoints.create(
                location, self._scan, loop.options, loop.plan.tiling, modes, loop.counts
            )
        return self._checkpoints

    def _target(self) -> Location:
        assert self._out is not None
        return self._out
