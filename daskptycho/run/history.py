"""The history of a run: lists its checkpoints, and opens each of them like a result.

Users call it as ``daskptycho.checkpoints`` and ``daskptycho.open_checkpoint``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from daskptycho.errors import OptionError, ScanError, StoreError
from daskptycho.run.checkpoint import Checkpoints, location_of, read_tiling
from daskptycho.run.checkpoint_parts import is_tiled
from daskptycho.run.options import RunOptions
from daskptycho.run.result import Outcome, make_result, open_result, show_lit
from daskptycho.storage.checkpoints import CheckpointStore
from daskptycho.storage.store import Location, parse_location
from daskptycho.tasks.waiting import compute

__all__ = [
    "Checkpoint",
    "checkpoints",
    "open_checkpoint",
    "open_checkpoint_store",
    "open_finished",
    "read_progress",
    "read_scan_header",
]


@dataclass(frozen=True)
class Checkpoint:
    """An entry in the list of the checkpoints of a run.

    Attributes
    ----------
    sweep : int
        Number of sweeps done.
    residual : float
        R2 of the last of them.
    written : datetime.datetime
        When it was written, with time zone.
    snapshot : str
        Its snapshot id in the Icechunk store.
    """

    sweep: int
    residual: float
    written: datetime
    snapshot: str


def checkpoints(out: str | Path) -> list[Checkpoint]:
    """List the checkpoints of a run, the oldest first.

    Parameters
    ----------
    out : path or URL
        The location of the run's result, as given to `reconstruct`; the result itself need not exist.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    ScanError
        There are no checkpoints.
    StoreError
        The store does not answer, or denies access.
    OptionError
        `out` is not a valid location.
    """
    return [
        Checkpoint(snapshot.sweep, snapshot.residual, snapshot.written, snapshot.id)
        for snapshot in open_checkpoint_store(parse_location(out)).list_snapshots()
    ]


def open_checkpoint(out: str | Path, sweep: int | None = None) -> xr.Dataset:
    """Open a checkpoint as the result of a run that ended with that sweep.

    Parameters
    ----------
    out : path or URL
        The location of the run's result, as given to `reconstruct`; the result itself need not exist.
    sweep : int, optional
        Number of sweeps done at the checkpoint; the last checkpoint by default.

    Returns
    -------
    xarray.Dataset
        See `reconstruct`.

    Raises
    ------
    ScanError
        There are no checkpoints.
    StoreError
        The store does not answer, or denies access.
    OptionError
        There is no checkpoint of that sweep, or `out` is not a valid location.
    """
    store = open_checkpoint_store(parse_location(out))
    snapshots = {snapshot.sweep: snapshot for snapshot in store.list_snapshots()}
    number = max(snapshots) if sweep is None else sweep
    if number not in snapshots:
        known = ", ".join(map(str, snapshots))
        raise OptionError(f"there is no checkpoint of sweep {sweep!r}; expected one of {known}")
    header = store.read_header()
    checkpoints = Checkpoints(store, read_tiling(header, store.read_constants()))
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", "memory"))
    with dask.config.set(scheduler="synchronous"):
        # In this process, which can read the store, rather than on a cluster.
        kept = checkpoints.read(snapshots[number].id)
        values = compute(kept.shared)
        for name in filter(lambda name: not is_tiled(name), kept.tiles[0]):
            values[name] = np.concatenate(compute([tile[name] for tile in kept.tiles]))
        illuminations = [tile["illuminations"] for tile in kept.tiles]
        images = show_lit([tile["images"] for tile in kept.tiles], illuminations, kept.shared)
        outcome = Outcome(images, illuminations, values)
        attributes = store.read_attributes(snapshots[number].id)["options"]
        options = RunOptions.describe_attributes(attributes)
        known = store.read_constants()["expected"]
        history = kept.standing.history
        return make_result(header, checkpoints.tiling, outcome, history, options, known)


def open_finished(out: str | Path) -> xr.Dataset:
    """Open a result; of a run that was stopped before it had one, say how to continue it.

    Raises
    ------
    ScanError, StoreError, OptionError
        As for `open_result`.
    """
    try:
        return open_result(out)
    except ScanError as error:
        kept: list[Checkpoint] = []
        with suppress(ScanError, StoreError):
            kept = checkpoints(out)
        if not kept:
            raise
        sweep = kept[-1].sweep
        raise ScanError(
            f"{error}; its run was stopped, and sweep {sweep} is kept: finish it with daskptycho resume "
            f"{out}, or use --sweep {sweep}"
        ) from error


def open_checkpoint_store(target: Location) -> CheckpointStore:
    """Open the store of the checkpoints of a result.

    Raises
    ------
    ScanError
        There are no checkpoints.
    """
    location = location_of(target)
    if CheckpointStore.exists(location):
        store = CheckpointStore(location)
        store.read_constants()
        if store.list_snapshots():
            return store
    raise ScanError(
        f"{target} has no checkpoints ({location}); expected those that reconstruct writes beside a result"
    )


def read_progress(target: Location) -> tuple[int, int]:
    """The number of sweeps done at the last checkpoint of a result, and the most sweeps of its run."""
    store = open_checkpoint_store(target)
    snapshot = store.list_snapshots()[-1]
    return snapshot.sweep, int(store.read_attributes(snapshot.id)["options"]["sweeps"])


def read_scan_header(target: Location) -> xr.Dataset:
    """The scan of a result without its frames, as its checkpoints keep it."""
    header = open_checkpoint_store(target).read_header()
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", ""))
    return header
