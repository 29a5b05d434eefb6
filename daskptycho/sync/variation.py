"""The variation of the probe after a sweep: weights of all frames together, modes, and their significance.

With the modes held fixed each frame has a small linear system, ``H_i dw_i = b_i``. What follows from the
weights of all frames: their mean, which belongs to the probe if that is recovered; a mixture of modes that
are orthogonal, with weights that are not correlated; and whether they explain more than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.sync.frame_graph import Frames

__all__ = ["Modes", "TileWeightSums", "Variation", "find_variation", "opening_level", "order_modes"]

# Added to H, relative to its mean: a frame on a dark part of the sample has hardly any weights.
RIDGE = 1e-3
# The largest eigenvalue of the covariance of noise in p pixels of n frames is its variance times
# (1 + sqrt(p / n))^2. In units of that, T of a steady probe comes to rest at 1.0 to 1.2, for any photons. A
# mode comes into use above the first level, and leaves it below the second.
OPEN, CLOSE = 2.0, 1.5
# While an image still settles, modes explain more than noise, and T rises and falls. A mode comes into use
# after this number of tests at the earliest, if T is at least the share below of its maximum since.
TESTS, SETTLED = 12, 0.9
# Nor does it with less of the probe's power than this: so little is not told from an image that settles on.
LEAST = 5e-4


def opening_level(tests: Sequence[float]) -> float:
    """The significance above which modes come into use in the coming sweep; infinite while it is too early.

    Parameters
    ----------
    tests : sequence of float
        T of the sweeps done, NaN for those without a test.
    """
    last = tests[-TESTS:]
    if len(last) < TESTS or not np.isfinite(last).all():
        return np.inf
    return max(OPEN, SETTLED * max(last))


class TileWeightSums(NamedTuple):
    """What the frames of a tile contribute to the update of all weights. Arrays are on the host."""

    value: NDArray[np.complex64]
    """(frame, 2, variation) weights that the sweep started from; see `model.probe_variation.ProbeWeight`."""
    before: NDArray[np.complex64]
    """(frame, variation) weights before the sweep, without momentum."""
    force: NDArray[np.complex128]
    """(frame, variation) b."""
    matrix: NDArray[np.complex128]
    """(frame, variation, variation) H."""
    misfit: float
    lit: int
    """Number of pixels of the object that the tile's frames determine; shared ones count in one tile only."""


class Modes(NamedTuple):
    """The modes of a varying probe in a sweep, (variation, N, N) complex64 each."""

    before: NDArray[np.complex64]
    """Before the sweep, without momentum."""
    start: NDArray[np.complex64]
    """Those that the sweep started from."""
    fitted: NDArray[np.complex64]
    """Those fitted to its frames with the weights that it started from."""


class Variation(NamedTuple):
    """The variation of the probe after an update."""

    weights: NDArray[np.complex64]
    """(frame, 2, variation); see `model.probe_variation.ProbeWeight`."""
    modes: NDArray[np.complex64]
    """(2, variation, N, N); see `model.probe_variation.ProbeVariation`."""
    significance: float
    """T: what a mode takes off the misfit, relative to what one that is fitted to noise would; the most of
    those on trial, and once all are in use, of these. About 1 if the probe does not vary."""
    share: float
    """``sum_k |w_ik|^2`` of the modes in use, on average: their power relative to the probe's."""


def find_variation(
    sums: Sequence[TileWeightSums],
    probe: NDArray,
    modes: Modes,
    frames: Frames,
    *,
    smooth: float | None,
    holds_mean: bool,
    opens_above: float,
) -> Variation:
    """Find the weights of all frames and the next modes.

    Parameters
    ----------
    sums : sequence of TileWeightSums
        One for each tile, in order.
    probe : (N, N) complex64 array
        The probe's first mode.
    modes : Modes
    frames : Frames
    smooth : float or None
        Width of the Gaussian over which weights are averaged in the order of acquisition, in frames.
    holds_mean : bool
        Whether the mean weight stays as it is, since the probe itself is recovered.
    opens_above : float
        The significance above which modes come into use; see `opening_level`.
    """
    value, before, force, matrix = (
        np.concatenate([getattr(tile, name) for tile in sums])
        for name in ("value", "before", "force", "matrix")
    )
    weights, start = value[:, 0].astype(np.complex128), modes.start.astype(np.complex128)
    used: Any = weights.any(axis=0)
    fitted, light = _fit(weights, force, matrix, frames, smooth)
    if not light > 0:
        return Variation(value, np.stack([modes.fitted] * 2), 0.0, 0.0)
    if holds_mean:
        # The probe takes it up.
        fitted -= (fitted - weights).mean(axis=0)
    following = np.where(used[:, None, None], modes.fitted, start).astype(np.complex128)
    if used.any():
        step = without(following[used] - start[used], [probe, *start[used]])
        following[used] = without(start[used] + step, [probe])
    explained = np.einsum("ik,ikk->k", np.abs(fitted) ** 2, matrix.real)
    if not used.all():
        trial = ~used
        ordered, mixture = order_modes(fitted[:, trial], start[trial], [probe, *start[used]])
        fitted[:, trial] = fitted[:, trial] @ mixture
        following[trial] = ordered
        back = np.linalg.pinv(mixture)
        own = np.einsum("pk,ikl,ql->ipq", back.conj(), matrix[:, trial][:, :, trial], back)
        explained[trial] = np.einsum("ik,ikk->k", np.abs(fitted[:, trial]) ** 2, own.real)
    significance = explained / _noise(sums, frames)
    most = float(significance[~used].max(initial=0) if not used.all() else significance.max())
    enough = (significance > OPEN) & ((np.abs(fitted) ** 2).mean(axis=0) > LEAST)
    # Once the first of them comes into use, so do all that are significant.
    opened = np.where(used, significance > CLOSE, enough & (most > opens_above))
    if not (opened & ~used).any():
        following[~used] = modes.fitted[~used]
    continued = used & opened
    weights_before = np.where(continued, before, fitted)
    modes_before = np.where(continued[:, None, None], modes.before, following)
    found = np.stack([fitted * opened, weights_before], axis=1).astype(np.complex64)
    share = measure_share(found[:, 0], following, probe)
    return Variation(found, np.stack([following, modes_before]).astype(np.complex64), most, share)


def measure_share(weights: NDArray, modes: NDArray, probe: NDArray) -> float:
    """The mean power of ``sum_k w_ik E_k`` over frames, relative to the power of the probe's first mode."""
    flat = modes.reshape(len(modes), -1).astype(np.complex128)
    moments = (weights.T @ weights.conj()).astype(np.complex128) / len(weights)
    power = np.einsum("kl,kp,lp->", moments, flat, flat.conj(), optimize=True).real
    return float(power / (np.abs(probe.astype(np.complex128)) ** 2).sum())


def _fit(
    weights: NDArray, force: NDArray, matrix: NDArray, frames: Frames, smooth: float | None
) -> tuple[NDArray, float]:
    """The weights that fit each frame best, and the mean of H."""
    count = weights.shape[1]
    light = float(np.trace(matrix, axis1=1, axis2=2).real.mean()) / count
    if not light > 0:
        return weights, 0.0
    if smooth is not None:
        # The step is to the average of what the frames ask for, had the modes not been in use.
        own = _average(np.einsum("ikl,il->ik", matrix, weights), frames.number, smooth)
        force, matrix = (_average(of, frames.number, smooth) for of in (force, matrix))
        force = force + own - np.einsum("ikl,il->ik", matrix, weights)
    damped = matrix + RIDGE * light * np.eye(count)
    return weights + np.linalg.solve(damped, force[..., None])[..., 0], light


def _noise(sums: Sequence[TileWeightSums], frames: Frames) -> float:
    """What a mode that is fitted to noise takes off the misfit."""
    count = sum(len(tile.value) for tile in sums)
    noise = frames.estimate_variance(sums) * count * (1 + np.sqrt(frames.pixels / count / count)) ** 2
    return float(max(noise, np.finfo(float).tiny))


def _average(values: NDArray, number: NDArray, width: float) -> NDArray:
    """Values of frames, averaged over a Gaussian in the order of their numbers."""
    # Imported where it is needed: runs that average no weights begin without it.
    from scipy.ndimage import gaussian_filter1d

    order = np.argsort(number, kind="stable")
    averaged = np.empty_like(values)
    averaged[order] = gaussian_filter1d(values[order], width, axis=0, mode="constant")
    return averaged


def without(arrays: NDArray, others: Sequence[NDArray]) -> NDArray[np.complex128]:
    """Arrays, (n, N, N), without their parts along the others, (N, N) each."""
    flat = arrays.reshape(len(arrays), -1).astype(np.complex128)
    basis, _ = np.linalg.qr(np.stack([other.ravel() for other in others], axis=1).astype(np.complex128))
    return (flat - (flat @ basis.conj()) @ basis.T).reshape(arrays.shape)


def order_modes(weights: NDArray, modes: NDArray, against: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Orthogonal modes of decreasing weight, and the mixture that weights are multiplied by.

    The modes are orthogonal to those of `against` too and have the power of its first, the probe. But for
    these parts, ``sum_k w_ik E_k`` stays the same; weights are not correlated, and as real as can be.
    """
    flat = without(modes, against).reshape(len(modes), -1)
    norm = np.linalg.norm(against[0])
    # flat = lower @ basis, where rows of the basis are orthonormal.
    basis, upper = np.linalg.qr(flat.T)
    lower, basis = upper.T, basis.T
    _, turn = np.linalg.eigh((weights @ lower).conj().T @ (weights @ lower))
    turn = turn[:, ::-1]
    square = ((weights @ lower @ turn) ** 2).sum(axis=0)
    turn = turn * np.exp(-0.5j * np.angle(square))
    ordered = turn.conj().T @ basis
    return (norm * ordered).reshape(modes.shape), lower @ turn / norm
