"""The kernels of `cpu_kernels` for CuPy arrays, in CUDA C (``gpu_kernels.cu``). Called only by ``backend``.

Functions, arguments and shapes are the same. No kernel uses atomics: each element of a result is computed by
one thread, so that a sum has the same bits in every run. Corners are given on the host; each table of them is
copied to the device once and kept there. Pairs may be on the device already.

docs/gpu.md says what has been shown on a card, and what without one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "accumulate_illumination",
    "accumulate_overlap",
    "accumulate_probe",
    "accumulate_probe_step",
    "accumulate_waves",
    "displacement_terms",
    "exit_waves",
    "field_sums",
    "filter_spectra",
    "gramian",
    "measure_turns",
    "multiply_matrix",
    "project_modulus",
    "scale_matrix",
    "subtract_component",
    "sum_moduli",
    "take_amplitudes",
    "weigh_frames",
]

Array = Any

SOURCE = resources.files(__package__).joinpath("gpu_kernels.cu").read_text()

THREADS = 256
# Most pixels of a frame for each thread: enough for the sum over a block to take little of the time.
PIXELS_A_THREAD = 8
# Rows and columns of a patch of the image, with one thread for each pixel: a warp reads 32 neighbours.
PATCH = (8, 32)
# Frames in a group of the probe update: few, so that there are enough groups to fill a GPU. Not chosen by
# GPU, so that sums have the same bits on each.
GROUP = 64
# Rows of a sparse matrix for each block of threads: one for each warp.
ROWS = 8
MOST_BLOCKS_Y = 65535
# Number of tables of positions that are kept on the device: enough for a thousand tiles.
MOST_TABLES = 4096


@functools.cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE, options=("-std=c++17",))


def _launch(name: str, grid: tuple[int, ...], *arguments: Any) -> None:
    if not all(argument.flags.c_contiguous for argument in arguments):
        # CuPy passes only an address: the kernel would also read what lies between the elements of a view.
        raise ValueError(f"{name} got an array that is not contiguous; make a copy of it")
    # CUDA refuses to launch no blocks, but a tile may have no pairs.
    if all(grid):
        _module().get_function(name)(grid, (THREADS,), arguments)


def _blocks_of_frames(frames: int, pixels: int) -> tuple[int, int]:
    return frames, min(-(-pixels // (THREADS * PIXELS_A_THREAD)), MOST_BLOCKS_Y)


def _int(*values: int) -> tuple[np.int32, ...]:
    # A plain Python int would be passed as 64 bits.
    return tuple(np.int32(value) for value in values)


def _keep_on_device(make: Callable[..., tuple[NDArray, ...]], table: Array, *sizes: int) -> tuple[Array, ...]:
    """Arrays that `make` makes of a table of positions, on the device, kept there for later calls."""
    import cupy

    if make is _identity and not isinstance(table, np.ndarray):
        return (table,)
    table = np.ascontiguousarray(table, dtype=np.int64)
    return _tables(make, table.tobytes(), table.shape, sizes, cupy.cuda.Device().id)


@functools.lru_cache(MOST_TABLES)
def _tables(
    make: Callable[..., tuple[NDArray, ...]],
    table: bytes,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    device: int,
) -> tuple[Array, ...]:
    import cupy

    return tuple(cupy.asarray(made) for made in make(np.frombuffer(table, np.int64).reshape(shape), *sizes))


def _identity(table: NDArray) -> tuple[NDArray]:
    return (table,)


def _cover(
    corner: NDArray[np.int64], height: int, width: int, rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List the frames that touch each patch of a window.

    Returns
    -------
    start : (patch + 1,) int64 array
        Where the list of each patch starts.
    touching : (n, 3) int32 array
        The lists one after the other: number of a frame and its corner, y and x.
    """
    frames = np.arange(len(corner))
    first = corner // PATCH
    count = (corner + np.array([height - 1, width - 1])) // PATCH - first + 1
    touched = count.prod(axis=1)
    # One entry for each frame and patch that it touches, and the number of that patch among the frame's.
    frame = np.repeat(frames, touched)
    nth = np.arange(touched.sum()) - np.repeat(touched.cumsum() - touched, touched)
    down, across = first[frame, 0] + nth // count[frame, 1], first[frame, 1] + nth % count[frame, 1]
    patches_across = -(-columns // PATCH[1])
    patch = down * patches_across + across
    # A stable sort keeps the order of the frames of a patch, and with it the bits of their sum.
    order = np.argsort(patch, kind="stable")
    start = np.searchsorted(patch[order], np.arange(-(-rows // PATCH[0]) * patches_across + 1))
    touching = np.column_stack([frame, corner[frame]])[order]
    return start.astype(np.int64), touching.astype(np.int32)


def _gather(name: str, arrays: tuple[Array, ...], corner: NDArray, image: Array, *sizes: int) -> None:
    """Launch a kernel that adds frames to an image; the last two of `sizes` are the shape of a frame."""
    start, touching = _keep_on_device(_cover, corner, *sizes[-2:], *image.shape)
    sizes = (*sizes, *image.shape)
    _launch(name, (len(start) - 1,), *arrays, start, touching, image, *_int(*sizes))


def exit_waves(image: Array, probe: Array, corner: Array, out: Array) -> None:
    """See `cpu_kernels.exit_waves`."""
    frames, modes, height, width = out.shape
    grid = _blocks_of_frames(frames, height * width)
    sizes = _int(len(probe) > 1, modes, height, width, image.shape[1])
    _launch("exit_waves", grid, image, probe, *_keep_on_device(_identity, corner), out, *sizes)


def filter_spectra(spectrum: Array, factor: Array, along_y: Array, along_x: Array) -> None:
    """See `cpu_kernels.filter_spectra`."""
    frames, modes, height, width = spectrum.shape
    grid = _blocks_of_frames(frames, height * width)
    _launch("filter_spectra", grid, spectrum, factor, along_y, along_x, *_int(modes, height, width))


def take_amplitudes(counts: Array, invalid: Array | None, out: Array) -> None:
    """See `cpu_kernels.take_amplitudes`; CuPy's own kernels do it."""
    import cupy

    cupy.sqrt(counts, dtype=np.float32, out=out)
    if invalid is not None:
        cupy.copyto(out, np.float32(-1), where=invalid)


def project_modulus(wave: Array, amplitude: Array, scale: float, shift: float | Array = 1e-30) -> Array:
    """See `cpu_kernels.project_modulus`; the misfit stays on the device, as an array without axes."""
    import cupy

    frames, modes, height, width = wave.shape
    grid = _blocks_of_frames(frames, height * width)
    misfit = cupy.empty(grid, dtype=np.float64)
    # One number, or one for each pixel of a frame; the kernel reads no array that it has no use for.
    of_pixels = np.ndim(shift) > 0
    added = (shift, np.float32(0)) if of_pixels else (amplitude, np.float32(shift))
    numbers = *_int(modes, height * width), np.float32(scale), *_int(of_pixels)
    _launch("project_modulus", grid, wave, amplitude, misfit, *numbers, *added)
    return misfit.sum()


def weigh_frames(wave: Array, probe: Array, out: Array, power: Array) -> None:
    """See `cpu_kernels.weigh_frames`."""
    import cupy

    frames, modes, height, width = wave.shape
    grid = _blocks_of_frames(frames, height * width)
    parts = cupy.empty(grid, dtype=np.float64)
    sizes = _int(len(probe) > 1, modes, height * width)
    _launch("weigh_frames", grid, wave, probe, out, parts, *sizes)
    parts.sum(axis=1, out=power)


def accumulate_overlap(weighted: Array, phase: Array, corner: Array, image: Array) -> None:
    """See `cpu_kernels.accumulate_overlap`."""
    _gather("accumulate_overlap", (weighted, phase), corner, image, *weighted.shape[1:])


def accumulate_waves(wave: Array, probe: Array, corner: Array, image: Array) -> None:
    """See `cpu_kernels.accumulate_waves`."""
    _gather("accumulate_waves", (wave, probe), corner, image, len(probe) > 1, *wave.shape[1:])


def accumulate_illumination(probe: Array, corner: Array, image: Array) -> None:
    """See `cpu_kernels.accumulate_illumination`."""
    power = (probe.real**2 + probe.imag**2).sum(axis=1)
    _gather("accumulate_illumination", (power,), corner, image, len(power) > 1, *power.shape[1:])


def accumulate_probe(image: Array, wave: Array, corner: Array, numerator: Array, denominator: Array) -> None:
    """``numerator += conj(image) * wave``, ``denominator += |image|^2``, image in the window of each frame.

    Both are summed over frames; a numerator with a copy for each frame is not.
    """
    import cupy

    frames, modes, height, width = wave.shape
    own = len(numerator) > 1
    groups = -(-frames // GROUP)
    powers = cupy.empty((groups, height, width), dtype=np.float32)
    parts = numerator if own else cupy.empty((groups, modes, height, width), dtype=np.complex64)
    sizes = _int(frames, GROUP, own, modes, height, width, image.shape[1])
    grid = (-(-height * width // THREADS), groups, modes)
    _launch("accumulate_probe", grid, image, wave, *_keep_on_device(_identity, corner), parts, powers, *sizes)
    denominator += powers.sum(axis=0)
    if not own:
        numerator += parts.sum(axis=0)


def accumulate_probe_step(
    image: Array, projected: Array, probe: Array, corner: Array, numerator: Array, denominator: Array
) -> None:
    """See `cpu_kernels.accumulate_probe_step`; the change is kept here, for `accumulate_probe`."""
    import cupy

    change = cupy.empty_like(projected)
    exit_waves(image, probe, corner, change)
    cupy.subtract(projected, change, out=change)
    accumulate_probe(image, change, corner, numerator[None], denominator)


def gramian(
    first: Array, second: Array, pair: Array, offset: Array, corner: Array, weight: Array, out: Array
) -> None:
    """See `cpu_kernels.gramian`."""
    tables = [_keep_on_device(_identity, table)[0] for table in (pair, offset, corner)]
    sizes = _int(*first.shape[1:], weight.shape[1])
    _launch("gramian", (len(pair),), first, second, *tables, weight, out, *sizes)


def measure_turns(first: Array, second: Array, out: Array) -> None:
    """See `cpu_kernels.measure_turns`."""
    out[:] = (first.conj() * second).imag.sum(axis=(1, 2, 3), dtype=np.float64)


def displacement_terms(
    image: Array, change: Array, probe: Array, corner: Array, force: Array, curvature: Array
) -> None:
    """See `cpu_kernels.displacement_terms`."""
    import cupy

    frames, modes, height, width = change.shape
    grid = _blocks_of_frames(frames, height * width)
    parts = cupy.empty((*grid, 5), dtype=np.float64)
    sizes = _int(len(probe) > 1, modes, height, width, image.shape[1])
    corners = _keep_on_device(_identity, corner)
    _launch("displacement_terms", grid, image, change, probe, *corners, parts, *sizes)
    sums = parts.sum(axis=1)
    force[:], curvature[:] = sums[:, :2], sums[:, 2:]


def field_sums(power: Array, fields: Array, corner: Array, out: Array) -> None:
    """See `cpu_kernels.field_sums`."""
    copies, height, width = power.shape
    sizes = _int(copies > 1, height, width, *fields.shape[1:])
    corners = _keep_on_device(_identity, corner)
    _launch("field_sums", (len(corner), len(fields)), power, fields, *corners, out, *sizes)


def _narrow(indices: Array) -> Array:
    """Indices of a sparse matrix as int32: CuPy keeps those of a matrix made of int64 coordinates wide."""
    return indices if indices.dtype == np.int32 else indices.astype(np.int32)


def sum_moduli(start: Array, data: Array, out: Array) -> None:
    """See `cpu_kernels.sum_moduli`."""
    _launch("sum_moduli", (-(-len(out) // ROWS),), _narrow(start), data, out, *_int(len(out)))


def scale_matrix(start: Array, index: Array, data: Array, factor: Array, out: Array) -> None:
    """See `cpu_kernels.scale_matrix`."""
    rows = len(factor)
    tables = _narrow(start), _narrow(index)
    _launch("scale_matrix", (-(-rows // ROWS),), *tables, data, factor, out, *_int(rows))


def multiply_matrix(
    start: Array,
    index: Array,
    data: Array,
    vector: Array,
    squares: Array,
    before: Array | None,
    squares_before: Array | None,
    out: Array,
    dots: Array,
    squares_out: Array,
) -> None:
    """See `cpu_kernels.multiply_matrix`."""
    behind = (vector, squares) if before is None else (before, squares_before)
    rows, parts = len(vector), len(squares)
    sizes = _int(before is not None, rows, -(-rows // parts))
    vectors = (vector, squares, *behind, out, dots, squares_out)
    _launch("multiply_matrix", (parts,), _narrow(start), _narrow(index), data, *vectors, *sizes)


def subtract_component(out: Array, vector: Array, squares: Array, dots: Array, squares_out: Array) -> None:
    """See `cpu_kernels.subtract_component`."""
    rows, parts = len(vector), len(squares)
    sizes = _int(rows, -(-rows // parts))
    _launch("subtract_component", (parts,), out, vector, squares, dots, squares_out, *sizes)
