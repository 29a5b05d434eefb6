"""Parts: frames, or tiles, that are linked by the light which they share.

The phase of one part relative to another is not determined, and the leading eigenvector of H over several
parts lives on one of them: elsewhere it is rounding noise. Each part is therefore an eigenproblem of its own.
Parts that only faint light links are solved apart as well, since any difference between their eigenvalues
would have the same effect. Their relative phases follow from a small matrix, in which each part is one
element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from daskptycho.backend import array_module, sparse_module, to_device_of, to_host
from daskptycho.sync.eigensolvers import Eigenpair, LobpcgIterate, PowerIterate
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.phases import (
    Phases,
    extract_phases,
    keep_gained,
    keep_significant,
    measure_gain,
    normalise,
    solve,
)

__all__ = [
    "Groups",
    "PartedIterate",
    "PartedPairs",
    "combine_parts",
    "find_links",
    "find_overlaps",
    "galerkin_matrix",
    "group_frames",
    "join_parts",
    "synchronise",
    "synchronise_one",
    "synchronise_parts",
]

Array = Any
Vector = Any
"""A (frame,) complex128 array."""
Matrix = Any
"""A (frame, frame) sparse Hermitian matrix, SciPy's or CuPy's."""

# Two frames are linked if |H_ij| is more than this share of sqrt(H_ii H_jj), which is what each shares with
# itself. A fainter link neither helps nor harms an eigenvector that frames between them determine.
LINKED = 1e-3
# The phase between two parts is determined if the light that links them is more than this share of the
# misfit of one frame. The noise of a frame is spread over its pixels, a thousand of them or more.
TOLD = 1e-3
# Most steps of the eigensolver for the matrix of the parts; fewer parts are diagonalised directly.
MOST_STEPS = 512
# Rounding errors of H, as a share of the power of a frame.
ROUNDING = 1e-7


class Groups(NamedTuple):
    """The frames of each part."""

    label: NDArray[np.int64]
    """(frame,) number of the part of each frame; parts are in the order of their first frames."""
    members: list[NDArray[np.int64]]
    """The numbers of the frames of each part."""


def group_frames(label: NDArray) -> Groups:
    """Collect the frames of each part, and number parts in the order of their first frames."""
    _, first, number = np.unique(label, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    label = rank[number].astype(np.int64)
    order = np.argsort(label, kind="stable")
    return Groups(label, np.split(order, np.cumsum(np.bincount(label))[:-1]))


def find_links(h: Matrix) -> Groups | None:
    """Find the parts of H that links brighter than `LINKED` hold together; None if there is only one.

    Frames without any counts count as frames of the first part. For H on a GPU only one number is copied to
    the host if each frame is linked to an earlier one, as in most scans.
    """
    xp, sparse = array_module(h.data), sparse_module(h.data)
    own = xp.maximum(h.diagonal().real, 0)
    row = h.tocoo().row
    strong = abs(h.data) ** 2 > LINKED**2 * own[row] * own[h.indices]
    earlier = sparse.csr_array(
        ((strong & (h.indices < row)).astype(np.float64), h.indices, h.indptr), shape=h.shape
    )
    # A frame that is linked to no earlier one begins a part, or joins one later.
    if int(((own > 0) & (earlier @ xp.ones(len(own)) == 0)).sum()) <= 1:
        return None
    strong, row, column = to_host(strong), to_host(row), to_host(h.indices)
    label = _label_connected(row[strong], column[strong], len(own))
    lit = to_host(own) > 0
    label[~lit] = label[lit][0]
    return group_frames(label) if len(np.unique(label)) > 1 else None


def find_overlaps(blocks: Sequence[GramianBlock]) -> Groups | None:
    """Find the parts of all frames from the pairs of H that overlap; None if there is only one.

    Parameters
    ----------
    blocks : sequence of GramianBlock
        The upper triangle of H, with pairs.
    """
    sizes = dict.fromkeys(range(1 + max(block.row for block in blocks)), 0)
    sizes |= {block.row: block.shape[0] for block in blocks}
    start = np.cumsum([0, *sizes.values()])
    row = np.concatenate([start[block.row] + block.pair[:, 0] for block in blocks])
    column = np.concatenate([start[block.column] + block.border[block.pair[:, 1]] for block in blocks])
    groups = group_frames(_label_connected(row, column, int(start[-1])))
    return groups if len(groups.members) > 1 else None


@dataclass(frozen=True)
class PartedIterate:
    """An iterate of a solver on each part of H, for a matrix that is never assembled.

    Attributes
    ----------
    members : list of arrays
        The numbers of the frames of each part, on the device of the vectors.
    iterates : list of iterates
        `PowerIterate` or `LobpcgIterate`, one for each part.
    """

    members: list[Array]
    iterates: list[Any]

    @staticmethod
    def begin(start: Vector, groups: Groups, kind: type[PowerIterate] | type[LobpcgIterate]) -> PartedIterate:
        """The iterate before the first step."""
        members = [to_device_of(own, start) for own in groups.members]
        return PartedIterate(members, [kind.begin(start[own]) for own in members])

    @property
    def vector(self) -> Vector:
        """The vector whose product with the matrix the next step needs."""
        return _join(self.members, [own.vector for own in self.iterates])

    def advance(self, product: Vector) -> PartedIterate:
        """The iterate after one more step."""
        own = zip(self.members, self.iterates, strict=True)
        return replace(self, iterates=[iterate.advance(product[members]) for members, iterate in own])

    def conclude(self, product: Vector) -> PartedPairs:
        """The eigenpairs of the parts."""
        own = zip(self.members, self.iterates, strict=True)
        return PartedPairs(self.members, [iterate.conclude(product[members]) for members, iterate in own])


@dataclass(frozen=True)
class PartedPairs:
    """The leading eigenpair of each part of H.

    Attributes
    ----------
    members : list of arrays
        The numbers of the frames of each part, on the device of the vectors.
    pairs : list of Eigenpair
    """

    members: list[Array]
    pairs: list[Eigenpair]

    @property
    def vector(self) -> Vector:
        """All eigenvectors as one vector of unit norm, in which each frame has the same share."""
        count = sum(len(members) for members in self.members)
        scaled = [(len(pair.vector) / count) ** 0.5 * pair.vector for pair in self.pairs]
        return _join(self.members, scaled)

    def extract_phases(self, power: Array) -> Phases:
        """The phases of all frames, without the mean phase of each part."""
        own = zip(self.members, self.pairs, strict=True)
        found = [extract_phases(pair, power[members]) for members, pair in own]
        return combine_parts(self.members, found, power)


def _join(members: Sequence[Array], vectors: Sequence[Vector]) -> Vector:
    """The vectors of parts as one vector of all frames."""
    joined = array_module(vectors[0]).empty(sum(map(len, members)), dtype=vectors[0].dtype)
    for of_part, vector in zip(members, vectors, strict=True):
        joined[of_part] = vector
    return joined


def combine_parts(members: Sequence[Array], found: Sequence[Phases], power: Array) -> Phases:
    """The phases of parts as phases of all frames.

    Disagreement, localisation and the square of the spread are means over the parts, weighted by their power.
    """
    of_part = [float(power[own].sum()) for own in members]
    share = np.array(of_part) / max(sum(of_part), np.finfo(float).tiny)
    label = np.zeros(len(power), dtype=np.int64)
    for number, own in enumerate(members):
        label[to_host(own)] = number
    scalars = np.array([(own.disagreement, own.spread**2, own.localisation) for own in found])
    disagreement, squared, localisation = (float(mean) for mean in share @ scalars)
    phase = _join(members, [own.phase for own in found])
    return Phases(phase, disagreement, squared**0.5, localisation, part=label)


def _label_connected(row: NDArray, column: NDArray, count: int) -> NDArray:
    links = sp.coo_array((np.ones(len(row)), (row, column)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def synchronise(
    h: Matrix,
    power: Array,
    how: Synchronisation,
    *,
    steps: Callable[[int], int] | None = None,
    frames: NDArray | None = None,
) -> Phases:
    """Find the phases of frames from H over all of them, or those of tiles from G.

    Parameters
    ----------
    h : (frame, frame) sparse Hermitian array
    power : (frame,) array
        ``|z_i|^2``.
    how : Synchronisation
    steps : callable, optional
        Number of steps of the eigensolver for a number of frames; `Sync.steps` by default.
    frames : (frame,) array, optional
        Number of frames that each element stands for; one by default.

    Returns
    -------
    Phases
        If there is one part, they have still to be compared with the residual (`phases.keep_significant`).
        If there are several, those that are not significant are ones already.
    """
    groups = find_links(h) if len(power) > 1 else None
    if groups is None:
        return synchronise_one(h, power, how, steps)
    found = synchronise_parts(h, power, how, groups, steps=steps)
    return join_parts(h, power, how, found, np.ones(len(power)) if frames is None else frames)


def synchronise_one(
    h: Matrix, power: Array, how: Synchronisation, steps: Callable[[int], int] | None = None
) -> Phases:
    """Find the phases of frames that are one part; see `synchronise`."""
    assert how.normalisation is not None
    if len(power) == 1:
        # Divided by its own degree the only entry is one; divided by the power it tells how far frames agree.
        whole = abs(h.data).sum() if how.normalisation == "degree" else power[0]
        value = float(h.data[0].real / whole) if len(h.data) and whole else 0.0
        return Phases(array_module(power).ones(1, dtype=np.complex64), 1 - value, 0.0, 1.0)
    number = (steps or how.sync.steps)(len(power))
    pair = solve(normalise(h, power, how.normalisation), how.sync, number)
    found = extract_phases(pair, power)
    return replace(found, gain=measure_gain(h, found.phase)) if how.only_significant else found


def synchronise_parts(
    h: Matrix,
    power: Array,
    how: Synchronisation,
    groups: Groups,
    *,
    steps: Callable[[int], int] | None = None,
    residual: float | None = None,
    pixels: float = 1 / TOLD,
) -> Phases:
    """Find the phases of the frames of each part, without its mean phase.

    Parameters
    ----------
    h, power, how, steps
        See `synchronise`.
    groups : Groups
        From `find_links`.
    residual : float, optional
        R2, which decides whether phases are significant; the disagreement of each part's own frames by
        default.
    pixels : float
        Number of pixels of a frame, over which its noise is spread.

    Returns
    -------
    Phases
        ``disagreement`` and ``localisation`` are means over the parts, weighted by their power.
    """
    host, of_frame = _to_host(h), to_host(power)
    found, tested = [], []
    for members in groups.members:
        own, its_power = host[members][:, members], of_frame[members]
        of_part = synchronise_one(own, its_power, how, steps)
        found.append(of_part)
        if how.only_significant:
            misfit = _disagreement(own, its_power) if residual is None else residual
            of_part = keep_significant(of_part, misfit)
            of_part = keep_gained(of_part, misfit * float(its_power.sum()), pixels)
        tested.append(of_part)
    return replace(
        combine_parts(groups.members, found, of_frame),
        phase=to_device_of(_join(groups.members, [own.phase for own in tested]), power),
    )


def _disagreement(h: Matrix, power: NDArray) -> float:
    """``1 - sum_ij H_ij / sum_i |z_i|^2``: the squared distance of the frames from one object, like R2."""
    total = float(power.sum())
    return max(0.0, 1 - float(h.sum().real) / total) if total else 0.0


def _to_host(h: Matrix) -> Matrix:
    return sp.csr_array((to_host(h.data), to_host(h.indices), to_host(h.indptr)), shape=h.shape)


def galerkin_matrix(h: Matrix, found: Phases) -> Matrix:
    """``V* H V`` on the host: column p of V holds the phases of the frames of part p."""
    assert found.part is not None
    phase = to_host(found.phase).astype(np.complex128)
    v = sp.csr_array((phase, (np.arange(len(phase)), found.part)))
    return sp.csr_array(v.conj().T @ _to_host(h) @ v)


def join_parts(h: Matrix, power: Array, how: Synchronisation, found: Phases, frames: NDArray) -> Phases:
    """Find the relative phases of parts that faint light links, as far as they are determined.

    Parameters
    ----------
    h, power, how
        See `synchronise`.
    found : Phases
        From `synchronise_parts`.
    frames : (frame,) array
        Number of frames that each element stands for.

    Returns
    -------
    Phases
        Their ``part`` numbers the parts whose relative phases are not determined.
    """
    assert found.part is not None
    part, of_frame, phase = found.part, to_host(power), to_host(found.phase)
    between = galerkin_matrix(h, found)
    of_part, count = np.bincount(part, of_frame), np.bincount(part, frames)
    # The misfit of a part: what its frames do not share, neither with each other nor with other parts.
    misfit = np.maximum(of_part - np.asarray(abs(between).sum(axis=1)), 0)
    faintest = np.sqrt((TOLD * misfit + ROUNDING * of_part) / count)
    entries = between.tocoo()
    told = abs(entries.data) > faintest[entries.row] * faintest[entries.col]
    kept = sp.csr_array((entries.data[told], (entries.row[told], entries.col[told])), shape=between.shape)
    label = _label_connected(entries.row[told], entries.col[told], len(of_part))
    turned = np.ones(len(of_part), dtype=np.complex64)
    squared = 0.0
    for members in group_frames(label).members:
        if len(members) == 1:
            continue
        own = kept[members][:, members]
        normalised = normalise(own, of_part[members], "degree")
        pair = solve(normalised, Sync(), min(8 * len(members), MOST_STEPS))
        joint = extract_phases(pair, of_part[members])
        joint = replace(joint, gain=measure_gain(own, joint.phase))
        squared += of_part[members].sum() / max(of_part.sum(), np.finfo(float).tiny) * joint.spread**2
        if how.only_significant:
            joint = keep_significant(joint, _disagreement(own, of_part[members]))
        turned[members] = joint.phase
    return replace(
        found,
        phase=to_device_of(phase * turned[part], power),
        spread=float(np.sqrt(found.spread**2 + squared)),
        part=group_frames(label[part]).label,
    )
