"""Parts: an eigenproblem for each, and the phases between them as far as light determines these."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from daskptycho.sync.eigensolvers import LobpcgIterate, PowerIterate
from daskptycho.sync.gramian import gramian_blocks
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.parts import (
    PartedIterate,
    find_links,
    find_overlaps,
    group_frames,
    synchronise,
)
from daskptycho.sync.phases import extract_phases, keep_significant, measure_gain, normalise, solve
from daskptycho.tiling import make_tiling
from tests import islands, plain

ALWAYS = Synchronisation(Sync("full", every=1, iterations=300), "degree")
AUTO = Synchronisation(Sync("full", iterations=300), "degree")


def chain(count: int, link: float = 0.3) -> np.ndarray:
    """H of frames in a row that agree: each shares this much with the next."""
    return np.eye(count) + link * (np.eye(count, k=1) + np.eye(count, k=-1))


def together(*blocks: np.ndarray, link: float = 0.0) -> np.ndarray:
    """Blocks on the diagonal; the last frame of each shares `link` with the first of the next."""
    h = sp.block_diag(blocks).toarray().astype(complex)
    for end in np.cumsum([len(block) for block in blocks])[:-1]:
        h[end - 1, end] = h[end, end - 1] = link
    return h


def scrambled(h: np.ndarray, seed: int = 0) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """H of the frames with a phase for each, what they share in all, and the phases that undo these."""
    phase = np.exp(2j * np.pi * np.random.default_rng(seed).random(len(h)))
    return sp.csr_array(phase.conj()[:, None] * h * phase), h.sum(axis=1).real, phase.conj()


def left_over(found: Any, undo: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Angles that the phases found leave in a part, apart from one for all."""
    left = found.phase[members] / undo[members]
    return np.angle(left / left[0])


# Which frames hang together


def test_one_part_needs_no_groups() -> None:
    assert find_links(sp.csr_array(chain(6).astype(complex))) is None


@pytest.mark.parametrize("link", [0.0, 5e-4])
def test_frames_without_a_bright_link_are_parts(link: float) -> None:
    h = together(chain(3), chain(1), chain(4), link=link)
    # In another order, in which each part has frames between those of others.
    order = np.array([0, 4, 1, 3, 5, 2, 6, 7])
    matrix = sp.csr_array(h[np.ix_(order, order)])
    before = matrix.toarray()
    groups = find_links(matrix)
    assert groups is not None
    assert [members.tolist() for members in groups.members] == [[0, 2, 5], [1, 4, 6, 7], [3]]
    assert groups.label.tolist() == [0, 1, 0, 2, 1, 0, 1, 1]
    np.testing.assert_array_equal(matrix.toarray(), before)


def test_a_frame_that_is_linked_to_none_before_it_need_not_be_a_part() -> None:
    order = np.array([0, 4, 2, 1, 3])
    assert find_links(sp.csr_array(chain(5)[np.ix_(order, order)].astype(complex))) is None


def test_frames_without_counts_are_no_parts() -> None:
    dark = np.zeros((1, 1))
    assert find_links(sp.csr_array(together(chain(3), dark, dark))) is None
    groups = find_links(sp.csr_array(together(dark, chain(3), dark, chain(2))))
    assert groups is not None
    assert [members.tolist() for members in groups.members] == [[0, 1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize("tiles", [1, 4])
def test_overlapping_pairs_of_all_tiles_give_the_parts(tiles: int) -> None:
    corner = islands.parked(7)
    chunks = tuple(len(part) for part in np.array_split(corner, tiles))
    groups = find_overlaps(gramian_blocks(make_tiling(corner, (32, 32), chunks)))
    assert groups is not None
    np.testing.assert_array_equal(groups.label, islands.number_parts(corner))
    assert find_overlaps(gramian_blocks(make_tiling(islands.island(8), (32, 32), (8,)))) is None


# Phases of each part


@pytest.mark.parametrize("eigensolver", ["lanczos", "lobpcg", "power"])
@pytest.mark.parametrize("normalisation", ["degree", "frame"])
def test_each_part_finds_its_phases(eigensolver: Any, normalisation: Any) -> None:
    h, power, undo = scrambled(together(chain(5), chain(30, 0.2), chain(1), chain(7, 0.4)))
    steps = 20_000 if eigensolver == "power" else 300
    how = Synchronisation(Sync("full", every=1, iterations=steps, eigensolver=eigensolver), normalisation)
    found = synchronise(h, power, how)
    assert found.part is not None
    assert np.bincount(found.part).tolist() == [5, 30, 1, 7]
    for number in range(4):
        members = np.flatnonzero(found.part == number)
        assert abs(left_over(found, undo, members)).max() < 1e-4
        assert np.angle((found.phase * power)[members].sum()) == pytest.approx(0, abs=1e-6)
    assert found.disagreement == pytest.approx(0, abs=1e-6)


def test_the_leading_eigenvector_of_all_parts_is_no_use() -> None:
    """What the parts are for: of H as a whole it is rounding noise on every part but one."""
    h, power, undo = scrambled(together(chain(40, 0.2), 0.7 * chain(40, 0.3)))
    noise = np.random.default_rng(1).normal(scale=0.02, size=(80, 80))
    h = sp.csr_array(h.multiply(np.exp(1j * np.triu(noise) - 1j * np.triu(noise).T)))
    parts = [np.arange(40), np.arange(40, 80)]
    one = extract_phases(solve(normalise(h, power, "degree"), ALWAYS.sync), power)
    assert max(abs(left_over(one, undo, members)).max() for members in parts) > 1
    found = synchronise(h, power, ALWAYS)
    assert max(abs(left_over(found, undo, members)).max() for members in parts) < 0.3


@pytest.mark.parametrize("link", [1e-6, 5e-4])
def test_a_faint_link_determines_the_phase_between_parts_that_agree(link: float) -> None:
    h, power, undo = scrambled(together(chain(30), chain(20), link=link))
    found = synchronise(h, power, ALWAYS)
    assert found.part is not None
    assert found.part.max() == 0
    assert abs(left_over(found, undo, np.arange(50))).max() < 1e-3


def test_a_link_fainter_than_the_misfit_determines_nothing() -> None:
    h, power, undo = scrambled(together(chain(30), chain(20), link=1e-6))
    # A tenth of the light of each frame is shared with none.
    found = synchronise(h, power / 0.9, ALWAYS)
    assert found.part is not None
    assert np.bincount(found.part).tolist() == [30, 20]
    for members in (np.arange(30), np.arange(30, 50)):
        assert abs(left_over(found, undo, members)).max() < 1e-4
        assert np.angle((found.phase * power)[members].sum()) == pytest.approx(0, abs=1e-6)


def test_noise_on_one_part_does_not_decide_about_another() -> None:
    """The bright part agrees but for long waves, the other is noise: only the first is turned."""
    wave = np.exp(0.05j * np.sin(np.arange(30)))
    bright = wave.conj()[:, None] * chain(30) * wave
    random = np.random.default_rng(2)
    noise = np.triu(random.normal(scale=0.02, size=(20, 20)), 1)
    faint = 1e-2 * chain(20) * np.exp(1j * (noise - noise.T))
    h = sp.csr_array(together(bright, faint))
    power = np.concatenate([chain(30).sum(axis=1), 1.8e-2 * chain(20).sum(axis=1)])
    found = synchronise(h, power, AUTO)
    assert abs(np.angle(found.phase[:30])).max() > 0.02
    assert np.all(found.phase[30:] == 1)
    # It was found all the same.
    always = synchronise(h, power, ALWAYS)
    assert abs(np.angle(always.phase[30:])).max() > 1e-3
    assert found.spread == pytest.approx(always.spread)


def test_phases_that_make_frames_agree_less_are_not_applied() -> None:
    random = np.random.default_rng(3)
    h = plain.complex_noise(random, (12, 40)).astype(complex)
    h = h @ h.conj().T
    phase = np.exp(1j * random.normal(size=12)).astype(np.complex64)
    expected = (phase.conj() @ h @ phase - h.sum()).real
    assert measure_gain(sp.csr_array(h), phase) == pytest.approx(expected, rel=1e-6)
    found = synchronise(sp.csr_array(h), np.diag(h).real, AUTO)
    assert found.gain == pytest.approx(measure_gain(sp.csr_array(h), found.phase))
    for gain, turned in ((1.0, True), (-1.0, False)):
        kept = keep_significant(plain_phases(phase, gain), 0.0)
        assert np.any(kept.phase != 1) == turned


def plain_phases(phase: np.ndarray, gain: float) -> Any:
    from daskptycho.sync.phases import Phases

    return Phases(phase, 0.1, 1.0, 1.0, gain)


# Solvers on blocks


@pytest.mark.parametrize("kind", [PowerIterate, LobpcgIterate])
def test_parts_are_stepped_as_if_each_were_alone(kind: Any) -> None:
    h, power, _ = scrambled(together(chain(9), chain(1), chain(6, 0.2)))
    normalised = normalise(h, power, "degree")
    start = normalised.consensus.astype(complex)
    groups = group_frames(np.repeat([0, 1, 2], [9, 1, 6]))
    all_parts = PartedIterate.begin(start, groups, kind)
    alone = [kind.begin(start[members]) for members in groups.members]
    blocks = [normalised.matrix[members][:, members] for members in groups.members]
    for _ in range(4):
        all_parts = all_parts.advance(normalised.matrix @ all_parts.vector)
        alone = [own.advance(block @ own.vector) for own, block in zip(alone, blocks, strict=True)]
    found = all_parts.conclude(normalised.matrix @ all_parts.vector)
    for pair, own, block in zip(found.pairs, alone, blocks, strict=True):
        expected = own.conclude(block @ own.vector)
        assert pair.value == pytest.approx(expected.value)
        np.testing.assert_allclose(pair.vector, expected.vector, atol=1e-12)
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    phases = found.extract_phases(power)
    assert np.bincount(phases.part).tolist() == [9, 1, 6]
    for pair, members in zip(found.pairs, groups.members, strict=True):
        expected = extract_phases(pair, power[members]).phase
        np.testing.assert_allclose(phases.phase[members], expected, atol=1e-6)
