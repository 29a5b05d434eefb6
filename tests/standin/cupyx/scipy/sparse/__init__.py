"""Sparse matrices on the device, which on a GPU are cuSPARSE's: SciPy's here, of arrays behind the wall."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from cupy import ndarray
from cupy._array import behind, wrapped

__all__ = ["block_array", "csr_array"]


class _Matrix:
    def __init__(self, own: Any) -> None:
        self._own = own

    shape = property(lambda self: self._own.shape)
    data = property(lambda self: wrapped(self._own.data))

    def toarray(self) -> ndarray:
        return wrapped(self._own.toarray())


class coo_array(_Matrix):
    row = property(lambda self: wrapped(self._own.row))
    col = property(lambda self: wrapped(self._own.col))


def _made_of(given: Any, shape: tuple[int, int] | None) -> Any:
    """A matrix with indices as wide as the coordinates it is made of, as on a card; SciPy narrows them."""
    made = sp.csr_array(given, shape=shape)
    if isinstance(given, tuple) and isinstance(given[1], tuple):
        width = np.result_type(*given[1])
        made.indices, made.indptr = made.indices.astype(width), made.indptr.astype(width)
    return made


class csr_array(_Matrix):
    def __init__(self, arg1: Any, shape: tuple[int, int] | None = None) -> None:
        super().__init__(arg1 if sp.issparse(arg1) else _made_of(behind(arg1), shape))

    indices = property(lambda self: wrapped(self._own.indices))
    indptr = property(lambda self: wrapped(self._own.indptr))
    T = property(lambda self: csr_array(self._own.T.tocsr()))

    def __matmul__(self, other: ndarray) -> ndarray:
        return wrapped(self._own @ behind(other))

    def __abs__(self) -> csr_array:
        return csr_array(abs(self._own))

    def conj(self) -> csr_array:
        return csr_array(self._own.conj())

    def tocsr(self) -> csr_array:
        return self

    def tocoo(self) -> coo_array:
        return coo_array(self._own.tocoo())

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.data, self.indices, self.indptr, self.shape)


def _unpickled(data: ndarray, indices: ndarray, indptr: ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((data, indices, indptr), shape=shape)


def block_array(blocks: Any, *, format: str | None = None) -> csr_array:
    rows = [[None if block is None else block._own for block in row] for row in blocks]
    return csr_array(sp.csr_array(sp.block_array(rows, format=format)))
