"""The graph of overlapping frames on which positions and gains are found: links, weights, parts, a solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg

from daskptycho.tiling import Pairs

__all__ = ["label_linked", "overlap_of_probes", "pair_weights", "solve", "subtract_means"]

# Two frames are linked if they share more light than this part of what each shares with itself.
LINKED = 1e-3
# Relative residual at which conjugate gradients stop.
ACCURACY = 1e-3


def label_linked(pairs: Pairs, shared: NDArray, frames: int) -> NDArray[np.int64]:
    """Number of the part of each frame, (frame,); `shared` is that of `overlap_of_probes`."""
    linked = shared > LINKED * shared[pairs.first == pairs.second].max()
    first, second = pairs.first[linked], pairs.second[linked]
    links = sp.coo_array((np.ones(len(first)), (first, second)), shape=(frames, frames))
    return connected_components(links, directed=False)[1].astype(np.int64)


def subtract_means(values: NDArray, part: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of frames, (frame,) or (frame, component), without the mean of each part."""
    columns, counts = values.reshape(len(values), -1), np.bincount(part)
    means = np.stack([np.bincount(part, column) / counts for column in columns.T], axis=1)
    return values - means[part].reshape(values.shape)


def overlap_of_probes(probe: NDArray, pairs: Pairs) -> NDArray[np.float64]:
    """``o_ij``: the autocorrelation of the probe's power at the distance of each pair, (pair,)."""
    power = (np.abs(probe.astype(np.complex128)) ** 2).sum(axis=0)
    shape = tuple(2 * size for size in power.shape)
    correlation = fft.irfft2(np.abs(fft.rfft2(power, shape)) ** 2, shape)
    return np.maximum(correlation[pairs.offset[:, 0] % shape[0], pairs.offset[:, 1] % shape[1]], 0)


def pair_weights(pairs: Pairs, curvature: NDArray, shared: NDArray) -> NDArray[np.float64]:
    """W_ij of each pair, (pair, component); for positions the components are yy, yx and xx.

    Parameters
    ----------
    pairs : Pairs
    curvature : (frame, component) array
        H'.
    shared : (pair,) array
        o_ij.
    """
    first, second = pairs.first, pairs.second
    frames, apart = len(curvature), first != second
    total = np.bincount(first, shared, frames) + np.bincount(second[apart], shared[apart], frames)
    share = shared / np.sqrt(total[first] * total[second])
    weights: NDArray[np.float64] = share[:, None] * (curvature[first] + curvature[second]) / 2
    return weights


def solve(matrix: Any, force: NDArray, most_steps: int) -> NDArray[np.float64]:
    """Solve ``matrix @ found = force`` by conjugate gradients; forces may have several components."""
    jacobi = sp.diags_array(1 / matrix.diagonal())
    found, _ = cg(matrix, force.ravel(), rtol=ACCURACY, maxiter=most_steps, M=jacobi)
    return found.reshape(force.shape)
