"""`daskptycho.reconstruct`: checks the options of a run and carries it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.backend import Device
from daskptycho.cluster.workers import find_workers, limit_threads
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import Algorithm, parse_algorithm
from daskptycho.model.positions import Positions
from daskptycho.run.driving import Run
from daskptycho.run.keeper import Keeper, refuse_to_lose_checkpoints
from daskptycho.run.laying_out import choose_setting
from daskptycho.run.loop import Progress
from daskptycho.run.options import (
    GIVEN,
    RunOptions,
    parse_refine,
    require_positive,
    require_whole,
    resolve_momentum,
)
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
    refine: str | Positions | Sequence[str | Positions] = (),
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

    The run uses the Dask scheduler that is in use: threads by default, or a cluster if a
    ``distributed.Client`` is open. The image does not depend on threads or workers, and with ``Sync("full")``
    not on the tiles either.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    out : path or URL, optional
        Where to write the result: a folder, or a URL in a bucket. Either the whole result is written or
        nothing.
    sweeps : int
        Most sweeps to make.
    algorithm : "ap", "raar", "dm" or `Algorithm`
        Alternating projections (`AP`), relaxed averaged alternating reflections (`RAAR`), the difference map
        (`DifferenceMap`), or any object with the interface of `Algorithm`.
    opening : algorithm or None
        Algorithm in place of `algorithm` while a random start that is synchronised grows its first consistent
        region. Reflections escape from wrong images in which alternating projections with momentum get stuck.
        None: `algorithm` from the start.
    momentum : float or "nesterov", optional
        Momentum of alternating projections, from 0 (none) to below 1, or Nesterov's sequence. The default is
        "nesterov", and 0 for algorithms with a stack, which cannot use momentum.
    sync : Sync, optional
        Options of phase synchronisation; `Sync` with its defaults unless given. ``Sync(method=None)``
        switches it off.
    update_probe : bool
        Whether to recover the probe too. The first guess of the probe may then have any scale.
    probe : (mode, y, x) or (y, x) array, optional
        First guess of the probe, or the probe itself without `update_probe`; that of the scan by default.
    modes : int, optional
        Number of incoherent probe modes; that of the probe by default.
    refine : str, `Positions`, or a sequence of these
        What to refine besides object and probe: ``"positions"``, or a `Positions` with options. Nothing by
        default.
    start : "ones", "random" or (y, x) array
        A constant object, random phases in every frame, or an object on the scan's canvas.
    seed : int
        Seed of the random start.
    tolerance : float, optional
        Stop once the residual R2 = ``sum (|Fz| - a)^2 / sum a^2`` falls below this value.
    subpixel : bool
        Whether the sub-pixel parts of positions shift the probe; otherwise positions are rounded.
    memory : int or str, optional
        Memory limit of each worker, for example ``16 * 2**30`` or "16 GiB"; Dask's limit by default. With
        ``device="gpu"`` it is that of the GPU's memory. If waves that wait for the update of the probe do not
        fit, they are computed twice. If amplitudes do not fit, each sweep reads them from the scan's store.
        If images do not fit either, they are kept on disk between tasks, in a worker's own folder or in
        Dask's ``temporary-directory`` (only with ``device="cpu"``).
    device : "cpu" or "gpu"
        Where all arrays of the run are: in host memory, or through CuPy on a GPU. Each worker of a cluster
        needs a GPU. Without a cluster the run uses the current GPU.
    checkpoint_every : int, optional
        Write a checkpoint beside `out` after every `checkpoint_every` sweeps, from which `resume` can
        continue.
    checkpoint_minutes : float or None
        Write a checkpoint after a sweep if the last one is at least this number of minutes old. With both
        options a checkpoint is written as soon as either is due. With both None, or without `out`, no
        checkpoints are kept.
    callback : callable, optional
        Called with a `Progress` after each sweep. If it returns True, the run stops.
    overwrite : bool
        Whether to replace an existing result at `out`, and checkpoints of an earlier run.

    Returns
    -------
    xarray.Dataset
        ``object (y, x)`` complex64, with coordinates in the scan's unit; ``probe (mode, probe_y, probe_x)``
        complex64, in orthogonal modes of decreasing power; ``illumination (y, x)`` float32;
        ``position (frame, axis)``, with ``position_given`` beside it if positions are refined;
        ``frame_number (frame)``; ``gain (frame)``, if the scan has it, with
        geometric mean 1; and for each ``sweep``: ``residual``, ``disagreement``, ``spread`` (in radians) and
        ``seconds``, as in `Progress`.

    Raises
    ------
    ScanError
        The scan is impossible, a result or checkpoints exist at `out`, or the reconstruction diverged.
    StoreError
        `out` denies access or does not answer for longer than a minute, before the first frames are read or
        when the result is written. In between this is a `FaultError`.
    OptionError
        Options are impossible, alone or together, the run does not fit into memory, or no GPU can be used.
    FaultError
        Something that the run depends on failed after the first frames were read: workers that do not return
        or run out of memory, the scheduler, or the store of the scan or of the checkpoints. Its notes say how
        to resume. The loss of workers alone is not an error: their results are computed again, in the worst
        case from the last checkpoint, and the callback is called again for these sweeps.
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
        refine=parse_refine(refine, update_probe=bool(update_probe)),
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
    margin = options.margin((scan.sizes["qy"], scan.sizes["qx"]))
    tiling = lay_out_tiles(scan, whole_pixel=not options.subpixel, margin=margin)
    image = None if isinstance(start, str) else _check_image(start, tiling)
    setting = choose_setting(scan, tiling, options, workers, probe=probe, modes=modes, image=image)
    target = None if out is None else parse_location(out)
    run = Run(setting.lay_out, setting.begin, Keeper(options, scan, target, device))
    if target is None:
        with limit_threads(device):
            return run.carry_out(callback, None)
    if not overwrite:
        refuse_to_lose_checkpoints(target, device)
    # The target is opened now, so that an error comes before hours of work rather than after.
    with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store, limit_threads(device):
        return run.carry_out(callback, store)


def _check_image(start: ArrayLike, tiling: Tiling) -> NDArray:
    image = np.asarray(start)
    if image.shape != tiling.window.shape:
        raise OptionError(f"start has shape {image.shape}; expected the canvas's, {tiling.window.shape}")
    if not np.isfinite(image).all():
        raise OptionError("start holds NaN or infinity; expected an object")
    return image
