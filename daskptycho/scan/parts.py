"""The parts that a scan falls into: frames that share enough light to determine their relative phase.

It knows positions and the probe only, so that it holds before a run, after it, and without synchronisation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from daskptycho.tiling import Shape, Tiling, overlapping_pairs

__all__ = ["describe_parts", "has_parts", "label_parts"]

# Frames that share this part of their light are linked at any dose.
BRIGHT = 1e-2
# The phase between two parts is determined if the light that links them is more than this part of the misfit
# of one frame. The noise of a frame is spread over its pixels, a thousand of them or more.
TOLD = 1e-3
# Rounding errors, as a part of the light of a frame.
ROUNDING = 1e-7
# Nearest frames to look at first: in most scans they link all.
NEAREST = 8


def label_parts(
    corner: NDArray[np.int64],
    probe: NDArray | None,
    frame_shape: Shape,
    period: Shape | None = None,
    residual: float = 1.0,
) -> NDArray[np.int64]:
    """Number the part of each frame, in the order of their first frames.

    Parameters
    ----------
    corner : (frame, 2) int64 array
        Whole-pixel corner of each frame, [y, x].
    probe : (mode, y, x) array or None
        None: all pixels of a frame are lit alike.
    frame_shape : (int, int)
    period : (int, int), optional
        Size of a canvas that wraps round, in pixels.
    residual : float
        R2, the misfit as a part of the light. With less noise, fainter light determines a phase.

    Returns
    -------
    (frame,) int64 array
    """
    light = np.ones(frame_shape) if probe is None else (np.abs(probe.astype(complex)) ** 2).sum(axis=0)
    first, second, offset = _nearest_pairs(corner, frame_shape, period)
    bright = _correlate(light, offset) > BRIGHT
    label = _connect(first[bright], second[bright], len(corner))
    if label.max() == 0:
        return label
    pairs = overlapping_pairs(corner, frame_shape, period)
    bright = _correlate(light, pairs.offset) > BRIGHT
    label = _connect(pairs.first[bright], pairs.second[bright], len(corner))
    apart = label[pairs.first] != label[pairs.second]
    if not apart.any():
        return label
    row, column = label[pairs.first[apart]], label[pairs.second[apart]]
    unique, number = np.unique(pairs.offset[apart], axis=0, return_inverse=True)
    shared = np.array([_share(light, own) for own in unique])[number.ravel()]
    total = coo_array((shared, (row, column)), shape=(label.max() + 1,) * 2).tocsr()
    total = (total + total.T).tocoo()
    told = total.data > TOLD * min(residual, 1.0) + ROUNDING
    return _connect(total.row[told], total.col[told], total.shape[0])[label]


def has_parts(tiling: Tiling) -> bool:
    """Whether the frames of a scan, or of one of its tiles, fall into parts where they do not overlap."""
    corners = [tiling.corner, *(tile.corner for tile in tiling.tiles)]
    frame_shape, period = tiling.frame_shape, tiling.period
    return any(label_parts(corner, None, frame_shape, period).any() for corner in corners)


def _nearest_pairs(
    corner: NDArray[np.int64], frame_shape: Shape, period: Shape | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each frame with its nearest ones, and the offsets between them, the short way round a period."""
    size = np.array(frame_shape)
    points = corner if period is None else np.mod(corner, period)
    tree = KDTree(points / size, boxsize=None if period is None else np.array(period) / size)
    count = min(NEAREST + 1, len(corner))
    _, near = tree.query(points / size, k=count)
    first, second = np.repeat(np.arange(len(corner)), count), near.reshape(-1).astype(np.int64)
    offset = points[second] - points[first]
    if period is not None:
        half = np.array(period) // 2
        offset = np.mod(offset + half, period) - half
    return first, second, offset


def _connect(first: NDArray, second: NDArray, count: int) -> NDArray[np.int64]:
    """Components in the order of their first element."""
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    _, label = connected_components(links, directed=False)
    _, start, number = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[number].astype(np.int64)


def _correlate(light: NDArray, offset: NDArray[np.int64]) -> NDArray:
    """``sum_r p(r) p(r + offset) / sum_r p(r)^2`` of each offset; zero for frames that do not overlap."""
    height, width = light.shape
    shape = (2 * height, 2 * width)
    spectrum = rfft2(light, shape)
    table = irfft2(abs(spectrum) ** 2, shape) / (light**2).sum()
    inside = np.all(np.abs(offset) < np.array([height, width]), axis=1)
    y, x = np.where(inside[:, None], offset, 0).T
    return np.where(inside, table[y, x], 0)


def _share(light: NDArray, offset: NDArray[np.int64]) -> float:
    """``sum_r p q / (p + q) / sum_r p`` of two frames alone: |H| between them, for a transparent object."""
    height, width = light.shape
    dy, dx = (int(part) for part in offset)
    rows, columns = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
    back_rows, back_columns = (
        slice(max(0, -dy), height + min(0, -dy)),
        slice(max(0, -dx), width + min(0, -dx)),
    )
    own, other = light[rows, columns], light[back_rows, back_columns]
    both = own + other
    shared = np.divide(own * other, both, out=np.zeros_like(both), where=both > 0)
    return float(shared.sum() / light.sum())


def describe_parts(part: NDArray[np.int64]) -> str:
    """Say that the relative phases of parts are not determined; an empty sentence for one part.

    Frames that were left out are in part -1.
    """
    frames = np.bincount(part[part >= 0])
    if len(frames) < 2:
        return ""
    sizes = np.sort(frames)[::-1]
    listed = ", ".join(str(size) for size in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    return (
        f"the scan falls into {len(sizes)} parts (of {listed} frames) that share no light, or too little: "
        "the phase of one relative to another is not determined"
    )
