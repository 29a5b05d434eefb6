"""`daskptycho.reconstruct`: options checked, and a run carried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.backend import Device
from daskptycho.cluster.workers import find_workers, limit_threads
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import Algorithm, parse_algorithm
from daskptycho.run.driving import Run
from daskptycho.run.keeper import Keeper, refuse_to_lose_checkpoints
from daskptycho.run.laying_out import choose_setting
from daskptycho.run.loop import Progress
from daskptycho.run.options import GIVEN, RunOptions, require_positive, require_whole, resolve_momentum
from daskptycho.run.result import FORMAT
from daskptycho.scan.dataset import validate_scan
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.storage.store import parse_location, write_atomically
from daskptycho.sync.options import Sync
from daskptycho.tiling import Tiling

__all__ = ["reconstruct"]


def reconstruct(
    scan: xr.Dataset,
    out: str | Path | None = None,
    *,
    sweeps: int = 100,
    algorithm: str | Algorithm = "ap",
    opening: str | Algorithm | None = "raar",
    momentum: float | Literal["nesterov"] | None = None,
    sync: Sync | None = None,
    update_probe: bool = True,
    probe: ArrayLike | None = None,
    modes: int | None = None,
    start: Literal["ones", "random"] | ArrayLike = "ones",
    seed: int = 0,
    tolerance: float | None = None,
    subpixel: bool = True,
    memory: str | int | None = None,
    device: Device = "cpu",
    checkpoint_every: int | None = None,
    checkpoint_minutes: float | None = 10.0,
    callback: Callable[[Progress], Any] | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Reconstruct a scan.

    Runs on whatever Dask scheduler is in use: threads by default, a cluster where a
    ``distributed.Client`` is open. The image does not depend on threads or workers, and with
    ``Sync("full")`` not on the tiles either.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    out : path or URL, optional
        Write the result there, whole or not at all: into a folder, or a place in a bucket.
    sweeps : int
        Most sweeps to make.
    algorithm : "ap", "raar", "dm", or `AP`, `RAAR`, `DifferenceMap`
        Alternating projections, relaxed averaged alternating reflections, difference map.
    opening : algorithm or None
        In place of `algorithm` while a random start that is synchronised grows its first consistent
        region: reflections leave the wrong images there that momentum settles into.
    momentum : float or "nesterov", optional
        Of alternating projections; Nesterov's sequence unless given, 0 for none.
    sync : Sync, optional
        Phase synchronisation; the default follows the spread of the phases. ``Sync(method=None)``
        switches it off.
    update_probe : bool
        Recover the probe too. The scan's probe is then a first guess of any scale.
    probe : (mode, y, x) or (y, x) array, optional
        In place of the scan's.
    modes : int, optional
        Incoherent probe modes; as many as the probe has unless given.
    start : "ones", "random" or (y, x) array
        A constant object; random phases in every frame; an object on the scan's canvas.
    seed : int
        Of the random start.
    tolerance : float, optional
        Stop once the residual falls below.
    subpixel : bool
        Carry the fractions of the positions by shifting the probe; otherwise round them.
    memory : int or str, optional
        That each worker may take, as ``16 * 2**30`` or "16 GiB"; what Dask gives it unless given. Where waves
        that wait for a new probe do not fit, they are computed twice; where the amplitudes do not, each sweep
        reads them from the scan anew; where the images do not fit either, they lie on disk from task to
        task, in Dask's ``temporary-directory`` or a worker's own folder. Of the GPU with ``device="gpu"``.
    device : "cpu" or "gpu"
        Where the arrays of a run live: in memory, or on a GPU through CuPy, from the frames to the image.
        A cluster's workers need one GPU each; without a cluster the run takes the current one.
    checkpoint_every : int, optional
        Keep where the run stands after every so many sweeps, beside `out`, from where `resume` goes on.
    checkpoint_minutes : float or None
        Likewise where so many minutes have gone by since the last one. With both, whatever is due
        first; with both None, and without `out`, nothing is kept.
    callback : callable, optional
        Called with a `Progress` after each sweep; returning True stops the run.
    overwrite : bool
        Replace what lies at `out`.

    Returns
    -------
    xarray.Dataset
        ``object (y, x)`` complex64 with coordinates in the scan's unit, ``probe (mode, probe_y,
        probe_x)``, ``illumination (y, x)``, ``position (frame, axis)``, ``frame_number (frame)``, and
        along ``sweep``: ``residual``, ``consensus``, ``spread``, ``seconds``.

    Raises
    ------
    ScanError
        The scan cannot be right.
    StoreError
        `out` does not answer for longer than a minute, or denies access, before the first frames are read or
        when the result is written; in between it is a `FaultError`.
    OptionError
        Options that make no sense, alone or together, a run that does not fit into memory, or no GPU to
        run on.
    FaultError
        What the run depends on failed it: workers that stay away or run out of memory, the scheduler, or the
        store of the scan or of the checkpoints, from the first reading of frames on. Its notes say how to go
        on. Workers that die are no such fault: what they had is computed anew, from the last checkpoint at
        most, and the callback sees these sweeps again.
    """
    options = RunOptions(
        sweeps=require_whole("sweeps", sweeps, least=1),
        algorithm=parse_algorithm(algorithm),
        opening=None if opening is None else parse_algorithm(opening),
        momentum=resolve_momentum(momentum, parse_algorithm(algorithm)),
        sync=Sync() if sync is None else sync,
        update_probe=bool(update_probe),
        start=start if isinstance(start, str) else GIVEN,
        seed=require_whole("seed", seed, least=0),
        tolerance=None if tolerance is None else require_positive("tolerance", tolerance),
        subpixel=bool(subpixel),
        checkpoint_every=None
        if checkpoint_every is None
        else require_whole("checkpoint_every", checkpoint_every, least=1),
        checkpoint_minutes=None
        if checkpoint_minutes is None
        else require_positive("checkpoint_minutes", checkpoint_minutes),
    )
    if isinstance(start, str) and start == GIVEN:
        raise OptionError(f"start is {start!r}; expected 'ones', 'random' or an array")
    if out is None and checkpoint_every is not None:
        raise OptionError(f"checkpoint_every is {checkpoint_every} without out; expected a place beside it")
    if callback is not None and not callable(callback):
        raise OptionError(f"callback is {callback!r}; expected a function of a Progress")
    workers = find_workers(memory, device)
    validate_scan(scan)
    tiling = lay_out_tiles(scan, whole_pixel=not options.subpixel)
    image = None if isinstance(start, str) else _check_image(start, tiling)
    setting = choose_setting(scan, tiling, options, workers, probe=probe, modes=modes, image=image)
    target = None if out is None else parse_location(out)
    run = Run(setting.lay_out, setting.begin, Keeper(options, scan, target, device))
    if target is None:
        with limit_threads(device):
            return run.carry_out(callback, None)
    if not overwrite:
        refuse_to_lose_checkpoints(target, device)
    # The target is claimed now: a refusal comes before hours of work rather than after.
    with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store, limit_threads(device):
        return run.carry_out(callback, store)


def _check_image(start: ArrayLike, tiling: Tiling) -> NDArray:
    image = np.asarray(start)
    if image.shape != tiling.window.shape:
        raise OptionError(f"start has shape {image.shape}; expected the canvas's, {tiling.window.shape}")
    if not np.isfinite(image).all():
        raise OptionError("start holds NaN or infinity; expected an object")
    return image
