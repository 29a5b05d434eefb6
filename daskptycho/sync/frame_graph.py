"""The graph of overlapping frames on which positions and gains are found: links, weights, parts, a solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg

from daskptycho.tiling import Pairs, Shape, overlapping_pairs

__all__ = ["FrameGraph", "Frames", "laplacian", "link_frames", "pair_weights", "solve", "subtract_means"]

# Two frames are linked if they share more light than this part of what each shares with itself.
LINKED = 1e-3
# Relative residual at which conjugate gradients stop.
ACCURACY = 1e-3


class FittedTile(Protocol):
    """The part of what a tile contributes that tells the noise of its frames."""

    @property
    def misfit(self) -> float: ...

    @property
    def lit(self) -> int:
        """Number of pixels of the object that its frames determine; shared ones count in one tile only."""


class Frames(NamedTuple):
    """What is known of all frames of a run and does not change."""

    place: NDArray[np.float64]
    """(frame, 2) given positions in pixels."""
    number: NDArray[np.int64]
    """(frame,) numbers in the order of acquisition."""
    period: Shape | None
    pixels: float
    """Number of valid pixels of all frames."""

    def estimate_variance(self, tiles: Sequence[FittedTile]) -> float:
        """The variance of the noise of a measured amplitude, from the misfits of all tiles."""
        # Each pixel of the object fits two numbers.
        lit = sum(tile.lit for tile in tiles)
        return sum(tile.misfit for tile in tiles) / max(self.pixels - 2 * lit, self.pixels / 4)


class FrameGraph(NamedTuple):
    """The graph of frames that share light."""

    pairs: Pairs
    """Linked pairs, and each frame with itself. Those that share less light would triple their number and
    change what is found by half a per cent."""
    shared: NDArray[np.float64]
    """(pair,) ``o_ij``: the autocorrelation of the probe's power at the distance of each pair."""
    part: NDArray[np.int64]
    """(frame,) number of the part of each frame: parts are not linked with each other."""


def link_frames(position: NDArray, probe: NDArray, period: Shape | None) -> FrameGraph:
    """Find the pairs of frames that share light.

    Parameters
    ----------
    position : (frame, 2) array
        In pixels.
    probe : (mode, N, N) complex64 array
    period : (int, int) or None
        Size of a canvas that wraps round, in pixels.
    """
    height, width = probe.shape[-2:]
    power = (np.abs(probe.astype(np.complex128)) ** 2).sum(axis=0)
    spectrum = np.abs(fft.rfft2(power, (2 * height, 2 * width))) ** 2
    correlation = np.maximum(fft.irfft2(spectrum, (2 * height, 2 * width)), 0)
    links = correlation > LINKED * correlation[0, 0]
    # The correlation is even: its first quarter tells how far links reach along each axis.
    reach = (
        1 + int(np.flatnonzero(links.any(axis=1)[:height]).max(initial=0)),
        1 + int(np.flatnonzero(links.any(axis=0)[:width]).max(initial=0)),
    )
    near = overlapping_pairs(np.rint(position).astype(np.int64), reach, period)
    dy, dx = near.offset.T
    linked = links[dy, dx]
    pairs = Pairs(near.first[linked], near.second[linked], near.offset[linked])
    ends = (pairs.first, pairs.second)
    matrix = sp.coo_array((np.ones(len(pairs)), ends), shape=(len(position), len(position)))
    part = connected_components(matrix, directed=False)[1].astype(np.int64)
    return FrameGraph(pairs, correlation[dy, dx][linked], part)


def subtract_means(values: NDArray, part: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of frames, (frame,) or (frame, component), without the mean of each part."""
    columns, counts = values.reshape(len(values), -1), np.bincount(part)
    means = np.stack([np.bincount(part, column) / counts for column in columns.T], axis=1)
    return values - means[part].reshape(values.shape)


def pair_weights(graph: FrameGraph, curvature: NDArray) -> NDArray[np.float64]:
    """``W_ij = o_ij / sqrt(s_i s_j) (H'_i + H'_j) / 2`` of each pair with ``s_i = sum_j o_ij``.

    Parameters
    ----------
    graph : FrameGraph
    curvature : (frame, component) array
        H'; for positions the components are yy, yx and xx.

    Returns
    -------
    (pair, component) array
    """
    first, second, shared = graph.pairs.first, graph.pairs.second, graph.shared
    frames, apart = len(curvature), first != second
    total = np.bincount(first, shared, frames) + np.bincount(second[apart], shared[apart], frames)
    share = shared / np.sqrt(total[first] * total[second])
    weights: NDArray[np.float64] = share[:, None] * (curvature[first] + curvature[second]) / 2
    return weights


def laplacian(weights: NDArray, pairs: Pairs, frames: int, anchor: NDArray) -> Any:
    """``diag(sum_j W_ij) - W`` with an anchor added to the diagonal, a sparse matrix.

    Parameters
    ----------
    weights : (pair, component) array
        W_ij: one number, or yy, yx and xx.
    pairs : Pairs
    frames : int
    anchor : (component,) array

    Returns
    -------
    (frame, frame) or (2 frame, 2 frame) sparse array
        With three components y and x of each frame in turn.
    """
    apart = pairs.first != pairs.second
    first, second, weights = pairs.first[apart], pairs.second[apart], weights[apart]
    own = np.arange(frames)
    rows, columns = np.concatenate([first, second, own]), np.concatenate([second, first, own])
    twice = np.concatenate([weights, weights])
    total = np.stack([np.bincount(rows[:-frames], column, frames) for column in twice.T], axis=1)
    values = np.concatenate([-twice, total + anchor])
    pattern = sp.coo_array((np.arange(len(rows)), (rows, columns)), shape=(frames, frames)).tocsr()
    values = values[pattern.data]
    if weights.shape[1] == 1:
        return sp.csr_array((values[:, 0], pattern.indices, pattern.indptr), shape=pattern.shape)
    blocks = values[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    size = 2 * frames
    return sp.bsr_array((blocks, pattern.indices, pattern.indptr), shape=(size, size)).tocsr()


def solve(matrix: Any, force: NDArray, most_steps: int) -> NDArray[np.float64]:
    """Solve ``matrix @ found = force`` by conjugate gradients; forces may have several components.

    The matrix is one of rows (`scipy.sparse.csr_array`), as from `laplacian`.
    """
    # Rows and columns are scaled to a diagonal of ones rather than preconditioned, which takes half as long.
    scale = 1 / np.sqrt(matrix.diagonal())
    values = matrix.data * np.repeat(scale, np.diff(matrix.indptr)) * scale[matrix.indices]
    scaled = sp.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)
    found, _ = cg(scaled, scale * force.ravel(), rtol=ACCURACY, maxiter=most_steps)
    return (scale * found).reshape(force.shape)
