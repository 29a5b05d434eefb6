"""The parts of a scan, from its positions and the light of its probe."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho.scan.parts import describe_parts, label_parts
from tests import islands

PROBE = islands.make_probe()[None]
SHAPE = (islands.SIZE, islands.SIZE)


@pytest.mark.parametrize(
    "corner",
    [
        islands.islands(1, 2),
        islands.islands(5, 3),
        islands.islands(36),
        islands.parked(36),
        islands.comb(),
        islands.comb(teeth=2),
        islands.ring(),
        islands.island(1),
    ],
    ids=["one each", "five each", "islands", "parked", "comb", "U", "ring", "alone"],
)
@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "none"])
def test_parts_are_those_of_every_pair(corner: np.ndarray, probe: np.ndarray | None) -> None:
    order = np.random.default_rng(0).permutation(len(corner))
    for given in (corner, corner[order]):
        label = label_parts(given, probe, SHAPE)
        expected = islands.number_parts(given)
        assert len(np.unique(label)) == len(np.unique(expected)) == len(np.unique(label + 99 * expected))
        # In the order of their first frames.
        assert np.unique(label, return_index=True)[1].tolist() == sorted(
            np.unique(label, return_index=True)[1]
        )


def test_islands_meet_across_the_period() -> None:
    left, right = islands.island(16), islands.island(16) + np.array([0, 100])
    corner = np.concatenate([left, right]) + 2
    assert label_parts(corner, PROBE, SHAPE).max() == 1
    assert label_parts(corner, PROBE, SHAPE, (200, 200)).max() == 1
    assert label_parts(corner, PROBE, SHAPE, (200, 132)).max() == 0


def islands_apart(distance: int) -> np.ndarray:
    """Two islands whose nearest frames are this far apart, along x."""
    left = np.indices((4, 4)).reshape(2, -1).T * islands.STEP
    return np.concatenate([left, left + np.array([0, left[:, 1].max() + distance])])


def test_faint_light_links_where_there_is_little_noise() -> None:
    found = [
        [
            int(label_parts(islands_apart(apart), PROBE, SHAPE, None, residual).max()) + 1
            for apart in (18, 25, 31)
        ]
        for residual in (0.5, 1e-4)
    ]
    assert found == [[1, 2, 2], [1, 1, 2]]


def test_parts_are_described_with_their_sizes() -> None:
    assert describe_parts(np.zeros(7, dtype=int)) == ""
    assert describe_parts(np.array([0, 0, 1])).startswith("the scan falls into 2 parts (of 2, 1 frames)")
    many = describe_parts(np.arange(9))
    assert "9 parts (of 1, 1, 1, 1, ... frames)" in many
