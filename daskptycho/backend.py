"""The one place where an array's type decides which code runs: NumPy and Numba, or CuPy and CUDA.

The mathematics calls this module and so do the tasks that put arrays on a device; it calls the two kernel
modules, which have the same functions with the same arguments.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any, Literal

import numpy as np

__all__ = [
    "GPU_BATCHES",
    "GPU_SHARE",
    "Device",
    "array_module",
    "inverse_transform",
    "kernels",
    "pixels_in_flight",
    "sparse_module",
    "sparse_solvers",
    "to_device",
    "to_host",
    "transform",
]

Array = Any
Device = Literal["cpu", "gpu"]

# Pixels of exit waves that a core has in flight: 256 KiB of complex64, which stays in its second-level cache.
CPU_PIXELS = 2**15
# On a GPU a batch of frames is the larger the better, up to this share of its memory for their exit waves;
# with its temporaries, those of cuFFT and of shifted probes among them, it takes up to so many times as much.
GPU_SHARE = 1 / 64
GPU_BATCHES = 6


def _on_device(array: Array) -> bool:
    # Asked without importing CuPy: whoever holds a CuPy array has imported it.
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_module(array: Array) -> ModuleType:
    """``numpy`` or ``cupy``: the module that this array comes from."""
    return importlib.import_module("cupy" if _on_device(array) else "numpy")


def kernels(array: Array) -> ModuleType:
    """The kernels for this array: `cpu_kernels` or `gpu_kernels`."""
    return importlib.import_module(
        "daskptycho.gpu_kernels" if _on_device(array) else "daskptycho.cpu_kernels"
    )


def sparse_module(array: Array) -> ModuleType:
    """``scipy.sparse``, or CuPy's counterpart: sparse matrices of such arrays."""
    return importlib.import_module("cupyx.scipy.sparse" if _on_device(array) else "scipy.sparse")


def sparse_solvers(array: Array) -> ModuleType:
    """``scipy.sparse.linalg``, or CuPy's counterpart."""
    return importlib.import_module(
        "cupyx.scipy.sparse.linalg" if _on_device(array) else "scipy.sparse.linalg"
    )


def to_host(array: Array) -> Array:
    """The array as NumPy's."""
    return array.get() if _on_device(array) else array


def to_device(array: Array, device: Device) -> Array:
    """A NumPy array where the device's arrays live; one that is there already is returned as it is."""
    if device == "cpu" or _on_device(array):
        return array
    # A GPU knows the byte order of its own alone, which detectors' files need not have.
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    return importlib.import_module("cupy").asarray(native)


def pixels_in_flight(array: Array) -> int:
    """How many pixels of exit waves to work on at a time where this array lives."""
    return _gpu_pixels() if _on_device(array) else CPU_PIXELS


def _gpu_pixels() -> int:
    # Of all memory, not of what is free: batches of one size let cuFFT's plans recur.
    _, total = importlib.import_module("cupy").cuda.runtime.memGetInfo()
    return int(total * GPU_SHARE) // np.dtype(np.complex64).itemsize


@functools.cache
def _host_fft() -> ModuleType:
    """FFTW where pyfftw is installed (the extra `fftw`), SciPy's pocketfft otherwise."""
    try:
        return importlib.import_module("daskptycho.fftw")
    except ImportError:
        return importlib.import_module("scipy.fft")


def _fft(array: Array) -> ModuleType:
    return importlib.import_module("cupyx.scipy.fft") if _on_device(array) else _host_fft()


def transform(wave: Array, *, unitary: bool = True, overwrite: bool = False) -> Array:
    """Two-dimensional FFT over the last two axes. `wave` stays as it is, or may be overwritten.

    Unitary, or without any factor: then what is done to the spectrum takes up ``1 / pixels``, the factor of
    both ways, which saves two passes over the waves where the library has one for it.
    """
    return _fft(wave).fft2(wave, norm="ortho" if unitary else "backward", overwrite_x=overwrite)


def inverse_transform(wave: Array, *, unitary: bool = True) -> Array:
    """Inverse of `transform`, up to the factor that both leave out. `wave` may be overwritten."""
    return _fft(wave).ifft2(wave, norm="ortho" if unitary else "forward", overwrite_x=True)
