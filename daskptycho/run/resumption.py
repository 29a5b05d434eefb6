"""Going on with a run that was cut off, or with one that is done and could be better.

Users call this module as ``daskptycho.resume``; it drives `loop` as `run` does, from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from daskptycho.backend import Device
from daskptycho.cluster.workers import find_workers, limit_threads
from daskptycho.errors import OptionError, ScanError
from daskptycho.run.checkpoint import Checkpoints, header_of, location_of, tiling_of
from daskptycho.run.keeper import Keeper
from daskptycho.run.loop import Loop, Progress
from daskptycho.run.options import RunOptions, whole
from daskptycho.run.reconstruction import driven, laid_out
from daskptycho.run.result import FORMAT
from daskptycho.scan.dataset import open_scan, tile_chunks, validate_scan
from daskptycho.storage.checkpoints import CheckpointStore
from daskptycho.storage.store import Location, parse_location, write_atomically
from daskptycho.tasks.plan import SAME_COUNTS

__all__ = ["open_checkpoint_store", "read_progress", "read_scan_header", "resume"]


def resume(
    out: str | Path,
    *,
    scan: xr.Dataset | None = None,
    sweeps: int | None = None,
    memory: str | int | None = None,
    device: Device = "cpu",
    callback: Callable[[Progress], Any] | None = None,
) -> xr.Dataset:
    """Go on with a run from its last checkpoint, to the result of a run that was never cut off.

    Parameters
    ----------
    out : path or URL
        Where the result of the run would be, or is; it is replaced once the new one is complete.
    scan : xarray.Dataset, optional
        The scan of that run; opened from where it was unless given.
    sweeps : int, optional
        Most sweeps in all; as many as the run would have made unless given.
    memory : int or str, optional
        As of `reconstruct`.
    device : "cpu" or "gpu"
        As of `reconstruct`; it need not be the one that the run began on.
    callback : callable, optional
        As of `reconstruct`; the other options are those that the run had.

    Returns
    -------
    xarray.Dataset
        As of `reconstruct`, with the history from the first sweep.

    Raises
    ------
    ScanError
        There is no checkpoint, or the scan is another.
    OptionError
        Fewer sweeps than are done, or a run that does not fit into memory.
    FaultError
        As of `reconstruct`.
    """
    workers = find_workers(memory, device)
    target = parse_location(out)
    if callback is not None and not callable(callback):
        raise OptionError(f"callback is {callback!r}; expected a function of a Progress")
    store = open_checkpoint_store(target)
    snapshot = store.list_snapshots()[-1]
    fixed, header = store.read_constants(), store.read_header()
    checkpoints = Checkpoints(store, tiling_of(header, fixed), device)
    options = checkpoints.options(snapshot.id)
    if sweeps is not None:
        options = replace(options, sweeps=whole("sweeps", sweeps, least=1))
        if options.sweeps < snapshot.sweep:
            raise OptionError(f"sweeps is {sweeps} and {snapshot.sweep} are done already; expected more")
    scan = _same_scan(scan, header, fixed)

    def lay_out() -> Loop:
        loop = laid_out(scan, checkpoints.tiling, options, workers, fixed["modes"], device)
        if not np.isclose(loop.counts, fixed["counts"], rtol=SAME_COUNTS, atol=0):
            raise ScanError(
                f"the scan's counts add up to {loop.counts:.9g}; expected {fixed['counts']:.9g}, "
                "those of the scan that the run began with"
            )
        loop.counts = fixed["counts"]
        return loop

    with write_atomically(target, kind=FORMAT, overwrite=True) as writable, limit_threads(device):
        keeper = Keeper(lay_out, None, options, scan, target, checkpoints, snapshot)
        return driven(keeper, scan, callback, writable)


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
    return snapshot.sweep, RunOptions.remembered(store.read_attributes(snapshot.id)["options"]).sweeps


def read_scan_header(target: Location) -> xr.Dataset:
    """The scan that a result is of, without its frames, as the checkpoints keep it."""
    header = open_checkpoint_store(target).read_header()
    header.encoding["source"] = header.attrs.get("opened_from", header.attrs.get("source", ""))
    return header


def _same_scan(scan: xr.Dataset | None, header: xr.Dataset, fixed: dict[str, Any]) -> xr.Dataset:
    """The scan of the run, in its tiles."""
    if scan is None:
        source = header.attrs.get("opened_from")
        if source is None:
            raise ScanError("the run's scan was in memory; expected it as the option scan")
        scan = open_scan(source)
    else:
        validate_scan(scan)
    own = header_of(scan)
    frame_shape = (scan.sizes["qy"], scan.sizes["qx"])
    if frame_shape != tuple(fixed["frame_shape"]) or len(own["position"]) != len(header["position"]):
        frames = "{} frames of {} x {} pixels"
        raise ScanError(
            f"the scan has {frames.format(len(own['position']), *frame_shape)}; expected "
            f"{frames.format(len(header['position']), *fixed['frame_shape'])}, as the run began with"
        )
    for name in ("position", "frame_number"):
        if not np.array_equal(own[name], header[name]) or own[name].attrs != header[name].attrs:
            raise ScanError(
                f"the scan has another {name} than the one that the run began with; expected that"
            )
    for name in ("period", "pixel_size_m"):
        if own.attrs.get(name) != header.attrs.get(name):
            raise ScanError(
                f"the scan's {name} is {own.attrs.get(name)}; expected {header.attrs.get(name)}, "
                "as the run began with"
            )
    tiles = tuple(fixed["tiles"])
    return scan if tile_chunks(scan) == tiles else scan.chunk({"frame": tiles, "qy": -1, "qx": -1})
