"""Dense linear algebra, which on a GPU is cuSOLVER's and cuBLAS's."""

from __future__ import annotations

import numpy as np

from ._array import behind, ndarray, wrapped

__all__ = ["eigh", "norm"]


def norm(x: ndarray) -> ndarray:
    return wrapped(np.linalg.norm(behind(x)))


def eigh(a: ndarray) -> tuple[ndarray, ndarray]:
    values, vectors = np.linalg.eigh(behind(a))
    return ndarray(values), ndarray(vectors)
