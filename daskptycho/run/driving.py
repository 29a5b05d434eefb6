"""Carries out a run: lays it out, begins or restores it, sweeps, and continues it if workers are lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from daskptycho.cluster.client import current_client, group_as_run
from daskptycho.errors import FaultError, OptionError, ScanError
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import FrameMeasures
from daskptycho.run.following import Follower
from daskptycho.run.keeper import Keeper
from daskptycho.run.loop import Loop, Progress
from daskptycho.run.misfits import warn_of_misfits
from daskptycho.run.result import (
    Outcome,
    assemble_values,
    make_result,
    show_lit,
    warn_of_parts,
    write_result,
)
from daskptycho.run.standing import Standing
from daskptycho.run.verdict import count_unknowns, find_faults
from daskptycho.storage.retrying import fail_fast
from daskptycho.tasks.interrupts import catch_stop_signals
from daskptycho.tasks.measures import measure_frames
from daskptycho.tasks.state import light_tiles, merge_images
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost, compute, has_workers, retry_lost

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Run"]

Callback = Callable[[Progress], Any]


class Run:
    """A run, from its layout to its result.

    Parameters
    ----------
    lay_out : callable
        Makes the loop, with its layout on the workers.
    begin : callable or None
        Makes the first standing of a loop; None if the keeper has a checkpoint.
    keeper : Keeper
    follower : Follower, optional
        Lays out the stages of a run that follows a scan.
    """

    def __init__(
        self,
        lay_out: Callable[[], Loop],
        begin: Callable[[Loop], Standing] | None,
        keeper: Keeper,
        follower: Follower | None = None,
    ) -> None:
        self._lay_out, self._begin, self._keeper, self._follower = lay_out, begin, keeper, follower
        self._client = current_client()
        self._loop: Loop | None = None
        # The standing after the last complete sweep, which is saved if the next sweep is interrupted.
        self._standing: Standing | None = None
        self._progress: Progress | None = None

    def carry_out(self, callback: Callback | None, store: Store | None) -> xr.Dataset:
        """Sweep to the end, and write the result into the store if there is one.

        If Dask cannot compute the results of lost workers again, the run continues from its last checkpoint,
        or starts again if it has none.

        Parameters
        ----------
        callback : callable or None
            Called with a `Progress` after each sweep; the run stops if it returns True.
        store : Store or None

        Returns
        -------
        xarray.Dataset
            The result.

        Raises
        ------
        FaultError
            Workers were lost repeatedly without progress, memory ran out, or a store or the scheduler failed.
        """
        with self._rescue_on_failure(), group_as_run():
            result = retry_lost(lambda: self._attempt(callback), lambda: self._keeper.saved)
            if store is not None:
                write_result(result, store)
        warn_of_misfits(result)
        warn_of_parts(result)
        return result

    def _attempt(self, callback: Callback | None) -> xr.Dataset:
        try:
            loop = self._loop = self._lay_out()
            self._standing = self._restore_or_begin(loop)
            loop, stopped = self._take_up(loop, callback)
            while not stopped and not loop.finished(self._standing):
                self._standing = loop.advance(self._standing)
                if self._follower is not None and callback is not None:
                    loop = self._follower.look(loop)
                stopped = self._report_progress(loop, self._standing, callback)
                if not stopped and not loop.finished(self._standing):
                    self._save_between_sweeps(loop)
                    loop, stopped = self._take_up(loop, callback)
            self._keeper.finish(loop, self._standing)
            ended = "callback" if stopped else loop.finished(self._standing)
            result = _make_result(self._keeper.scan, loop, self._standing)
            return result.assign_attrs(ended=ended)
        except WorkersLost:
            # Releases all data on the workers before they are put there again.
            self._loop, self._standing = None, None
            raise

    def _take_up(self, loop: Loop, callback: Callback | None) -> tuple[Loop, bool]:
        """Take up the frames that have come, in a run that follows a scan.

        Returns
        -------
        loop : Loop
            To go on with.
        stopped : bool
            Whether the callback, which sees the new frames at once, asks the run to stop.
        """
        if self._follower is None:
            return loop, False
        assert self._standing is not None
        for stage in self._follower.grow(loop, self._standing):
            loop, self._standing = stage
            self._loop = loop
            if self._standing.history and self._report_progress(loop, self._standing, callback):
                return loop, True
        return loop, False

    def _restore_or_begin(self, loop: Loop) -> Standing:
        restored = self._keeper.restore(loop)
        if restored is not None:
            return restored
        assert self._begin is not None
        return self._begin(loop)

    def _report_progress(self, loop: Loop, standing: Standing, callback: Callback | None) -> bool:
        """Call the callback with the progress of a sweep; whether it asks the run to stop."""
        before, self._progress = self._progress, loop.progress(standing)
        if before is not None:
            before.expire()
        return callback is not None and bool(callback(self._progress))

    def _save_between_sweeps(self, loop: Loop) -> None:
        """Write a checkpoint if one is due; on a cluster, read it back, so that old tasks are forgotten."""
        assert self._standing is not None
        if not self._keeper.keep_if_due(loop, self._standing):
            return
        if current_client() is not None:
            # Releases the state before it is read back: both would need twice the memory.
            self._standing = None
            if self._progress is not None:
                self._progress.expire()
            self._standing = self._keeper.restore(loop)
        self._keeper.forget_older()

    @contextmanager
    def _rescue_on_failure(self) -> Iterator[None]:
        """If the block fails or is interrupted, save the run, and note in the error how to resume it."""
        try:
            with catch_stop_signals():
                yield
        except (ScanError, OptionError) as error:
            # A resumed run would fail in the same way, but for what frames that came later have caused.
            if self._follower is not None and self._standing is not None and self._standing.history:
                error.add_note(self._rescue())
            raise
        except OutOfMemory as error:
            planned = "" if self._loop is None else f"; {self._loop.needs.explain()}"
            out_of_memory = FaultError(f"{error}{planned}")
            out_of_memory.add_note(self._rescue())
            raise out_of_memory from error
        except Exception as error:
            fault: Exception = error
            if self._lost_cluster() and not isinstance(error, FaultError):
                # A closed client raises different errors.
                fault = FaultError(f"the connection to the Dask scheduler is gone: {error!r}")
            # After a store has failed in spite of retries, it is tried only once more.
            store_failed = any(isinstance(cause, OSError) for cause in (error, error.__cause__))
            with fail_fast() if store_failed else nullcontext():
                fault.add_note(self._rescue())
            if fault is error:
                raise
            raise fault from error
        except BaseException as error:
            error.add_note(self._rescue())
            raise
        finally:
            self._keeper.close()

    def _lost_cluster(self) -> bool:
        """Whether the connection to the cluster of the run is closed."""
        return self._client is not None and self._client.status == "closed"

    def _rescue(self) -> str:
        """Save what can be saved; a sentence for the user on how to resume."""
        reachable = not self._lost_cluster()
        return self._keeper.rescue(
            self._loop, self._standing, has_workers=lambda: reachable and has_workers()
        )


def _make_result(scan: xr.Dataset, loop: Loop, standing: Standing) -> xr.Dataset:
    state = light_tiles(loop.layout, standing.state)
    images = merge_images(loop.layout, state)
    measures = compute(measure_frames(loop.layout, state, images))
    residual, overlap = (np.concatenate(parts) for parts in zip(*measures, strict=True))
    illuminations = [tile.illumination for tile in state.tiles]
    outcome = Outcome(
        show_lit(images, illuminations, state.shared),
        illuminations,
        assemble_values(state),
        FrameMeasures(residual, overlap),
    )
    recovered = outcome.values[Probe.name].shape if loop.options.update_probe else ()
    # The prior of a polish raises R2 on purpose.
    fitted = standing.history[standing.stage : standing.polished_from]
    residuals = [done.residual for done in fitted]
    if residuals and standing.history[-1].residual < residuals[-1]:
        # It lowers R2 where the sweeps before it had not yet converged.
        residuals.append(standing.history[-1].residual)
    faults = find_faults(
        residuals,
        loop.expected,
        scan,
        reflects=loop.options.algorithm.has_stack,
        unknowns=count_unknowns(scan, loop.layout.tiling.window.shape, recovered),
        sweep=standing.anchor.sweep if standing.guard.exhausted and standing.anchor is not None else None,
    )
    for fault in faults:
        warnings.warn(fault, stacklevel=2)
    options = loop.options.describe()
    return make_result(scan, loop.layout.tiling, outcome, standing.history, options, loop.expected, faults)
