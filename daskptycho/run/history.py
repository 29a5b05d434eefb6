"""The history of a run: what its checkpoints hold, and each of them opened as a result.

Users call this module as ``daskptycho.checkpoints`` and ``daskptycho.open_checkpoint``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from daskptycho.errors import OptionError, ScanError
from daskptycho.run.checkpoint import TILED, Checkpoints, location_of, read_tiling
from daskptycho.run.options import RunOptions
from daskptycho.run.result import Outcome, make_result
from daskptycho.storage.checkpoints import CheckpointStore
from daskptycho.storage.store import Location, parse_location
from daskptycho.tasks.waiting import compute

__all__ = [
    "Checkpoint",
    "checkpoints",
    "open_checkpoint",
    "open_checkpoint_store",
    "read_progress",
    "read_scan_header",
]


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without opening it.

    Attributes
    ----------
    sweep : int
        Sweeps done.
    residual : float
        R2 of the last of them.
    written : datetime
        With its time zone.
    snapshot : str
        The commit in the store, which is Icechunk's.
    """

    sweep: int
    residual: float
    written: datetime
    snapshot: str


def checkpoints(out: str | Path) -> list[Checkpoint]:
    """The checkpoints of a run, the oldest first.

    Parameters
    ----------
    out : path or URL
        Where the run's result is or would be.

    Returns
    -------
    list of Checkpoint

    Raises
    ------
    ScanError
        There are none.
    """
    return [
        Checkpoint(found.sweep, found.residual, found.written, found.id)
        for found in open_checkpoint_store(parse_location(out)).list_snapshots()
    ]


def open_checkpoint(out: str | Path, sweep: int | None = None) -> xr.Dataset:
    """What the result would have been, had the run ended with a checkpoint.

    Parameters
    ----------
    out : path or URL
        Where the run's result is or would be.
    sweep : int, optional
        Of the checkpoint; the last one unless given.

    Returns
    -------
    xarray.Dataset
        As `reconstruct` returns it.

    Raises
    ------
    ScanError
        There are no checkpoints.
    OptionError
        There is none of that sweep.
    """
    store = open_checkpoint_store(parse_location(out))
    found = {snapshot.sweep: snapshot for snapshot in store.list_snapshots()}
    number = max(found) if sweep is None else sweep
    if number not in found:
        there = ", ".join(map(str, found))
        raise OptionError(f"there is no checkpoint of sweep {sweep!r}; expected one of {there}")
    header = store.read_header()
    checkpoints = Checkpoints(store, read_tiling(header, store.read_constants()))
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", "memory"))
    with dask.config.set(scheduler="synchronous"):
        # A cluster has no part in this: the store is here.
        kept = checkpoints.read(found[number].id)
        values = compute(kept.shared)
        for name in kept.tiles[0].keys() - set(TILED):
            values[name] = np.concatenate(compute([tile[name] for tile in kept.tiles]))
        outcome = Outcome(
            [tile["images"] for tile in kept.tiles], [tile["illuminations"] for tile in kept.tiles], values
        )
        options = checkpoints.options(found[number].id).describe()
        return make_result(header, checkpoints.tiling, outcome, kept.history, options)


def open_checkpoint_store(target: Location) -> CheckpointStore:
    """The checkpoints of a result.

    Raises
    ------
    ScanError
        There are none.
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
    """Sweeps that the last checkpoint of a result has, and sweeps that its run was to make."""
    store = open_checkpoint_store(target)
    snapshot = store.list_snapshots()[-1]
    return snapshot.sweep, RunOptions.from_attributes(store.read_attributes(snapshot.id)["options"]).sweeps


def read_scan_header(target: Location) -> xr.Dataset:
    """The scan that a result is of, without its frames, as the checkpoints keep it."""
    header = open_checkpoint_store(target).read_header()
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", ""))
    return header
