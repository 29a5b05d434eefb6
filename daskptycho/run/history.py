"""The history of a run: what its checkpoints hold, and each of them opened as a result.

Users call this module as ``daskptycho.checkpoints`` and ``daskptycho.open_checkpoint``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dask
import xarray as xr

from daskptycho.errors import OptionError
from daskptycho.run.checkpoint import Checkpoints, tiling_of
from daskptycho.run.result import result_dataset
from daskptycho.run.resumption import open_checkpoint_store
from daskptycho.storage.store import parse_location

__all__ = ["Checkpoint", "checkpoints", "open_checkpoint"]


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
        As of `reconstruct`.

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
    checkpoints = Checkpoints(store, tiling_of(header, store.read_constants()))
    standing = checkpoints.load(found[number].id)
    assert standing.state is not None
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", "memory"))
    options = checkpoints.options(found[number].id).described()
    with dask.config.set(scheduler="synchronous"):
        # A cluster has no part in this: the store is here.
        return result_dataset(header, checkpoints.tiling, standing.state, standing.history, options)
