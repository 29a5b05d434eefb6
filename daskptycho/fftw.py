"""FFTW's two-dimensional transforms in place. Called only by ``backend``.

PyFFTW's own functions in the style of SciPy put every result into fresh memory. That would take as long as
the transform on Dask's workers, whose allocator returns memory to the system as soon as it is freed.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Literal

import numpy as np
import pyfftw

__all__ = ["fft2", "ifft2"]

Array = Any
Norm = Literal["backward", "ortho", "forward"]

# Bytes to which FFTW's vector instructions need memory aligned. New NumPy arrays are; views may not be.
ALIGNMENT = 16
PRECISIONS = (np.dtype(np.complex64), np.dtype(np.complex128))
# Plans that a thread keeps. With equal blocks of frames a run needs eight: two shapes, which may be aligned,
# in two directions.
MOST_PLANS = 16
# FFTW cannot make two plans at once.
_planner_lock = threading.Lock()
_thread_plans = threading.local()
# The power of ``1 / pixels`` by which each direction is multiplied.
FORWARD: dict[Norm, float] = {"backward": 0.0, "ortho": 0.5, "forward": 1.0}
BACKWARD: dict[Norm, float] = {"backward": 1.0, "ortho": 0.5, "forward": 0.0}


def fft2(wave: Array, norm: Norm = "backward", *, overwrite_x: bool = False) -> Array:
    """``scipy.fft.fft2`` over the last two axes; with `overwrite_x`, the result overwrites `wave`."""
    return _transform_in_place(wave, "FFTW_FORWARD", FORWARD[norm], overwrite_x)


def ifft2(wave: Array, norm: Norm = "backward", *, overwrite_x: bool = False) -> Array:
    """``scipy.fft.ifft2`` over the last two axes; with `overwrite_x`, the result overwrites `wave`."""
    return _transform_in_place(wave, "FFTW_BACKWARD", BACKWARD[norm], overwrite_x)


def _transform_in_place(wave: Array, direction: str, share: float, overwrite: bool) -> Array:
    if not (overwrite and wave.dtype in PRECISIONS and wave.flags.c_contiguous):
        wave = np.array(wave, dtype=np.result_type(wave, np.complex64), order="C")
    plan, memory = _recall_plan(wave, direction)
    plan.update_arrays(wave, wave)
    plan.execute()
    # Otherwise the plan would keep a reference to the waves.
    plan.update_arrays(memory, memory)
    if share:
        wave *= math.prod(wave.shape[-2:]) ** -share
    return wave


def _recall_plan(wave: Array, direction: str) -> tuple[Any, Array]:
    """A plan of this thread for such waves, made or recalled, and the memory that it was made with."""
    # A plan holds the memory that it works on, so that threads cannot share one.
    plans: dict[Any, tuple[Any, Array]] = _thread_plans.__dict__
    of = wave.shape, wave.dtype.char, direction, pyfftw.is_byte_aligned(wave, n=ALIGNMENT)
    if of not in plans:
        if len(plans) >= MOST_PLANS:
            # The first is the one made longest ago.
            del plans[next(iter(plans))]
        plans[of] = _make_plan(wave.shape, wave.dtype, direction, of[-1])
    return plans[of]


def _make_plan(
    shape: tuple[int, ...], dtype: np.dtype[Any], direction: str, aligned: bool
) -> tuple[Any, Array]:
    memory = pyfftw.empty_aligned(shape, dtype, n=ALIGNMENT)
    # Not measured: the fastest plan changes from run to run, and with it the rounding of results.
    flags = ("FFTW_ESTIMATE",) if aligned else ("FFTW_ESTIMATE", "FFTW_UNALIGNED")
    with _planner_lock:
        plan = pyfftw.FFTW(memory, memory, axes=(-2, -1), direction=direction, flags=flags, threads=1)
    return plan, memory
