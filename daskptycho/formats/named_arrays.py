"""Arrays of files that follow no convention: found by their usual names, or named by the user.

The readers of npz, HDF5, MATLAB and Zarr files share this. An array is anything with `shape`, `dtype` and
values under ``[()]``, and with `attrs` if the format has attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.array_shapes import (
    DIMENSIONS,
    are_columns,
    could_be_frames,
    could_be_small,
    counts_of_frames,
    fit_raster,
    small_array,
)
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.offers import (
    NUMBERS,
    Keys,
    Offer,
    describe,
    number_offer,
    require,
    take,
)
from daskptycho.formats.positions import (
    Positions,
    axis_of,
    count_positions,
    join_columns,
    read_positions,
)
from daskptycho.formats.units import split_unit, unit_of
from daskptycho.formats.usual_names import (
    LOOSE_NAMES,
    NEVER_GUESSED,
    PTYLAB,
    PTYLAB_NAMES,
    USUAL_NAMES,
    are_amplitudes,
    bare_name,
    last_part,
)

__all__ = ["NamedArrays", "read_named_arrays"]

# Arrays that an error lists.
MOST_LISTED = 20


def read_named_arrays(
    arrays: NamedArrays,
    keys: Keys,
    source: str,
    open_frames: Callable[..., LazyFrames],
    *,
    usually_last: bool = False,
) -> dict[str, Any]:
    """Read a scan from named arrays.

    Parameters
    ----------
    arrays : NamedArrays
    keys : Keys
        What the user has named.
    source : str
        Name of the file.
    open_frames : callable
        Returns the frames of the array under a path, with ``last=True`` if their axes come last.
    usually_last : bool
        Whether they do if nothing tells.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        There are no frames, or the user has named what is not there.
    """
    frames = arrays.frames(keys)
    where = frames[0].where
    stored = tuple(int(n) for n in arrays.find("intensity", where)[1].shape)
    last = keys.frames_come_last(stored, arrays.position_counts(keys), usually=usually_last)
    scan, detector = (stored[2:], stored[:2]) if last else (stored[:-2], stored[-2:])
    if last != usually_last and keys.frame_axis is None:
        warn_caller(
            f"{where} of {source} is taken as {'(qy, qx, frame)' if last else '(frame, qy, qx)'}, by the "
            "number of positions; frame_axis (--frame-axis) chooses"
        )
    while len(scan) > 1 and scan[0] == 1:
        scan = scan[1:]
    shape = (*scan, *detector)
    offers = {"intensity": frames, "position": arrays.positions(keys, shape)}
    offers |= {name: arrays.small(name, keys, detector) for name in DIMENSIONS}
    found, account = take(offers | arrays.numbers(keys), keys, source)
    found["intensity"] = open_frames(where, last=last)
    if len(scan) == 2:
        found["scan_shape"] = scan
    return found | {"account": account, "amplitudes": are_amplitudes(where), "source": source}


@dataclass(frozen=True)
class NamedArrays:
    """The arrays of one file.

    Attributes
    ----------
    arrays : mapping
        By path.
    source : str
        The file, for messages.
    read : callable
        Returns the values of an array; raises `ScanError` if they are incomplete.
    look_up : callable
        Returns the array under any path that a user may give, None if there is none.
    attributes : mapping
        Numbers of the file as a whole.
    broken : mapping
        What is wrong with links that lead nowhere, by path.
    """

    arrays: Mapping[str, Any]
    source: str
    read: Callable[[Any], NDArray[Any]] = np.asarray
    look_up: Callable[[str], Any] = lambda key: None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str, key: str) -> tuple[str, Any]:
        """The array that a user has named by its path, or by the end of its path, and its path.

        Raises
        ------
        ScanError
            There is none, or more than one.
        """
        found = self.look_up(key)
        if found is not None and hasattr(found, "dtype"):
            return key, found
        wanted = f"/{key.strip('/')}".lower()
        ending = [path for path in self.arrays if f"/{path.strip('/')}".lower().endswith(wanted)]
        if len(ending) == 1:
            return ending[0], self.arrays[ending[0]]
        if ending:
            raise ScanError(f"{name} is to be {key}, but {self.source} has {', '.join(ending)}; expected one")
        raise self.not_found(name, key)

    def not_found(self, name: str, key: str | None) -> ScanError:
        """The error for something that is not among the arrays."""
        listed = [f"{path}, which {reason}" for path, reason in self.broken.items()]
        listed += [f"{path} ({describe(array)})" for path, array in self.arrays.items()]
        more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
        usual = f"one of {', '.join(USUAL_NAMES.get(name, ()))}"
        option = f"keys (--key {name}=PATH)" if name in NUMBERS else f"{name}_key (--{name}-key)"
        return ScanError(
            f"{name} is not found in {self.source}: it holds {', '.join(listed[:MOST_LISTED]) or 'no arrays'}"
            f"{more}; expected {repr(key) if key is not None else usual}: name it with {option}"
        )

    def position_counts(self, keys: Keys) -> set[int]:
        """Numbers of positions that the arrays with the names of positions could hold."""
        if keys.position_key is not None:
            parts = [self.find("position", part)[1] for part in keys.position_key.split("+")]
            return {count_positions(parts[0]) if len(parts) == 1 else int(parts[0].size)}
        counts = {count_positions(array) for _, array in self._by_usual_names("position")}
        return (counts | {int(first[1].size) for first, _ in self._usual_pairs()}) - {0}

    def frames(self, keys: Keys) -> list[Offer]:
        """Offers of frames, each of which returns the path of its array.

        Raises
        ------
        ScanError
            There are none.
        """
        if keys.intensity_key is not None:
            where, array = self.find("intensity", keys.intensity_key)
            if not could_be_frames(array):
                raise ScanError(
                    f"intensity ({where}) is {describe(array)}; expected counts, (frame, qy, qx) or "
                    "(row, column, qy, qx)"
                )
            return [Offer(where, describe(array), lambda: where)]
        counts = self.position_counts(keys)
        usual = [(path, array) for path, array in self._by_usual_names("intensity") if could_be_frames(array)]
        usual.sort(key=lambda item: not counts_of_frames(item[1].shape) & counts)
        if not usual:
            raise self.not_found("intensity", None)
        paths = {path for path, _ in usual}
        named = {path for path, _ in self._by_usual_names("position")} | paths
        stacks = ((path, array) for path, array in self.arrays.items() if could_be_frames(array))
        offers = [self._path_offer(path, array) for path, array in usual]
        return offers + [self._path_offer(*item, rival=False) for item in stacks if item[0] not in named]

    def positions(self, keys: Keys, shape: tuple[int, ...]) -> list[Offer]:
        """Offers of positions for frames of this shape, each of which returns `Positions`."""
        if keys.position_key is not None:
            named = [self.find("position", part) for part in keys.position_key.split("+")]
            if len(named) > 2:
                raise ScanError(
                    f"position is to be {keys.position_key}; expected one array, or two with a plus"
                )
            if len(named) == 2:
                return [self._pair_offer(named, shape, keys)]
            return [self._position_offer(*named[0], columns=keys.position_columns)]
        usual = self._by_usual_names("position")
        single = [item for item in usual if count_positions(item[1])]
        others = [item for item in usual if len(item[1].shape) > 1 and not count_positions(item[1])]
        scan = shape[:-2]
        frames = int(np.prod(scan))
        single.sort(key=lambda item: count_positions(item[1]) != frames)
        pairs = [pair for pair in self._usual_pairs() if fit_raster([a.size for _, a in pair], scan)]
        pairs += [pair for pair in self._other_pairs(scan) if pair not in pairs]
        return [
            *(self._position_offer(*item) for item in single),
            *(self._pair_offer(pair, shape, keys) for pair in pairs),
            *(replace(self._position_offer(*item), on_demand=True) for item in others),
        ]

    def only_positions(self, keys: Keys, source: str) -> Positions:
        """The positions of a file that needs to have nothing else.

        Raises
        ------
        ScanError
            There are none.
        """
        counts = self.position_counts(keys)
        offers = [offer for count in sorted(counts) for offer in self.positions(keys, (count, 1, 1))]
        offers = list({offer.where: offer for offer in offers}.values())
        if not offers:
            raise self.not_found("position", None)
        found: Positions = require(take({"position": offers}, keys, source)[0]["position"])
        return found

    def small(self, name: str, keys: Keys, frame: tuple[int, ...]) -> list[Offer]:
        """Offers of the probe, the mask or the background, for frames of this shape."""
        key = keys.of(name)
        if name == "valid" and key is not None:
            return [self._masks(key, frame)]
        found = self._by_usual_names(name) if key is None else [self.find(name, key)]

        def offer(where: str, array: Any) -> Offer:
            fits = tuple(array.shape[-2:]) == tuple(frame)
            on_demand = key is None and (name in NEVER_GUESSED or not fits)
            return Offer(
                where, describe(array), lambda: small_array(self.read(array), name, where), on_demand
            )

        offers = [offer(*item) for item in found if key is not None or could_be_small(item[1])]
        if name == "probe" and offers and all(own.on_demand for own in offers):
            warn_caller(
                f"probe: {offers[0]} of {self.source} is left out: not of {frame[0]} x {frame[1]} pixels"
            )
        return offers

    def named_offers(self, keys: Keys, shape: tuple[int, ...]) -> dict[str, list[Offer]]:
        """Offers of what the user has named besides the frames, which have this shape.

        The positions are taken as they are: no sign is changed for a sample that moves.
        """
        offers = {
            name: self.small(name, keys, shape[-2:]) for name in DIMENSIONS if keys.of(name) is not None
        }
        if keys.position_key is not None:
            offers["position"] = self.positions(keys, shape)
        offers |= {name: [self._number(*self.find(name, key), name)] for name, key in keys.keys.items()}
        return offers

    def numbers(self, keys: Keys) -> dict[str, list[Offer]]:
        """Offers of the numbers of the geometry."""
        offers: dict[str, list[Offer]] = {name: [] for name in NUMBERS}
        for name, key in keys.keys.items():
            offers[name].append(self._number(*self.find(name, key), name))
        for path, value in self.attributes.items():
            if path in NUMBERS and path not in keys.keys:
                offers[path].append(number_offer(f"attribute {path}", np.asarray(value), path))
        ptylab = {last_part(path) for path in self.arrays} >= PTYLAB
        for exact in (True, False):
            for path, array in self.arrays.items():
                own = last_part(path) in NUMBERS
                name = last_part(path) if own else self._loose_name(path, ptylab=ptylab)
                if own is exact and name and array.dtype.kind in "iuf" and name not in keys.keys:
                    unit = (
                        unit_of(getattr(array, "attrs", {}))
                        or split_unit(last_part(path), NUMBERS[name][0])[1]
                    )
                    told = own or unit is not None or (ptylab and last_part(path) in PTYLAB_NAMES)
                    offers[name].append(self._number(path, array, name, on_demand=not told))
        return offers

    def _number(self, path: str, array: Any, name: str, *, on_demand: bool = False) -> Offer:
        return number_offer(path, array, name, on_demand=on_demand, read=self.read)

    def _loose_name(self, path: str, *, ptylab: bool) -> str:
        if ptylab and last_part(path) in PTYLAB_NAMES:
            return PTYLAB_NAMES[last_part(path)]
        return LOOSE_NAMES.get(bare_name(path, "length"), LOOSE_NAMES.get(bare_name(path, "energy"), ""))

    def _by_usual_names(self, name: str) -> list[tuple[str, Any]]:
        """Arrays with a usual name, in the order of the names; of one name, the least nested one first."""
        usual = USUAL_NAMES[name]
        named = [(path, array) for path, array in self.arrays.items() if bare_name(path, "length") in usual]
        return sorted(
            named, key=lambda item: (usual.index(bare_name(item[0], "length")), item[0].count("/"), item[0])
        )

    def _usual_pairs(self) -> list[list[tuple[str, Any]]]:
        """Pairs of arrays in one group with the usual names of the two columns of positions."""
        found = []
        for usual in USUAL_NAMES["position"]:
            if "+" in usual:
                first, second = usual.split("+")
                for group, members in self._groups():
                    named = {bare_name(path, "length"): (path, array) for path, array in members}
                    if first in named and second in named:
                        found.append((group.count("/"), [named[first], named[second]]))
        return [pair for _, pair in sorted(found, key=lambda item: item[0]) if are_columns(pair)]

    def _other_pairs(self, scan: tuple[int, ...]) -> list[list[tuple[str, Any]]]:
        """Pairs in one group whose names tell y and x, and whose lengths are those of the scan."""
        found = []
        for _, members in self._groups():
            axes: dict[str, list[tuple[str, Any]]] = {"y": [], "x": [], "z": []}
            for path, array in members:
                axis = axis_of(last_part(path))
                if axis is not None and array.dtype.kind in "iuf":
                    axes[axis[0]].append((path, array))
            if len(axes["y"]) == len(axes["x"]) == 1:
                pair = [axes["y"][0], axes["x"][0]]
                if are_columns(pair) and fit_raster([array.size for _, array in pair], scan):
                    found.append(pair)
        return found

    def _groups(self) -> list[tuple[str, list[tuple[str, Any]]]]:
        groups: dict[str, list[tuple[str, Any]]] = {}
        for path, array in self.arrays.items():
            groups.setdefault(path.rpartition("/")[0], []).append((path, array))
        return list(groups.items())

    def _path_offer(self, path: str, array: Any, *, rival: bool = True) -> Offer:
        return Offer(path, describe(array), lambda: path, rival=rival)

    def _position_offer(self, where: str, array: Any, columns: Sequence[str] | None = None) -> Offer:
        unit = unit_of(getattr(array, "attrs", {})) or split_unit(last_part(where), "length")[1]
        said = f"{describe(array)}, {unit or 'without a unit'}"
        return Offer(where, said, lambda: read_positions(array, self.read(array), where, columns))

    def _pair_offer(self, pair: list[tuple[str, Any]], shape: tuple[int, ...], keys: Keys) -> Offer:
        where = " and ".join(path for path, _ in pair)
        unit = unit_of(getattr(pair[0][1], "attrs", {})) or split_unit(last_part(pair[0][0]), "length")[1]
        said = f"{describe(pair[0][1])}, {unit or 'without a unit'}"
        return Offer(
            where,
            said,
            lambda: join_columns(
                [(path, array, self.read(array)) for path, array in pair],
                shape,
                keys.slow_axis,
                named=keys.position_key is None,
            ),
        )

    def _masks(self, key: str, frame: tuple[int, ...]) -> Offer:
        """The pixels that are valid by all masks that the user names; a tilde marks those of bad pixels."""
        named = []
        for part in key.split("+"):
            named.append((*self.find("valid", part.removeprefix("~")), part.startswith("~")))

        def read() -> NDArray[np.bool_]:
            valid = np.ones(frame, dtype=bool)
            for where, array, bad in named:
                mask = small_array(self.read(array), "valid", where)
                if mask.shape != valid.shape:
                    raise ScanError(f"valid ({where}) is {describe(array)}; expected {frame}, as frames are")
                valid &= ~mask if bad else mask
            return valid

        where = " and ".join(f"{'not ' if bad else ''}{path}" for path, _, bad in named)
        return Offer(where, describe(named[0][1]), read)
