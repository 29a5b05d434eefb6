"""Scans that fall into parts, from a renderer that shares no code with the package.

The object is a sum of Gaussians, known at every point. Positions are whole pixels, [y, x].
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import daskptycho as dp

SIZE = 32
STEP = 5
# Pixels without light between the frames of two islands.
GAP = 6


def make_probe(size: int = SIZE) -> NDArray[np.complex128]:
    """A soft disc, defocused and without symmetry."""
    y, x = np.indices((size, size)) - size // 2
    squared = (y**2 + x**2) / (0.28 * size) ** 2
    return np.exp(-(squared**2) + 1.8j * squared) * (1 + 0.25 * np.exp(1j * (0.31 * y - 0.17 * x)))


def render_object(height: int, width: int, seed: int = 11) -> NDArray[np.complex128]:
    """Gaussians of 2 to 5 pixels in phase and absorption, a hundred and fifty for each 100 x 100 pixels."""
    random = np.random.default_rng(seed)
    phase, absorbed = np.zeros((2, height, width))
    for _ in range(max(20, height * width * 150 // 10_000)):
        at, radius = random.uniform(0, (height, width)), random.uniform(2, 5)
        turn, loss = random.uniform(-1.2, 1.2), random.uniform(0, 0.3)
        rows, columns = (
            slice(max(0, int(centre - 5 * radius)), int(centre + 5 * radius) + 1) for centre in at
        )
        y, x = np.mgrid[rows, columns]
        y, x = (
            y[: height - rows.start, : width - columns.start],
            x[: height - rows.start, : width - columns.start],
        )
        spot = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * radius**2))
        phase[rows, columns] += turn * spot
        absorbed[rows, columns] += loss * spot
    return np.exp(1j * phase - absorbed)


# Positions


def island(frames: int, seed: int = 0) -> NDArray[np.int64]:
    """Frames in a compact block, with jitter: (frame, 2) corners."""
    side = int(np.ceil(np.sqrt(frames)))
    grid = np.indices((side, side)).reshape(2, -1).T[:frames] * STEP
    return grid + np.random.default_rng(seed).integers(-1, 2, grid.shape)


def islands(frames: int, count: int = 2) -> NDArray[np.int64]:
    """Islands of this number of frames each, side by side, none of which overlap."""
    corners, x = [], 0
    for seed in range(count):
        own = island(frames, seed)
        own -= own.min(axis=0)
        corners.append(own + np.array([0, x]))
        x += own[:, 1].max() + SIZE + GAP
    return np.concatenate(corners)


def parked(frames: int) -> NDArray[np.int64]:
    """An island, and in the middle of it a frame from where the stage was parked."""
    own = island(frames)
    return np.insert(own, frames // 2, own.max(axis=0) + 3 * SIZE, axis=0)


def comb(teeth: int = 3, length: int = 12, width: int = 2) -> NDArray[np.int64]:
    """Teeth that hang together at one end; two teeth are a U."""
    apart = width * STEP + SIZE + GAP
    tooth = np.indices((length, width)).reshape(2, -1).T * STEP
    teeth_at = [tooth + np.array([2 * STEP, number * apart]) for number in range(teeth)]
    across = ((teeth - 1) * apart + width * STEP) // STEP
    back = np.indices((2, across)).reshape(2, -1).T * STEP
    corner = np.concatenate([*teeth_at, back])
    return corner + np.random.default_rng(0).integers(-1, 2, corner.shape)


def ring(radius: int = 48, width: int = 2) -> NDArray[np.int64]:
    """Circles of frames round a hole."""
    circles = []
    for own in radius + STEP * np.arange(width):
        angle = np.arange(0, 2 * np.pi, STEP / own)
        circles.append(own * np.stack([np.sin(angle), np.cos(angle)], axis=1))
    return np.rint(np.concatenate(circles)).astype(int)


def number_parts(corner: NDArray) -> NDArray[np.int64]:
    """The part of each frame, from every pair of frames that overlap."""
    near = (abs(corner[:, None] - corner) < SIZE).all(axis=2)
    return connected_components(coo_array(near))[1].astype(int)


# Scans


def simulate(
    url: Path, corner: NDArray, photons: float | None, tile_frames: int | None = None, seed: int = 0
) -> xr.Dataset:
    """A scan at these corners, with a mean number of photons in a frame; None: without noise."""
    corner = corner - corner.min(axis=0)
    truth, probe = render_object(*(corner.max(axis=0) + SIZE)), make_probe()
    exit_waves = np.stack([probe * truth[y : y + SIZE, x : x + SIZE] for y, x in corner])
    counts = abs(np.fft.fftshift(np.fft.fft2(exit_waves, norm="ortho"), axes=(1, 2))) ** 2
    counts *= (1e6 if photons is None else photons) / counts.sum(axis=(1, 2)).mean()
    if photons is not None:
        counts = np.random.default_rng(seed).poisson(counts)
    return dp.create_scan(
        url,
        counts.astype(np.float32),
        corner.astype(float),
        probe=probe,
        position_unit="pixel",
        tile_frames=tile_frames or len(corner),
        truth_object=truth,
        overwrite=True,
    )


class _Part(NamedTuple):
    image: NDArray
    truth: NDArray


def measure_error(result: xr.Dataset, *, ramp: bool = False, least: int = 1) -> float:
    """Relative error of the object where it is lit, with a factor for each part, and a ramp for all.

    Parts of fewer than `least` frames are left out.
    """
    corner = result["position"].values.astype(int)
    image, light = result["object"].values, result["illumination"].values
    truth = render_object(*image.shape)
    lit = light > 0.1 * np.percentile(light[light > 0], 98)
    part = np.full(image.shape, -1)
    for number, (y, x) in zip(number_parts(corner), corner, strict=True):
        part[y : y + SIZE, x : x + SIZE] = number
    frames = np.bincount(number_parts(corner))
    own = [lit & (part == number) for number in range(part.max() + 1) if frames[number] >= least]
    if ramp:
        image = image * _remove_ramp(np.where(lit, image * truth.conj(), 0), own)
    parts = [_Part(image[here], truth[here]) for here in own if here.any()]
    scaled = [np.vdot(p.image, p.truth) / np.vdot(p.image, p.image) * p.image for p in parts]
    wrong = sum(np.linalg.norm(s - p.truth) ** 2 for s, p in zip(scaled, parts, strict=True))
    return float(np.sqrt(wrong / sum(np.linalg.norm(p.truth) ** 2 for p in parts)))


def _remove_ramp(ratio: NDArray, parts: list[NDArray]) -> NDArray:
    """The factor that takes the common phase ramp out of image over truth."""
    size = 4 * max(ratio.shape)
    largest = sorted(parts, key=np.count_nonzero)[-4:]
    power = sum(abs(np.fft.fft2(np.where(part, ratio, 0), (size, size))) ** 2 for part in largest)
    peak = np.unravel_index(np.argmax(power), power.shape)
    first = np.array([k - size if k > size / 2 else k for k in peak]) / size
    y, x = np.indices(ratio.shape)

    def turned(frequency: NDArray) -> NDArray:
        return np.exp(-2j * np.pi * (frequency[0] * y + frequency[1] * x))

    def fit(frequency: NDArray) -> float:
        flat = ratio * turned(frequency)
        return -sum(abs(flat[part].sum()) for part in parts)

    simplex = first + np.array([[0, 0], [1, 0], [0, 1]]) / size
    options = {"xatol": 1e-7, "fatol": 1e-9, "initial_simplex": simplex}
    return turned(minimize(fit, first, method="Nelder-Mead", options=options).x)
