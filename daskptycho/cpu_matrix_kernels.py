"""Products with a sparse matrix of complex numbers, compiled by Numba, and how all kernels are compiled.

They are part of `cpu_kernels`, which alone imports them. Each releases Python's interpreter lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["compile_kernel", "multiply_matrix", "scale_matrix", "subtract_component", "sum_moduli"]

Array = Any

# Sums may be reordered, so that they can be vectorised. NaN and infinity keep their meaning.
compile_kernel = njit(
    nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy"
)


@compile_kernel
def _sum_moduli(start, data, out):  # type: ignore[no-untyped-def]
    for r in range(len(out)):
        total = 0.0
        for e in range(start[r], start[r + 1]):
            total += np.sqrt(data[e].real ** 2 + data[e].imag ** 2)
        out[r] = total


def sum_moduli(start: Array, data: Array, out: Array) -> None:
    """``out[r] = sum |data|`` over row r of a sparse matrix.

    Parameters
    ----------
    start : (row + 1,) int32 array
        The entries of row r are those from ``start[r]`` to ``start[r + 1] - 1``.
    data : (entry,) complex128 array
    out : (row,) float64 array
    """
    _sum_moduli(start, data, out)


@compile_kernel
def _scale_matrix(start, index, data, factor, out):  # type: ignore[no-untyped-def]
    for r in range(len(factor)):
        for e in range(start[r], start[r + 1]):
            out[e] = data[e] * (factor[r] * factor[index[e]])


def scale_matrix(start: Array, index: Array, data: Array, factor: Array, out: Array) -> None:
    """``out = data``, with rows and columns of a square sparse matrix multiplied by ``factor``.

    Parameters
    ----------
    start : (row + 1,) int32 array
    index : (entry,) int32 array
        The column of each entry.
    data, out : (entry,) complex128 arrays
    factor : (row,) float64 array
    """
    _scale_matrix(start, index, data, factor, out)


@compile_kernel
def _one_over_root(square):  # type: ignore[no-untyped-def]
    return 1 / np.sqrt(square) if square > 0 else 0.0


@compile_kernel
def _multiply_matrix(  # type: ignore[no-untyped-def]
    start, index, data, vector, squares, before, squares_before, is_first, out, dots, squares_out
):
    rows, parts = len(vector), len(squares)
    each = -(-rows // parts)
    square = squares.sum()
    scale = _one_over_root(square)
    back = 0.0 if is_first else np.sqrt(square) * _one_over_root(squares_before.sum())
    for part in range(parts):
        dot, power = 0.0, 0.0
        for r in range(part * each, min((part + 1) * each, rows)):
            x, y = 0.0, 0.0
            for e in range(start[r], start[r + 1]):
                h, v = data[e], vector[index[e]]
                x += h.real * v.real - h.imag * v.imag
                y += h.real * v.imag + h.imag * v.real
            x = x * scale - back * before[r].real
            y = y * scale - back * before[r].imag
            out[r] = complex(x, y)
            dot += (vector[r].real * x + vector[r].imag * y) * scale
            power += x * x + y * y
        dots[part] = dot
        squares_out[part] = power


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
    """``out = matrix v - |vector| b`` with ``v = vector / |vector|`` and ``b = before / |before|``.

    The squares of norms, and inner products, are arrays of parts whose sum they are: a GPU computes one part
    for each block of rows, and adds them up where they are needed, without waiting for the host.

    Parameters
    ----------
    start, index, data
        The sparse matrix, as in `scale_matrix`.
    vector, out : (row,) complex128 arrays
    squares : (part,) float64 array
        ``|vector|^2``.
    before, squares_before : arrays like these, or None
        Without them ``out = matrix v``.
    dots, squares_out : (part,) float64 arrays
        ``Re <v, out>`` and ``|out|^2``, written.
    """
    is_first = before is None
    behind = (vector, squares) if is_first else (before, squares_before)
    _multiply_matrix(start, index, data, vector, squares, *behind, is_first, out, dots, squares_out)


@compile_kernel
def _subtract_component(out, vector, squares, dots, squares_out):  # type: ignore[no-untyped-def]
    rows, parts = len(vector), len(squares)
    each = -(-rows // parts)
    by = dots.sum() * _one_over_root(squares.sum())
    for part in range(parts):
        power = 0.0
        for r in range(part * each, min((part + 1) * each, rows)):
            out[r] -= by * vector[r]
            power += out[r].real ** 2 + out[r].imag ** 2
        squares_out[part] = power


def subtract_component(out: Array, vector: Array, squares: Array, dots: Array, squares_out: Array) -> None:
    """``out -= <v, out> v`` with ``v = vector / |vector|``; see `multiply_matrix` for parts.

    Parameters
    ----------
    out, vector : (row,) complex128 arrays
    squares, dots : (part,) float64 arrays
        ``|vector|^2`` and ``<v, out>``.
    squares_out : (part,) float64 array
        ``|out|^2`` after the subtraction, written.
    """
    _subtract_component(out, vector, squares, dots, squares_out)
