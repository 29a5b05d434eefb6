"""The one place where an array's type decides which code runs: NumPy and Numba, or CuPy and CUDA.

`operators` and `gramian` call this module; it calls the two kernel modules, which have the same
functions with the same arguments.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["array_module", "inverse_transform", "kernels", "to_host", "transform"]

Array = Any


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


def to_host(array: Array) -> Array:
    """The array as NumPy's."""
    return array.get() if _on_device(array) else array


@functools.cache
def _host_fft() -> ModuleType:
    """FFTW where pyfftw is installed (the extra `fftw`), SciPy's pocketfft otherwise."""
    try:
        interfaces = importlib.import_module("pyfftw.interfaces")
    except ImportError:
        return importlib.import_module("scipy.fft")
    # Without its cache FFTW would plan anew at every call.
    interfaces.cache.enable()
    interfaces.cache.set_keepalive_time(60)
    return importlib.import_module("pyfftw.interfaces.scipy_fft")


def _fft(array: Array) -> ModuleType:
    return importlib.import_module("cupyx.scipy.fft") if _on_device(array) else _host_fft()


def transform(wave: Array) -> Array:
    """Unitary two-dimensional FFT over the last two axes. `wave` stays as it is."""
    return _fft(wave).fft2(wave, norm="ortho")


def inverse_transform(wave: Array) -> Array:
    """Inverse of `transform`. `wave` may be overwritten."""
    return _fft(wave).ifft2(wave, norm="ortho", overwrite_x=True)
