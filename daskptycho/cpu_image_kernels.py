"""Sums of images and their inner products, compiled by Numba. Called only by ``backend``.

NumPy would make every product of an array in memory of its own, which takes two to three times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.cpu_matrix_kernels import compile_kernel

__all__ = ["add_multiple", "compare_sums", "find_change", "inner_products", "turn_image"]

Array = Any


def _as_real(image: Array) -> Array:
    """A view of complex64 memory as pairs of float32 along the last axis."""
    return image.view(np.float32)


@compile_kernel
def _inner_product(weight, first, second):  # type: ignore[no-untyped-def]
    total: Any = 0.0
    for y in range(weight.shape[0]):
        w, a, b = weight[y], first[y], second[y]
        row = np.float32(0.0)
        for x in range(w.size):
            row += w[x] * (a[2 * x] * b[2 * x] + a[2 * x + 1] * b[2 * x + 1])
        total += row
    return total


def inner_products(weight: Array, first: Array, others: list[Array]) -> Array:
    """See `backend.inner_products`."""
    one = _as_real(first)
    return np.array([_inner_product(weight, one, _as_real(other)) for other in others])


@compile_kernel
def _add_multiple(image, factor, out):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        a, o = image[y], out[y]
        for x in range(o.size):
            o[x] += factor * a[x]


def add_multiple(image: Array, factor: float, out: Array) -> None:
    """See `backend.add_multiple`."""
    _add_multiple(_as_real(image), np.float32(factor), _as_real(out))


@compile_kernel
def _find_change(illumination, damped, image, out):  # type: ignore[no-untyped-def]
    for y in range(illumination.shape[0]):
        n, d, a, o = illumination[y], damped[y], image[y], out[y]
        for x in range(n.size):
            o[2 * x] = (n[x] * a[2 * x] - o[2 * x]) / d[x]
            o[2 * x + 1] = (n[x] * a[2 * x + 1] - o[2 * x + 1]) / d[x]


def find_change(illumination: Array, damped: Array, image: Array, total: Array) -> None:
    """See `backend.find_change`."""
    _find_change(illumination, damped, _as_real(image), _as_real(total))


@compile_kernel
def _compare_sums(illumination, image, total, least, block, out, power):  # type: ignore[no-untyped-def]
    for y in range(illumination.shape[0]):
        n, a, o, turn = illumination[y], image[y], total[y], out[y]
        for x in range(n.size):
            product = a[2 * x] * o[2 * x + 1] - a[2 * x + 1] * o[2 * x]
            turn[x] = product / n[x] if n[x] > least else np.float32(0.0)
        around = power[y // block]
        for first in range(0, n.size, block):
            here = np.float32(0.0)
            for x in range(first, min(first + block, n.size)):
                here += a[2 * x] * a[2 * x] + a[2 * x + 1] * a[2 * x + 1]
            around[first // block] += here


def compare_sums(
    illumination: Array, image: Array, total: Array, least: float, block: int, out: tuple[Array, Array]
) -> None:
    """See `backend.compare_sums`."""
    _compare_sums(illumination, _as_real(image), _as_real(total), np.float32(least), block, *out)


@compile_kernel
def _turn_image(image, row, column, nodes, out):  # type: ignore[no-untyped-def]
    width = column.size
    left, share = np.empty(width, dtype=np.int64), np.empty(width, dtype=np.float32)
    for x in range(width):
        left[x] = min(int(column[x]), nodes.shape[1] - 2)
        share[x] = column[x] - left[x]
    line, half = np.empty(nodes.shape[1], dtype=np.float32), np.empty(width, dtype=np.float32)
    for y in range(row.size):
        above = min(int(row[y]), nodes.shape[0] - 2)
        t = np.float32(row[y] - above)
        for node in range(line.size):
            line[node] = (nodes[above, node] + t * (nodes[above + 1, node] - nodes[above, node])) / 2
        for x in range(width):
            half[x] = line[left[x]] + share[x] * (line[left[x] + 1] - line[left[x]])
        a, o = image[y], out[y]
        for x in range(width):
            scale = np.float32(1.0) / (np.float32(1.0) + half[x] * half[x])
            cosine, sine = np.float32(2.0) * scale - np.float32(1.0), np.float32(2.0) * half[x] * scale
            o[2 * x] = a[2 * x] * cosine - a[2 * x + 1] * sine
            o[2 * x + 1] = a[2 * x] * sine + a[2 * x + 1] * cosine


def turn_image(image: Array, row: Array, column: Array, nodes: Array) -> Array:
    """See `backend.turn_image`."""
    out = np.empty_like(image)
    _turn_image(_as_real(image), row, column, nodes, _as_real(out))
    return out
