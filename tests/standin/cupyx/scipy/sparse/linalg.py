"""Eigensolvers of sparse matrices."""

from __future__ import annotations

from typing import Any

import scipy.sparse.linalg
from cupy import ndarray
from cupy._array import behind, wrapped

from . import csr_array

__all__ = ["lobpcg"]


def lobpcg(A: csr_array, X: ndarray, tol: float, maxiter: int, largest: bool) -> Any:
    found = scipy.sparse.linalg.lobpcg(A._own, behind(X).copy(), tol=tol, maxiter=maxiter, largest=largest)
    return wrapped(found)
