"""What the kernels of the eigensolver have to do, on sparse matrices of noise, against dense NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kernels = Any

__all__ = ["MATRIX_CHECKS", "MATRIX_LAYOUTS", "MatrixLayout"]

# Sums of a hundred products of float64 numbers about one.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


class MatrixLayout(NamedTuple):
    """Sizes of a call."""

    rows: int
    density: float
    parts: int

    @property
    def said(self) -> str:
        return f"{self.rows} rows, a share of {self.density:g}, {self.parts} parts"


MATRIX_LAYOUTS = [
    MatrixLayout(1, 1.0, 1),
    # A row with more entries than a warp has lanes; empty rows.
    MatrixLayout(53, 0.9, 7),
    MatrixLayout(71, 0.02, 9),
    # Parts without a row, and more parts than threads.
    MatrixLayout(9, 0.5, 6),
    MatrixLayout(300, 0.05, 300),
    MatrixLayout(16, 0.9, 1),
    MatrixLayout(600, 0.01, 2),
]


class Arrays(NamedTuple):
    """Noise for a layout."""

    dense: NDArray[np.complex128]
    start: NDArray[np.int32]
    index: NDArray[np.int32]
    data: NDArray[np.complex128]
    vectors: NDArray[np.complex128]
    """(3, row)"""


def arrays_for(layout: MatrixLayout) -> Arrays:
    random = np.random.default_rng(layout.rows)
    shape = (layout.rows, layout.rows)
    present = random.random(shape) < layout.density
    dense = np.where(present, random.standard_normal(shape) + 1j * random.standard_normal(shape), 0)
    start = np.concatenate([[0], present.sum(axis=1).cumsum()]).astype(np.int32)
    index = np.nonzero(present)[1].astype(np.int32)
    vectors = random.standard_normal((3, layout.rows)) + 1j * random.standard_normal((3, layout.rows))
    return Arrays(dense, start, index, dense[present], vectors)


def divide(total: float, parts: int) -> NDArray[np.float64]:
    """A number as a sum of so many parts, which are not alike and not all positive."""
    found = np.random.default_rng(parts).standard_normal(parts) * total
    found[-1] += total - found.sum()
    return found


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, **CLOSE)


def sum_moduli(layout: MatrixLayout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    out = np.full(layout.rows, np.nan)
    kernels.sum_moduli(arrays.start, arrays.data, out)
    close(out, abs(arrays.dense).sum(axis=1))


def scale_matrix(layout: MatrixLayout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    factor, out = np.arange(1.0, layout.rows + 1), np.full_like(arrays.data, np.nan)
    kernels.scale_matrix(arrays.start, arrays.index, arrays.data, factor, out)
    row = np.repeat(np.arange(layout.rows), np.diff(arrays.start))
    close(out, (factor[:, None] * arrays.dense * factor)[row, arrays.index])


def multiply_matrix(layout: MatrixLayout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    vector, before, _ = arrays.vectors
    norm, norm_before = np.linalg.norm(vector), np.linalg.norm(before)
    squares, squares_before = (divide(float(own**2), layout.parts) for own in (norm, norm_before))
    for with_before in (False, True):
        out = np.full_like(vector, np.nan)
        dots, squares_out = np.full((2, layout.parts), np.nan)
        behind = (before, squares_before) if with_before else (None, None)
        kernels.multiply_matrix(
            arrays.start, arrays.index, arrays.data, vector, squares, *behind, out, dots, squares_out
        )
        expected = arrays.dense @ vector / norm - with_before * norm / norm_before * before
        close(out, expected)
        close(dots.sum(), np.vdot(vector / norm, expected).real)
        close(squares_out.sum(), np.linalg.norm(expected) ** 2)


def subtract_component(layout: MatrixLayout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    vector, product, _ = arrays.vectors
    norm = np.linalg.norm(vector)
    along = float(np.vdot(vector, product).real / norm)
    out, squares_out = product.copy(), np.full(layout.parts, np.nan)
    squares, dots = divide(float(norm**2), layout.parts), divide(along, layout.parts)
    kernels.subtract_component(out, vector, squares, dots, squares_out)
    expected = product - along / norm * vector
    close(out, expected)
    close(squares_out.sum(), np.linalg.norm(expected) ** 2)


MATRIX_CHECKS = (sum_moduli, scale_matrix, multiply_matrix, subtract_component)
