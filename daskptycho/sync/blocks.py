"""Phases of the frames of a large tile: those of blocks of neighbouring frames, then one for each block.

The steps that the eigensolver needs grow with the square root of the number of frames. In blocks they stay as
few as those of a small tile, whose H stays in the cache of a core. The matrix of the blocks is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from daskptycho.backend import array_module
from daskptycho.sync.options import Synchronisation
from daskptycho.sync.parts import combine_parts, find_links, galerkin_matrix, synchronise_one
from daskptycho.sync.phases import Phases, measure_gain
from daskptycho.tiling import Tile, compact_order

__all__ = ["BLOCK_FRAMES", "synchronise_frames"]

# Most frames of a block. With as many, 65 536 frames of 32x32 took a fifth of the time in one piece.
BLOCK_FRAMES = 4096

Array = Any


def synchronise_frames(tile: Tile, h: Any, power: Array, how: Synchronisation) -> Phases:
    """Find the phases of the frames of a tile that is one part; see `parts.synchronise_one`.

    Those of a large tile on the host are found in blocks.
    """
    if len(tile) <= BLOCK_FRAMES or array_module(power) is not np:
        return synchronise_one(h, power, how)
    members, inside = [], []
    for block, own in _divide(tile, h):
        members.append(block)
        inside.append(synchronise_one(own, power[block], how))
    found = combine_parts(members, inside, power)
    assert found.part is not None
    of_block = np.bincount(found.part, power)
    g = galerkin_matrix(h, found)
    g = sp.csr_array((g + g.conj().T) / 2)
    joint = synchronise_one(g, of_block, how, how.sync.steps_of_tiles)
    phase = found.phase * joint.phase[found.part]
    # As for tiles: see `two_level.find_tile_phases`.
    return replace(
        joint,
        phase=phase,
        disagreement=joint.disagreement + (found.disagreement if how.normalisation == "degree" else 0.0),
        spread=math.hypot(found.spread, joint.spread),
        localisation=found.localisation * joint.localisation,
        gain=measure_gain(h, phase) if how.only_significant else math.inf,
    )


def _divide(tile: Tile, h: Any) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Blocks of about equal size whose frames lie close together and are linked, and H of each."""
    count = -(-len(tile) // BLOCK_FRAMES)
    size = -(-len(tile) // count)
    order = compact_order(tile.corner, size)
    for start in range(0, len(order), size):
        block = np.sort(order[start : start + size])
        own = h[block][:, block]
        groups = find_links(own)
        if groups is None:
            yield block, own
            continue
        for part in groups.members:
            yield block[part], own[part][:, part]
