"""Sums of images and their inner products, compiled by Numba. Called only by ``backend``.

NumPy would make every product of an array in memory of its own, which takes two to three times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.cpu_matrix_kernels import compile_kernel

__all__ = ["add_multiple", "find_change", "inner_products"]

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
