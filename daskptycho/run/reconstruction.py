"""`daskptycho.reconstruct`: checks the options of a run and carries it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.backend import Device
from daskptycho.cluster.workers import find_workers, limit_threads
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.probe_variation import ProbeVariation
from daskptycho.run.driving import Run
from daskptycho.run.first_probe import guess_probe
from daskptycho.run.following import Follower, stage_settings
from daskptycho.run.growth import Watch
from daskptycho.run.keeper import Keeper, refuse_to_lose_checkpoints
from daskptycho.run.laying_out import choose_setting
from daskptycho.run.loop import Progress
from daskptycho.run.options import GIVEN, Refined, RunOptions, check_options
from daskptycho.run.result import FORMAT
from daskptycho.scan.dataset import frame_numbers, leave_out_frames, take_used, validate_scan
from daskptycho.scan.findings import leave_out_dark_frames, warn_of_positions
from daskptycho.scan.growing import warn_of_growth
from daskptycho.scan.left_out import find_frames
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.storage.store import Location, parse_location, write_atomically
from daskptycho.sync.options import Sync
from daskptycho.tiling import Tiling

__all__ = ["reconstruct"]


def reconstruct(
    scan: xr.Dataset,
    out: str | Path | None = None,
    *,
    sweeps: int = 100,
    algorithm: str | Algorithm | None = None,
    opening: str | Algorithm | None = "raar",
    momentum: float | Literal["nesterov"] | None = None,
    sync: Sync | None = None,
    update_probe: bool = True,
    probe: ArrayLike | None = None,
    modes: int | None = None,
    refine: str | Refined | Sequence[str | Refined] = (),
    start: Literal["ones", "random"] | ArrayLike = "ones",
    seed: int = 0,
    tolerance: float | Literal["auto"] | None = None,
    polish: bool | Literal["auto"] = "auto",
    likelihood: Literal["amplitude", "poisson"] = "amplitude",
    subpixel: bool = True,
    leave_out: ArrayLike = (),
    memory: str | int | None = None,
    device: Device = "cpu",
    checkpoint_every: int | None = None,
    checkpoint_minutes: float | None = 10.0,
    callback: Callable[[Progress], Any] | None = None,
    follow: bool = False,
    overwrite: bool = False,
) -> xr.Dataset:
    """Reconstruct a scan.

    The run uses the Dask scheduler that is in use: threads by default, or a cluster if a
    ``distributed.Client`` is open. The image does not depend on threads or workers, and with ``Sync("full")``
    not on the tiles either.

    Tiles of the scan are joined into larger ones, as long as 16 are left, four for each thread, and memory is
    enough. More than four threads, or less memory, can thus make other tiles.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    out : path or URL, optional
        Where to write the result: a folder, or a URL in a bucket. Either the whole result is written or
        nothing.
    sweeps : int
        Most sweeps to make.
    algorithm : "lbfgs", "ap", "raar", "dm" or `Algorithm`, optional
        L-BFGS (`LBFGS`), alternating projections (`AP`), relaxed averaged alternating reflections (`RAAR`),
        the difference map (`DifferenceMap`), or any object with the interface of `Algorithm`. The default is
        "lbfgs" where the object alone is recovered, and "ap" where the probe is too, something is
        refined or `momentum` is given. L-BFGS needs a model that does not change.
    opening : algorithm or None
        Algorithm in place of `algorithm` at the start: while a random start that is synchronised grows its
        first consistent region; and with L-BFGS for the first 15 sweeps from ones, half of `sweeps` at most,
        with a penalty on differences of neighbouring pixels that fades, unless counting leaves an R2 above
        1e-3. Reflections escape from wrong images in which the other algorithms get stuck. None: `algorithm`
        from the start.
    momentum : float or "nesterov", optional
        Momentum of alternating projections, from 0 (none) to below 1, or Nesterov's sequence. The default is
        "nesterov", and 0 for L-BFGS and for algorithms with a stack, which cannot use momentum.
    sync : Sync, optional
        Options of phase synchronisation; `Sync` with its defaults unless given. ``Sync(method=None)``
        switches it off.
    update_probe : bool
        Whether to recover the probe too. The first guess of the probe may then have any scale.
    probe : (mode, y, x) or (y, x) array, optional
        First guess of the probe, or the probe itself without `update_probe`; that of the scan by default. If
        the scan has none either, `guess_probe` makes one.
    modes : int, optional
        Number of incoherent probe modes; that of the probe by default.
    refine : str, `Positions`, `ProbeVariation`, `Background`, or a sequence of these
        What to refine besides object and probe: ``"positions"``, ``"probe-variation"``, ``"background"``,
        ``"smooth-background"``, a `Positions`, a `ProbeVariation` or a `Background` with options; ``"gain"``,
        the beam's gain at each frame, from that of the scan if it has one. Nothing by default.
    start : "ones", "random" or (y, x) array
        A constant object, random phases in every frame, or an object on the scan's canvas, as a result has
        it. Where frames may move, the canvas has a margin; an object without it is taken too, and begins
        with a constant there.
    seed : int
        Seed of the random start.
    tolerance : float or "auto", optional
        Stop once the residual R2 = ``sum (|Fz| - a)^2 / sum a^2`` falls below this value; with "auto", once
        residual and object have come to rest. The attribute ``ended`` of the result says whether that ended
        the run, or `sweeps`. A polish follows if there is one.
    polish : bool or "auto"
        Whether the last 20 sweeps, a third of `sweeps` at most, take counts to be Poisson's and differences
        of neighbouring pixels to be about as large as those that the object has. It needs L-BFGS. "auto": if
        the scan holds counts, whole numbers, and counting leaves an R2 above 1e-3.
    likelihood : "amplitude" or "poisson"
        What the polish makes small: the misfit of amplitudes, with small counts stabilised, or minus the
        logarithm of the Poisson likelihood, which is better at about one photon a pixel and less. With
        "poisson" there is a polish however many counts there are.
    subpixel : bool
        Whether the sub-pixel parts of positions shift the probe; otherwise positions are rounded.
    leave_out : sequence of int
        Numbers of frames to leave out, as in the scan's `frame_number`, besides those that the scan leaves
        out already.
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
        Called with a `Progress` after each sweep, and with `follow` each time that tiles were taken up too.
        If it returns True, the run stops.
    follow : bool
        Follow a scan while it grows: begin with its first complete tile, take each further one up as it
        appears, and make `sweeps` sweeps after the last frame. It waits for frames as long as the scan has
        not ended (`ScanWriter.close`); a scan that has ended without any is an error. Later tiles begin with
        the image and the probe of then. With `sweeps` after the last frame, the image is as good as that of
        a run that begins then.
        With `start` "ones" only. Of `refine`, a background can be found along; positions, gains and a
        variation of the probe cannot.
    overwrite : bool
        Whether to replace an existing result at `out`, and checkpoints of an earlier run.

    Returns
    -------
    xarray.Dataset
        ``object (y, x)`` complex64, with coordinates in the scan's unit; ``probe (mode, probe_y, probe_x)``
        complex64, in orthogonal modes of decreasing power; ``illumination (y, x)`` float32;
        ``position (frame, axis)``, and if positions are refined, ``position_given`` beside it and for each
        sweep ``position_significance`` and ``position_moved``; ``frame_number (frame)``; ``part (frame)``,
        the part of the scan that a frame belongs to (the phase of one part relative to another is not
        determined); ``frame_used (frame)``, False for the frames that were left out;
        ``frame_residual (frame)``, the R2 of each frame; ``frame_overlap (frame)``, the share of its light on
        pixels that other frames light too; ``background (qy, qx)``, if there is one; ``gain (frame)``, if
        the scan has it or it is refined, with geometric mean 1, and
        in the second case for each sweep ``gain_significance`` and ``gain_changed``; if the probe may vary,
        ``probe_variation (variation, probe_y, probe_x)``, ``probe_weight (frame, variation)`` and for each
        sweep ``variation_significance`` and ``variation_share``;
        and for each ``sweep``: ``residual``, ``disagreement``, ``spread`` (in radians) and ``seconds``, as in
        `Progress`. What belongs to a frame is NaN for those that were left out, and their part is -1.

        Attributes of it are ``expected_residual``, the R2 that counting photons leaves, if the frames hold
        counts; and ``warnings``, if the run has not gone well.

    Warns
    -----
    UserWarning
        The probe was guessed; a frame lies far away from all others, or the scan hardly moves; the
        reconstruction diverged and goes back to an earlier image with smaller steps; or, at the end, some
        frames fit far worse than the others, or R2 is above one, far above what the counts allow, or above
        its own best.

    Raises
    ------
    ScanError
        The scan is impossible, or has ended without a frame to follow; a result or checkpoints exist at
        `out`; or the first guesses have no finite R2.
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
    options = check_options(
        sweeps=sweeps,
        algorithm=algorithm,
        opening=opening,
        momentum=momentum,
        sync=sync,
        update_probe=update_probe,
        refine=refine,
        start=start if isinstance(start, str) else GIVEN,
        seed=seed,
        tolerance=tolerance,
        polish=polish,
        likelihood=likelihood,
        subpixel=subpixel,
        checkpoint_every=checkpoint_every,
        checkpoint_minutes=checkpoint_minutes,
        follow=follow,
    )
    if isinstance(start, str) and start == GIVEN:
        raise OptionError(f"start is {start!r}; expected 'ones', 'random' or an array")
    if out is None and checkpoint_every is not None:
        raise OptionError(f"checkpoint_every is {checkpoint_every} without out; expected a place beside it")
    if callback is not None and not callable(callback):
        raise OptionError(f"callback is {callback!r}; expected a function of a Progress")
    workers = find_workers(memory, device)
    target = None if out is None else parse_location(out)
    if follow:
        options = _check_follow(options, scan, leave_out)
        keeper, watch = Keeper(options, scan, target, device), Watch(scan, options.leave_out)
        choose = stage_settings(options, lambda: find_workers(memory, device), probe=probe, modes=modes)
        follower = Follower(watch, choose, keeper)
        run = Run(follower.lay_out, follower.begin, keeper, follower)
        return _carry_out(run, callback, target, device, overwrite=overwrite)
    if np.size(leave_out):
        scan = leave_out_frames(scan, leave_out)
    validate_scan(scan)
    scan = leave_out_dark_frames(scan)
    warn_of_positions(scan)
    warn_of_growth(scan)
    whole, scan = scan, take_used(scan)
    if probe is None and "probe" not in scan and options.update_probe:
        probe = guess_probe(scan)
    margin = options.margin((scan.sizes["qy"], scan.sizes["qx"]))
    tiling = lay_out_tiles(scan, whole_pixel=not options.subpixel, margin=margin)
    image = None if isinstance(start, str) else _place_image(start, tiling, margin)
    setting = choose_setting(scan, tiling, options, workers, probe=probe, modes=modes, image=image)
    setting = setting.join_tiles()
    run = Run(setting.lay_out, setting.begin, Keeper(options, whole, target, device))
    return _carry_out(run, callback, target, device, overwrite=overwrite)


def _check_follow(options: RunOptions, scan: xr.Dataset, leave_out: ArrayLike) -> RunOptions:
    """The options of a run that follows a scan, with the frames that it leaves out."""
    if options.start != "ones":
        raise OptionError("start with follow; expected 'ones': later tiles start from the image so far")
    # Modes of a varying probe are shared, but each frame has its own weights of them.
    own = [one.name for one in options.refine if one.per_frame or isinstance(one, ProbeVariation)]
    if own:
        raise OptionError(
            f"{' and '.join(own)} refined with follow, while frames are still to come; expected nothing that "
            "each frame has of its own: follow the scan without, and refine in a run over the whole of it"
        )
    numbers = frame_numbers(scan)[find_frames(frame_numbers(scan), leave_out)]
    return replace(options, leave_out=tuple(int(number) for number in numbers))


def _carry_out(
    run: Run,
    callback: Callable[[Progress], Any] | None,
    target: Location | None,
    device: Device,
    *,
    overwrite: bool,
) -> xr.Dataset:
    """Carry a run out, and write its result to the target if there is one."""
    if target is None:
        with limit_threads(device):
            return run.carry_out(callback, None)
    if not overwrite:
        refuse_to_lose_checkpoints(target, device)
    # The target is opened now, so that an error comes before hours of work rather than after.
    with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store, limit_threads(device):
        return run.carry_out(callback, store)


def _place_image(start: ArrayLike, tiling: Tiling, margin: int) -> NDArray:
    """The object to begin with on the whole canvas, whether or not it has the margin."""
    image = np.asarray(start)
    if not np.isfinite(image).all():
        raise OptionError("start holds NaN or infinity; expected an object")
    if image.shape == tiling.window.shape:
        return image
    lit = tiling.window.grow(-margin) if tiling.period is None else tiling.window
    if image.shape != lit.shape:
        wide = "" if lit == tiling.window else f" (or with its margin, {tiling.window.shape})"
        raise OptionError(f"start has shape {image.shape}; expected the canvas's, {lit.shape}{wide}")
    # Nothing is known of the margin: a constant, with the mean phase of the object.
    total = image.sum(dtype=np.complex128)
    constant = total / abs(total) if total else 1.0
    return np.pad(image.astype(np.complex64), margin, constant_values=constant)
