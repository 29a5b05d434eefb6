"""FFTW's two-dimensional transforms, in the memory of the waves themselves. Called by ``backend`` alone.

PyFFTW has functions like SciPy's, but they put every result into memory of its own, whose fresh pages cost as
much as the transform where an allocator gives memory back at once, as Dask has it do on its workers.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any, Literal

import numpy as np
import pyfftw

__all__ = ["fft2", "ifft2"]

Array = Any
Norm = Literal["backward", "ortho", "forward"]

# Bytes that FFTW's vector instructions want memory aligned to. NumPy's is; a part of an array may not be.
ALIGNMENT = 16
# FFTW plans one at a time.
_planning = threading.Lock()
_of_thread = threading.local()
# How much of ``1 / pixels`` each way carries, as an exponent.
FORWARD: dict[Norm, float] = {"backward": 0.0, "ortho": 0.5, "forward": 1.0}
BACKWARD: dict[Norm, float] = {"backward": 1.0, "ortho": 0.5, "forward": 0.0}


def fft2(wave: Array, norm: Norm = "backward", *, overwrite_x: bool = False) -> Array:
    """``scipy.fft.fft2`` over the last two axes; with `overwrite_x` the result lies where `wave` was."""
    return _transformed(wave, "FFTW_FORWARD", FORWARD[norm], overwrite_x)


def ifft2(wave: Array, norm: Norm = "backward", *, overwrite_x: bool = False) -> Array:
    """``scipy.fft.ifft2`` over the last two axes; with `overwrite_x` the result lies where `wave` was."""
    return _transformed(wave, "FFTW_BACKWARD", BACKWARD[norm], overwrite_x)


def _transformed(wave: Array, direction: str, share: float, overwrite: bool) -> Array:
    dtype = np.result_type(wave, np.complex64)
    if not (overwrite and wave.dtype == dtype and wave.flags.c_contiguous):
        wave = np.array(wave, dtype=dtype, order="C")
    aligned = wave.ctypes.data % ALIGNMENT == 0
    # A plan is told which memory to work on: no two threads may share one.
    plan, own = _plan(wave.shape, dtype, direction, aligned)
    plan.update_arrays(wave, wave)
    plan.execute()
    # It would keep the waves as long as it lives.
    plan.update_arrays(own, own)
    if share:
        wave *= math.prod(wave.shape[-2:]) ** -share
    return wave


def _plan(shape: tuple[int, ...], dtype: np.dtype[Any], direction: str, aligned: bool) -> tuple[Any, Array]:
    """A plan of this thread's, and memory of its own."""
    made = _of_thread.__dict__.setdefault("made", functools.lru_cache(maxsize=16)(_made))
    plan: tuple[Any, Array] = made(shape, dtype, direction, aligned)
    return plan


def _made(shape: tuple[int, ...], dtype: np.dtype[Any], direction: str, aligned: bool) -> tuple[Any, Array]:
    memory = pyfftw.empty_aligned(shape, dtype, n=ALIGNMENT)
    # Estimated, not measured: what is fastest in one run is not in the next, and rounds differently.
    flags = ("FFTW_ESTIMATE",) if aligned else ("FFTW_ESTIMATE", "FFTW_UNALIGNED")
    with _planning:
        plan = pyfftw.FFTW(memory, memory, axes=(-2, -1), direction=direction, flags=flags, threads=1)
    return plan, memory
