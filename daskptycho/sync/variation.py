"""Weights of a probe that varies, of all frames together: their fit, their significance, and order in the modes.

With the modes held fixed each frame has a small linear system, ``H_i w_i = b_i``. What is common to all frames
follows from all weights: their mean, which belongs to the probe if that is recovered; a mixture of the modes
that makes them orthogonal, with weights that are not correlated; and whether they explain more than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from daskptycho.sync.positions import Frames

__all__ = ["TileWeightSums", "Variation", "find_variation"]

# Added to H, relative to its mean: a frame on a dark part of the sample has hardly any weights.
RIDGE = 1e-3
# The largest eigenvalue of the covariance of noise in p pixels of n frames is its variance times
# (1 + sqrt(p / n))^2. A mode comes into use above this multiple, and leaves it below half of that.
SIGNIFICANT = 2.0


class TileWeightSums(NamedTuple):
    """What the frames of a tile contribute to the update of all weights. Arrays are on the host."""

    value: NDArray[np.complex64]
    """(frame, 2, variation) weights before; see `model.probe_variation.ProbeWeight`."""
    force: NDArray[np.complex128]
    """(frame, variation) b."""
    matrix: NDArray[np.complex128]
    """(frame, variation, variation) H."""
    misfit: float
    lit: int
    """Number of pixels of the object that the tile's frames determine; shared ones count in one tile only."""


class Variation(NamedTuple):
    """The variation of the probe after an update of its weights."""

    weights: NDArray[np.complex64]
    """(frame, 2, variation)"""
    modes: NDArray[np.complex64]
    """(variation, N, N), orthogonal to the probe and to each other, each with the power of the probe's first
    mode; the one with the most weight comes first."""
    significance: float
    """T of the first mode: what it takes off the misfit, relative to what a mode that has been fitted to
    noise would. About 1 or less if the probe does not vary."""
    share: float
    """``sum_k |w_ik|^2`` of the modes in use, on average: their power relative to the probe's."""


def find_variation(
    sums: Sequence[TileWeightSums],
    probe: NDArray,
    modes: NDArray,
    frames: Frames,
    *,
    smooth: float | None,
    holds_mean: bool,
) -> Variation:
    """Find the weights of all frames, and the modes in their order.

    Parameters
    ----------
    sums : sequence of TileWeightSums
        One for each tile, in order.
    probe : (mode, N, N) complex64 array
    modes : (variation, N, N) complex64 array
    frames : Frames
    smooth : float or None
        Width of the Gaussian over which weights are averaged in the order of acquisition, in frames.
    holds_mean : bool
        Whether the mean weight is zero, since the probe itself is recovered.
    """
    value, force, matrix = (
        np.concatenate([getattr(tile, name) for tile in sums]) for name in ("value", "force", "matrix")
    )
    used = value[:, 0].astype(np.complex128)
    count = used.shape[1]
    power = np.trace(matrix, axis1=1, axis2=2).real.mean() / count
    if not power > 0:
        return Variation(value, modes, 0.0, 0.0)
    # The fit to what the frames would have changed, had the modes not been in use.
    target = force + np.einsum("ikl,il->ik", matrix, used)
    if smooth is not None:
        target, matrix = (_average(of, frames.number, smooth) for of in (target, matrix))
    damped = matrix + RIDGE * power * np.eye(count)
    weights = np.linalg.solve(damped, target[..., None])[..., 0]
    if holds_mean:
        weights -= weights.mean(axis=0)
    modes, mixture = _order(weights, modes.astype(np.complex128), probe[0].astype(np.complex128))
    weights = weights @ mixture
    back = np.linalg.pinv(mixture)
    matrix = np.einsum("kp,ipq,lq->ikl", back.conj(), matrix, back)
    lit = sum(tile.lit for tile in sums)
    # Each pixel of the object fits two numbers.
    variance = sum(tile.misfit for tile in sums) / max(frames.pixels - 2 * lit, frames.pixels / 4)
    noise = variance * len(weights) * (1 + np.sqrt(frames.pixels / len(weights) / len(weights))) ** 2
    explained = np.einsum("ik,ikk->k", np.abs(weights) ** 2, matrix.real)
    significance = explained / max(noise, np.finfo(float).tiny)
    was_used = used.any()
    in_use = significance > (SIGNIFICANT / 2 if was_used else SIGNIFICANT)
    found = np.stack([weights * in_use, weights], axis=1).astype(np.complex64)
    share = float((np.abs(found[:, 0]) ** 2).mean(axis=0).sum())
    return Variation(found, modes.astype(np.complex64), float(significance[0]), share)


def _average(values: NDArray, number: NDArray, width: float) -> NDArray:
    """Values of frames, averaged over a Gaussian in the order of their numbers."""
    order = np.argsort(number, kind="stable")
    averaged = np.empty_like(values)
    averaged[order] = gaussian_filter1d(values[order], width, axis=0, mode="constant")
    return averaged


def _order(weights: NDArray, modes: NDArray, probe: NDArray) -> tuple[NDArray, NDArray]:
    """Modes orthogonal to the probe and to each other, and the mixture that weights are multiplied by.

    ``sum_k w_ik E_k`` stays the same, but for the part along the probe: a factor of frames.
    """
    flat, along, count = modes.reshape(len(modes), -1), probe.ravel(), len(modes)
    norm = np.linalg.norm(along)
    flat = flat - np.outer(flat @ along.conj(), along) / norm**2
    # flat = lower @ basis with orthonormal rows of the basis.
    basis, upper = np.linalg.qr(flat.T)
    lower, basis = upper.T, basis.T
    _, turn = np.linalg.eigh((weights @ lower).conj().T @ (weights @ lower))
    turn = turn[:, ::-1]
    mixture = lower @ turn
    # Weights of a mode are as real as can be.
    square = ((weights @ mixture) ** 2).sum(axis=0)
    phase = np.exp(-0.5j * np.angle(square))
    ordered = (turn * phase).conj().T @ basis
    return (norm * ordered).reshape(count, *probe.shape), mixture * phase / norm
