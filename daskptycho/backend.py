"""The only module in which an array's type decides which code runs: NumPy and Numba, or CuPy and CUDA.

It is called by the numerical code and by tasks that move arrays to a device. It calls the two kernel modules,
which have the same functions with the same arguments, and a third one where CuPy has what NumPy lacks.
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
    "add_multiple",
    "array_module",
    "find_change",
    "inner_products",
    "inverse_transform",
    "kernels",
    "parts_of_sums",
    "pixels_in_flight",
    "sparse_module",
    "to_device",
    "to_device_of",
    "to_host",
    "transform",
]

Array = Any
Device = Literal["cpu", "gpu"]

# Pixels of exit waves that a CPU core processes at once: 512 KiB of complex64, which stay in its L2 cache.
CPU_PIXELS = 2**16
# Share of a GPU's memory that the exit waves of one batch of frames may fill: larger batches are faster.
GPU_SHARE = 1 / 64
# Most parts of a sum over rows, and fewest rows in a part: enough to fill a GPU, few enough to add them up.
# Not chosen by GPU, so that sums have the same bits on each.
GPU_PARTS, GPU_ROWS = 512, 8
# Memory of a batch with all its temporaries, for example of cuFFT and of shifted probes, in units of its
# waves.
GPU_BATCHES = 6


def _on_device(array: Array) -> bool:
    # There is no need to import CuPy: a CuPy array can only exist if it is imported already.
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_module(array: Array) -> ModuleType:
    """The module that this array belongs to: ``numpy`` or ``cupy``."""
    return sys.modules["cupy"] if _on_device(array) else np


def kernels(array: Array) -> ModuleType:
    """The kernels for this array: `cpu_kernels` or `gpu_kernels`."""
    return _gpu_kernels() if _on_device(array) else _cpu_kernels()


@functools.cache
def _cpu_kernels() -> ModuleType:
    return importlib.import_module("daskptycho.cpu_kernels")


@functools.cache
def _gpu_kernels() -> ModuleType:
    return importlib.import_module("daskptycho.gpu_kernels")


def sparse_module(array: Array) -> ModuleType:
    """The module of sparse matrices for this array: ``scipy.sparse`` or CuPy's counterpart."""
    return importlib.import_module("cupyx.scipy.sparse" if _on_device(array) else "scipy.sparse")


def inner_products(weight: Array, first: Array, others: list[Array]) -> Array:
    """``sum weight Re(conj(first) other)`` for each of other images, (other,) float64 on the host.

    Parameters
    ----------
    weight : (y, x) float32 array
    first : (y, x) complex64 array
    others : list of (y, x) complex64 arrays
    """
    if not _on_device(weight):
        return _image_kernels().inner_products(weight, first, others)
    weighted = (weight * first).reshape(-1).view(np.float32)
    # Products of two vectors: libraries are slow at matrices of a few long rows.
    products = [weighted @ other.reshape(-1).view(np.float32) for other in others]
    return to_host(array_module(weight).stack(products)).astype(np.float64)


def add_multiple(image: Array, factor: float, out: Array) -> None:
    """``out += factor * image`` with a real factor, for (y, x) complex64 arrays."""
    if _on_device(out):
        out += np.float32(factor) * image
    else:
        _image_kernels().add_multiple(image, factor, out)


def find_change(illumination: Array, damped: Array, image: Array, total: Array) -> None:
    """``total = (illumination * image - total) / damped`` in place, for (y, x) arrays."""
    if _on_device(total):
        total -= illumination * image
        total *= np.float32(-1) / damped
    else:
        _image_kernels().find_change(illumination, damped, image, total)


def compare_sums(
    illumination: Array, image: Array, total: Array, least: float, block: int
) -> tuple[Array, Array]:
    """How far sums of frames turned away from an image, and the power of the image.

    Parameters
    ----------
    illumination : (y, x) float32 array
    image, total : (y, x) complex64 arrays
    least : float
    block : int

    Returns
    -------
    turn : (y, x) float32 array
        ``Im(conj(image) total) / illumination``, zero where the illumination is not above `least`.
    power : (y / block, x / block) float32 array
        Sums of ``|image|^2`` over blocks of pixels; the last ones may be smaller.
    """
    xp, (height, width) = array_module(total), total.shape
    rows, columns = -(-height // block), -(-width // block)
    if not _on_device(total):
        out = np.empty((height, width), dtype=np.float32), np.zeros((rows, columns), dtype=np.float32)
        _image_kernels().compare_sums(illumination, image, total, least, block, out)
        return out
    turn = (image.conj() * total).imag / xp.maximum(illumination, np.float32(least))
    turn *= illumination > np.float32(least)
    power = xp.zeros((rows * block, columns * block), dtype=np.float32)
    power[:height, :width] = image.real**2 + image.imag**2
    return turn, power.reshape(rows, block, columns, block).sum(axis=(1, 3))


def turn_image(image: Array, row: Array, column: Array, nodes: Array) -> Array:
    """The image with its pixels turned by small phases phi, bilinear between nodes.

    They are multiplied by ``(1 + i phi / 2) / (1 - i phi / 2)``, which is ``exp(i phi)`` up to phi^3 / 12.

    Parameters
    ----------
    image : (y, x) complex64 array
    row, column : (y,) and (x,) float32 arrays on the host
        Place of each row and column among the nodes, from 0 to their number less one.
    nodes : (row, column) float32 array on the host
        phi of the nodes, at least two along either axis.
    """
    if not _on_device(image):
        return _image_kernels().turn_image(image, row, column, nodes)
    xp = array_module(image)
    above, left = (
        np.minimum(place.astype(np.int64), count - 2)
        for place, count in zip((row, column), nodes.shape, strict=True)
    )
    t, s = xp.asarray(row - above)[:, None], xp.asarray(column - left)
    corners = [xp.asarray(nodes[np.ix_(above + down, left + across)]) for down in (0, 1) for across in (0, 1)]
    phi = (1 - t) * ((1 - s) * corners[0] + s * corners[1]) + t * ((1 - s) * corners[2] + s * corners[3])
    half = np.complex64(0.5j) * phi.astype(np.float32)
    return image * ((1 + half) / (1 - half))


@functools.cache
def _image_kernels() -> ModuleType:
    return importlib.import_module("daskptycho.cpu_image_kernels")


def to_host(array: Array) -> Array:
    """Copy a CuPy array to the host; a NumPy array is returned unchanged."""
    return array.get() if _on_device(array) else array


def to_device(array: Array, device: Device) -> Array:
    """Copy a NumPy array to a device; an array that is there already is returned unchanged."""
    if device == "cpu" or _on_device(array):
        return array
    # A GPU supports only its own byte order; files of detectors may have the other one.
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    return importlib.import_module("cupy").asarray(native)


def to_device_of(array: Array, like: Array) -> Array:
    """Copy a NumPy array to the device of another array."""
    return to_device(array, "gpu" if _on_device(like) else "cpu")


def pixels_in_flight(array: Array) -> int:
    """Number of pixels of exit waves to process at once, on the device of this array."""
    return _gpu_pixels() if _on_device(array) else CPU_PIXELS


def parts_of_sums(rows: int, array: Array) -> int:
    """Number of parts in which `kernels` compute a sum over this many rows of a sparse matrix."""
    return max(1, min(-(-rows // GPU_ROWS), GPU_PARTS)) if _on_device(array) else 1


def _gpu_pixels() -> int:
    # A share of all memory rather than of free memory: with equal batches, plans of cuFFT can be used again.
    _, total = importlib.import_module("cupy").cuda.runtime.memGetInfo()
    return int(total * GPU_SHARE) // np.dtype(np.complex64).itemsize


@functools.cache
def _host_fft() -> ModuleType:
    """FFTW if pyfftw is installed (the extra `fftw`), otherwise SciPy's pocketfft."""
    try:
        return importlib.import_module("daskptycho.fftw")
    except ImportError:
        return importlib.import_module("scipy.fft")


def _fft(array: Array) -> ModuleType:
    return importlib.import_module("cupyx.scipy.fft") if _on_device(array) else _host_fft()


def transform(wave: Array, *, unitary: bool = True, overwrite: bool = False) -> Array:
    """Two-dimensional FFT over the last two axes.

    Parameters
    ----------
    wave : (..., N, N) complex64 array
    unitary : bool
        Whether to multiply by ``1 / sqrt(pixels)``. Without that factor here and in `inverse_transform`, the
        caller multiplies the spectrum by ``1 / pixels``, which saves passes over the waves.
    overwrite : bool
        Whether `wave` may be overwritten; otherwise it is not changed.
    """
    return _fft(wave).fft2(wave, norm="ortho" if unitary else "backward", overwrite_x=overwrite)


def inverse_transform(wave: Array, *, unitary: bool = True) -> Array:
    """Inverse of `transform`; without `unitary`, ``pixels`` times the inverse. `wave` may be overwritten."""
    return _fft(wave).ifft2(wave, norm="ortho" if unitary else "forward", overwrite_x=True)
