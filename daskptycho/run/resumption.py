"""`daskptycho.resume`: continues a run that was interrupted, or a finished run with more sweeps."""

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
from daskptycho.run.checkpoint import Checkpoints, make_header, per_frame_names, read_tiling
from daskptycho.run.driving import Run
from daskptycho.run.following import Follower, stage_settings
from daskptycho.run.growth import Watch
from daskptycho.run.history import open_checkpoint_store
from daskptycho.run.keeper import Keeper
from daskptycho.run.laying_out import choose_setting
from daskptycho.run.loop import Loop, Progress
from daskptycho.run.options import require_whole
from daskptycho.run.result import FORMAT
from daskptycho.scan.dataset import open_scan, take_used, validate_scan
from daskptycho.storage.store import parse_location, write_atomically
from daskptycho.tasks.frames import SAME_COUNTS

__all__ = ["resume"]


def resume(
    out: str | Path,
    *,
    scan: xr.Dataset | None = None,
    sweeps: int | None = None,
    memory: str | int | None = None,
    device: Device = "cpu",
    callback: Callable[[Progress], Any] | None = None,
) -> xr.Dataset:
    """Continue a run from its last checkpoint, to the same result as without an interruption.

    Options that are not parameters here are those of the run.

    Parameters
    ----------
    out : path or URL
        The location of the run's result, as given to `reconstruct`. An existing result is replaced once the
        new one is complete.
    scan : xarray.Dataset, optional
        The scan of the run; opened from its location by default. It must be given if it was in memory.
    sweeps : int, optional
        Most sweeps to make, those done included; that of the run by default.
    memory : int or str, optional
        See `reconstruct`.
    device : "cpu" or "gpu"
        See `reconstruct`; it may be another than before.
    callback : callable, optional
        See `reconstruct`.

    Returns
    -------
    xarray.Dataset
        See `reconstruct`; the history begins with the first sweep of the run.

    Raises
    ------
    ScanError
        There is no checkpoint, or `scan` is not the scan of the run; see also `reconstruct`.
    StoreError
        As for `reconstruct`.
    OptionError
        `sweeps` is less than the number of sweeps done, the run does not fit into memory, no GPU can be used,
        or the algorithm is a user's own class that can no longer be imported.
    FaultError
        As for `reconstruct`.
    """
    workers = find_workers(memory, device)
    target = parse_location(out)
    if callback is not None and not callable(callback):
        raise OptionError(f"callback is {callback!r}; expected a function of a Progress")
    store = open_checkpoint_store(target)
    snapshot = store.list_snapshots()[-1]
    fixed, header = store.read_constants(), store.read_header()
    checkpoints = Checkpoints(store, read_tiling(header, fixed), device)
    options = checkpoints.options(snapshot.id)
    stage = int(store.read_attributes(snapshot.id).get("stage", 0))
    if sweeps is not None:
        options = replace(options, sweeps=require_whole("sweeps", sweeps, least=1))
        if options.sweeps < snapshot.sweep - stage:
            raise OptionError(f"sweeps is {sweeps} and {snapshot.sweep} are done already; expected more")
    if options.follow and not fixed["ended"]:
        opened = open_scan(header.attrs["opened_from"])
        # The frames and positions of the checkpoint; more of them may have come since.
        then = opened.assign(frame_used=header["frame_used"], position=header["position"])
        then.encoding = dict(opened.encoding)
        keeper = Keeper(options, then, target, device, checkpoints, snapshot)
        probe = None if "probe" in opened else np.ones(fixed["frame_shape"])
        choose = stage_settings(
            options, lambda: find_workers(memory, device), probe=probe, modes=fixed["modes"]
        )
        follower = Follower(Watch(opened, options.leave_out), choose, keeper)
        with write_atomically(target, kind=FORMAT, overwrite=True) as writable, limit_threads(device):
            return Run(follower.lay_out, None, keeper, follower).carry_out(callback, writable)
    scan = _check_scan(scan, header, fixed)
    # The checkpoint has the probe of the run, whatever it began with.
    probe = None if "probe" in scan else np.ones(fixed["frame_shape"])
    setting = choose_setting(
        take_used(scan), checkpoints.tiling, options, workers, probe=probe, modes=fixed["modes"]
    )

    def lay_out() -> Loop:
        loop = setting.lay_out()
        if not np.isclose(loop.counts, fixed["counts"], rtol=SAME_COUNTS, atol=0):
            raise ScanError(
                f"the scan's counts add up to {loop.counts:.9g}; expected {fixed['counts']:.9g}, "
                "those of the scan that the run began with"
            )
        return replace(loop, counts=fixed["counts"])

    keeper = Keeper(options, scan, target, device, checkpoints, snapshot)
    with write_atomically(target, kind=FORMAT, overwrite=True) as writable, limit_threads(device):
        return Run(lay_out, None, keeper).carry_out(callback, writable)


def _check_scan(scan: xr.Dataset | None, header: xr.Dataset, fixed: dict[str, Any]) -> xr.Dataset:
    """The scan of the run, with the frames that it left out; an error if it is another scan."""
    of_frames = per_frame_names()
    if scan is None:
        source = header.attrs.get("opened_from")
        if source is None:
            raise ScanError("the run's scan was in memory; expected it as the option scan")
        scan = open_scan(source)
        # What the run's scan had beside its store.
        scan = scan.assign({own: header[own] for own in of_frames if own in header and own not in scan})
    else:
        validate_scan(scan)
    found = make_header(scan)
    frame_shape = (scan.sizes["qy"], scan.sizes["qx"])
    if frame_shape != tuple(fixed["frame_shape"]) or len(found["position"]) != len(header["position"]):
        frames = "{} frames of {} x {} pixels"
        raise ScanError(
            f"the scan has {frames.format(len(found['position']), *frame_shape)}; expected "
            f"{frames.format(len(header['position']), *fixed['frame_shape'])}, as the run began with"
        )
    for name in ("position", "frame_number", *of_frames):
        _check_variable(name, found.get(name), header.get(name))
    for name in ("period", "pixel_size_m"):
        if found.attrs.get(name) != header.attrs.get(name):
            raise ScanError(
                f"the scan's {name} is {found.attrs.get(name)}; expected {header.attrs.get(name)}, "
                "as the run began with"
            )
    return scan.assign(frame_used=header["frame_used"]) if "frame_used" in header else scan


def _check_variable(name: str, found: xr.DataArray | None, expected: xr.DataArray | None) -> None:
    """Refuse a variable of the scan that is not the one that the run began with."""
    if found is None and expected is None:
        return
    if found is None or expected is None:
        said = f"no {name}; expected the one" if found is None else f"a {name}; expected none, as in the one"
        raise ScanError(f"the scan has {said} that the run began with")
    # A frame that is left out may have no position.
    same = np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    if not same or found.attrs != expected.attrs:
        raise ScanError(f"the scan has another {name} than the one that the run began with; expected that")
