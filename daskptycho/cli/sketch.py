"""Small pictures in characters, for terminals: a frame by its brightness, positions as dots.

`info` calls this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["place_side_by_side", "sketch_frame", "sketch_positions"]

# Characters from dark to bright.
SHADES = " .:-=+*#%@"
# Rows and columns of a picture; a character is twice as high as it is wide.
ROWS, COLUMNS = 16, 34


def sketch_frame(mean: ArrayLike) -> list[str]:
    """Draw a frame in lines of characters, on a logarithmic scale."""
    frame = np.log1p(np.maximum(np.asarray(mean, dtype=float), 0))
    small = _block_maxima(frame)
    top = small.max()
    level = np.zeros(small.shape) if top == 0 else small / top
    shades = np.minimum((level * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[shade] for shade in row) for row in shades]


def sketch_positions(position: ArrayLike, frame_shape: Sequence[int]) -> list[str]:
    """Draw the scan positions as dots in lines of characters."""
    centre = np.asarray(position, dtype=float)
    low = centre.min(axis=0)
    span = np.maximum(np.ptp(centre, axis=0), np.asarray(frame_shape, dtype=float) / 4)
    # The same scale along both axes.
    step = np.max(span / np.array([ROWS - 1, (COLUMNS - 1) / 2]))
    lines = np.full((ROWS, COLUMNS), " ")
    row, column = np.rint((centre - low) / (step, step / 2)).astype(int).T
    lines[np.minimum(row, ROWS - 1), np.minimum(column, COLUMNS - 1)] = "·"
    return ["".join(line) for line in lines]


def place_side_by_side(*pictures: tuple[str, list[str]]) -> str:
    """Place pictures with titles and borders side by side."""
    blocks = [
        [
            title.ljust(COLUMNS + 2),
            f"┌{'─' * COLUMNS}┐",
            *(f"│{line}│" for line in lines),
            f"└{'─' * COLUMNS}┘",
        ]
        for title, lines in pictures
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*blocks, strict=True))


def _block_maxima(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduce a frame to ROWS by COLUMNS blocks by the maximum of each, which keeps thin features."""
    for axis, count in enumerate((ROWS, COLUMNS)):
        edges = np.linspace(0, frame.shape[axis], count, endpoint=False).astype(int)
        frame = np.maximum.reduceat(frame, edges, axis=axis)
    return frame
