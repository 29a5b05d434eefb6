"""The run: options checked, a plan made, sweeps driven, history kept, the result as an xarray.Dataset.

The faces call this module, users as ``daskptycho.reconstruct``; it calls `graph` and its parts, `scan`
and `result`. The loop sees scalars alone: images, frames and probes stay where Dask keeps them.
"""

from __future__ import annotations

import numbers
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import dask.base
import numpy as np
import xarray as xr
from dask.delayed import Delayed
from numpy.typing import ArrayLike, NDArray

from daskptycho.algorithms import Algorithm, algorithm_named, next_momentum
from daskptycho.backend import to_host
from daskptycho.errors import OptionError, ScanError
from daskptycho.folder import complete_or_absent, local_path
from daskptycho.geometry import Tiling, make_tiling
from daskptycho.graph import Report, State, sweep
from daskptycho.plan import Plan, make_plan, total_counts
from daskptycho.probe import initial_probe, orthogonal_modes
from daskptycho.resources import Recipe, Workers, needs_of, workers_in_use
from daskptycho.result import FORMAT, assemble, result_dataset, write_result
from daskptycho.scan import frame_numbers, position_in_pixels, scan_period, tile_chunks, validate_scan
from daskptycho.start import random_start, uniform_start
from daskptycho.synchronise import Cadence, Sync
from daskptycho.tasks import persisted, place, task

__all__ = ["Progress", "reconstruct"]

# What the options of a run call a start from an array.
GIVEN = "given"

# Sweeps before the probe begins to follow: the object's first guess would spoil a fair probe.
PROBE_WAIT = 1


@dataclass
class Progress:
    """What a callback sees after each sweep.

    Attributes
    ----------
    sweep : int
        Sweeps done.
    residual : float
        R2 = sum (|Fz| - a)^2 / sum a^2 of the waves that the sweep began with.
    consensus : float
        1 - lambda; NaN where the sweep did not synchronise.
    spread : float
        Root mean square of the phases found, radians; NaN likewise.
    seconds : float
        Time of this sweep.
    """

    sweep: int
    residual: float
    consensus: float
    spread: float
    seconds: float
    _tiling: Tiling = field(repr=False)
    _state: State | None = field(repr=False)

    def object(self) -> NDArray[np.complex64]:
        """The current image on the whole canvas, (y, x), computed now."""
        return assemble(self._tiling, self._current().images)

    def probe(self) -> NDArray[np.complex64]:
        """The current probe in orthogonal modes of falling power, (mode, y, x)."""
        return orthogonal_modes(to_host(dask.base.compute(self._current().probe)[0]))

    def _current(self) -> State:
        if self._state is None:
            raise RuntimeError(f"the image of sweep {self.sweep} is gone; ask for it inside the callback")
        return self._state


@dataclass(frozen=True)
class _Run:
    """The options of a run, checked."""

    sweeps: int
    algorithm: Algorithm
    opening: Algorithm | None
    momentum: float | Literal["nesterov"]
    sync: Sync
    update_probe: bool
    start: str
    seed: int
    tolerance: float | None
    subpixel: bool

    def __post_init__(self) -> None:
        if not isinstance(self.sync, Sync):
            raise OptionError(f"sync is {self.sync!r}; expected a Sync, as Sync(method=None) for none")
        if self.start not in ("ones", "random", GIVEN):
            raise OptionError(f"start is {self.start!r}; expected 'ones', 'random' or an array")

    @property
    def has_stack(self) -> bool:
        """Whether a sweep of the run leaves a stack of frames to the next."""
        opens = self.opening is not None and self.start == "random" and self.sync.method is not None
        return self.algorithm.has_stack or (opens and self.opening is not None and self.opening.has_stack)

    def described(self) -> dict[str, Any]:
        """For the attributes of a result: names and plain values."""
        opening = None if self.opening is None else self.opening.name
        options = asdict(self) | {
            "algorithm": self.algorithm.name,
            "opening": opening,
            **asdict(self.algorithm),
        }
        return {name: value for name, value in options.items() if value is not None}


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
    out : path, optional
        Write the result there, whole or not at all.
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
        That each worker may take, as 16 * 2**30 or "16 GiB"; what Dask gives it unless given. Where the
        amplitudes do not fit, each sweep reads them from the scan anew.
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
    OptionError
        Options that make no sense, alone or together, or a run that does not fit into memory.
    """
    run = _Run(
        sweeps=_whole("sweeps", sweeps, least=1),
        algorithm=algorithm_named(algorithm),
        opening=None if opening is None else algorithm_named(opening),
        momentum=_checked_momentum(momentum, algorithm_named(algorithm)),
        sync=Sync() if sync is None else sync,
        update_probe=bool(update_probe),
        start=start if isinstance(start, str) else GIVEN,
        seed=_whole("seed", seed, least=0),
        tolerance=None if tolerance is None else _positive("tolerance", tolerance),
        subpixel=bool(subpixel),
    )
    if isinstance(start, str) and start == GIVEN:
        raise OptionError(f"start is {start!r}; expected 'ones', 'random' or an array")
    if callback is not None and not callable(callback):
        raise OptionError(f"callback is {callback!r}; expected a function of a Progress")
    workers = workers_in_use(memory)
    validate_scan(scan)
    if out is None:
        return _reconstruct(scan, run, workers, probe, modes, start, callback)
    # The target is claimed now: a refusal comes before hours of work rather than after.
    with complete_or_absent(local_path(out), kind=FORMAT, overwrite=overwrite) as folder:
        result = _reconstruct(scan, run, workers, probe, modes, start, callback)
        write_result(result, folder)
    return result


def _reconstruct(
    scan: xr.Dataset,
    run: _Run,
    workers: Workers,
    probe: ArrayLike | None,
    modes: int | None,
    start: str | ArrayLike,
    callback: Callable[[Progress], Any] | None,
) -> xr.Dataset:
    tiling = make_tiling(
        position_in_pixels(scan),
        (scan.sizes["qy"], scan.sizes["qx"]),
        tile_chunks(scan),
        period=scan_period(scan),
        whole_pixel=not run.subpixel,
    )
    first_probe = initial_probe(scan, probe, modes)
    image = None if isinstance(start, str) else _start_image(start, tiling)
    needs = needs_of(
        scan,
        tiling,
        workers,
        Recipe(
            modes=len(first_probe),
            method=run.sync.method,
            has_stack=run.has_stack,
            momentum=run.momentum != 0,
            update_probe=run.update_probe,
        ),
    )
    plan = persisted(make_plan(scan, tiling, run.sync.method, streamed=needs.streamed))
    counts = sum(dask.base.compute([task(total_counts, of_tile) for of_tile in plan.amplitudes])[0])
    if not counts > 0 or not np.isfinite(counts):
        found = "no counts at all" if counts == 0 else "NaN, infinity or negative counts"
        raise ScanError(f"intensity holds {found}; expected diffraction frames")
    if run.update_probe:
        # The scale of a probe that is to be recovered means nothing: the frames tell it.
        first_probe *= np.float32(np.sqrt(counts / len(tiling.corner)) / np.linalg.norm(first_probe))
    numbers = frame_numbers(scan)
    state, history = _sweeps(run, plan, place(first_probe), image, numbers, counts, callback)
    return result_dataset(scan, tiling, state, history, run.described())


def _start_image(start: ArrayLike, tiling: Tiling) -> NDArray:
    image = np.asarray(start)
    if image.shape != tiling.window.shape:
        raise OptionError(f"start has shape {image.shape}; expected the canvas's, {tiling.window.shape}")
    if not np.isfinite(image).all():
        raise OptionError("start holds NaN or infinity; expected an object")
    return image


def _checked_momentum(momentum: Any, algorithm: Algorithm) -> float | Literal["nesterov"]:
    if momentum is None:
        return 0.0 if algorithm.has_stack else "nesterov"
    if momentum != "nesterov" and not (isinstance(momentum, numbers.Real) and 0 <= float(momentum) < 1):
        raise OptionError(f"momentum is {momentum!r}; expected 'nesterov' or a number from 0 to below 1")
    if algorithm.has_stack and momentum != 0:
        raise OptionError(f"momentum is {momentum!r} with {algorithm.name}; only ap takes a momentum")
    return "nesterov" if momentum == "nesterov" else float(momentum)


def _whole(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise OptionError(f"{name} is {value!r}; expected a whole number, {least} or more")
    return int(value)


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise OptionError(f"{name} is {value!r}; expected above 0")
    return float(value)


def _sweeps(
    run: _Run,
    plan: Plan,
    probe: Delayed,
    image: NDArray | None,
    numbers: NDArray,
    counts: float,
    callback: Callable[[Progress], Any] | None,
) -> tuple[State, list[Progress]]:
    """Drive the sweeps; return the last state and what was noted after each sweep."""
    cadence = Cadence(run.sync, growing=run.start == "random" and run.sync.method is not None)
    if run.start == "random":
        of_tiles = [numbers[tile.frames] for tile in plan.tiling.tiles]
        state, first = persisted(
            random_start(plan, probe, of_tiles, run.seed, run.sync, cadence.normalisation)
        )
        if run.sync.method is not None:
            start_found: Report = dask.base.compute(first)[0]
            cadence.swept(1.0, start_found.spread, start_found.localisation)
    else:
        state = persisted(uniform_start(plan, probe, image))
    history: list[Progress] = []
    step: float | None = None
    residual = np.inf
    for number in range(1, run.sweeps + 1):
        begun = time.perf_counter()
        rising = bool(history) and history[-1].residual > residual
        residual = history[-1].residual if history else np.inf
        opening = run.opening if cadence.growing else None
        momentum = 0.0 if run.momentum == "nesterov" or opening else float(run.momentum)
        if run.momentum == "nesterov" and history and opening is None:
            step, momentum = next_momentum(step, rising)
        state, report = persisted(
            sweep(
                plan,
                state,
                opening or run.algorithm,
                counts=counts,
                sync=run.sync,
                normalisation=cadence.normalisation if cadence.due() else None,
                momentum=momentum,
                update_probe=run.update_probe and number > PROBE_WAIT,
            )
        )
        found: Report = dask.base.compute(report)[0]
        if not np.isfinite(found.misfit):
            raise ScanError(
                f"the residual of sweep {number} is not finite: the reconstruction diverged; "
                "check positions and probe, or try a smaller momentum"
            )
        cadence.swept(found.misfit / counts, found.spread, found.localisation)
        history.append(
            Progress(
                number,
                found.misfit / counts,
                found.consensus,
                found.spread,
                time.perf_counter() - begun,
                plan.tiling,
                state,
            )
        )
        if len(history) > 1:
            # An older state is nobody's any more: let go of its images.
            history[-2]._state = None
        if (callback is not None and callback(history[-1])) or (
            run.tolerance is not None and history[-1].residual < run.tolerance
        ):
            break
    return state, history
