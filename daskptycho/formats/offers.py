"""What a file offers for each thing that a scan needs, and what is taken of it.

A reader lists its offers, the best first. `take` reads the first of each and warns where another one could
have been meant. What was taken, and what else was seen, is kept as an account, which ``daskptycho import``
prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.formats.units import split_unit, to_si, unit_of

__all__ = [
    "CALLED",
    "NO_KEYS",
    "NUMBERS",
    "Keys",
    "Offer",
    "Taken",
    "Unreadable",
    "describe",
    "number_offer",
    "real_numbers",
    "require",
    "take",
]

# Numbers by the names of their arguments: the kind of unit, and the unit of one that names none.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "energy_eV": ("energy", "eV"),
    "wavelength_m": ("length", "m"),
    "detector_distance_m": ("length", "m"),
    "detector_pixel_size_m": ("length", "m"),
    "source_distance_m": ("length", "m"),
    "pixel_size_m": ("length", "m"),
}

# What the account calls each thing, in the order in which it lists them.
CALLED: Mapping[str, str] = {
    "intensity": "frames",
    "position": "positions",
    "probe": "probe",
    "valid": "valid pixels",
    "background": "background",
    "energy_eV": "energy",
    "wavelength_m": "wavelength",
    "detector_distance_m": "detector distance",
    "detector_pixel_size_m": "detector pixel",
    "source_distance_m": "source distance",
    "pixel_size_m": "pixel size",
    "centre": "zero frequency",
}

# Relative difference from which on two numbers are different ones and not roundings of one.
DIFFERENT = 1e-3

# A number of which more values than this are given is described by its shape.
SHOWN_VALUES = 4

# Others of its kind that the account names.
MOST_OTHERS = 6


@dataclass(frozen=True)
class Keys:
    """Where the user says that the arrays and numbers of a file are.

    Attributes
    ----------
    intensity_key, position_key, probe_key, valid_key, background_key : str, optional
        Names of arrays, or their paths in the file. Two joined by a plus are the two columns of the
        positions, or several masks, with a tilde before those that are True where a pixel is bad. What has no
        key is looked for under its usual names, except for `valid`, which has to be
        True where the detector counts, and `background`.
    keys : mapping
        Paths of numbers by name, such as ``{"energy_eV": "/beam/energy"}``. Their units are read too.
    position_columns : sequence of str, optional
        The two columns of an array of positions that has more, by their numbers from 1 or the names of its
        fields.
    slow_axis : {"y", "x"}, optional
        The axis of a raster along which its frames change last, where positions are given by one value for
        each row and one for each column, and nothing else tells.
    frame_axis : {"first", "last"}, optional
        Whether the axes of the frames come before or after those of the detector, if the numbers of frames
        and positions do not tell.
    """

    intensity_key: str | None = None
    position_key: str | None = None
    probe_key: str | None = None
    valid_key: str | None = None
    background_key: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    position_columns: Sequence[str] | None = None
    slow_axis: str | None = None
    frame_axis: str | None = None

    def __post_init__(self) -> None:
        for name in self.keys:
            if name not in NUMBERS:
                raise OptionError(f"a key is given for {name!r}; expected one of {', '.join(NUMBERS)}")
        if self.slow_axis not in (None, "y", "x"):
            raise OptionError(f"slow_axis is {self.slow_axis!r}; expected 'y' or 'x'")
        if self.frame_axis not in (None, "first", "last"):
            raise OptionError(f"frame_axis is {self.frame_axis!r}; expected 'first' or 'last'")

    def of(self, name: str) -> str | None:
        """Where the user says that an array or a number is; None without a word about it."""
        if name in NUMBERS:
            return self.keys.get(name)
        found: str | None = getattr(self, f"{name}_key", None)
        return found

    def frames_come_last(self, shape: tuple[int, ...], counts: set[int], *, usually: bool = False) -> bool:
        """Whether the axes of the frames in an array come after those of the detector.

        Parameters
        ----------
        shape : tuple of int
            Shape of the array.
        counts : set of int
            Numbers of positions that the file may hold, which decide unless the user does.
        usually : bool
            The answer if nothing tells.
        """
        if self.frame_axis is not None:
            return self.frame_axis == "last"
        first, last = (int(np.prod(axes)) in counts for axes in (shape[:-2], shape[2:]))
        return last if first != last else usually


NO_KEYS = Keys()


@dataclass(frozen=True)
class Offer:
    """An array or a number of a file that may be what a scan needs.

    Attributes
    ----------
    where : str
        Its path in the file.
    said : str
        Its shape and type, or its number with the unit of the file.
    read : callable
        Returns its value in the order and the units of a scan; raises `ScanError` if it has none.
    on_demand : bool
        Whether it is taken only if the user names it; otherwise it is only said that it is there.
    rival : bool
        Whether it could be meant as well as the one that is taken.
    """

    where: str
    said: str
    read: Callable[[], Any]
    on_demand: bool = False
    rival: bool = True

    def __str__(self) -> str:
        return f"{self.where} ({self.said})"


@dataclass(frozen=True)
class Taken:
    """What was taken for one thing, and what else the file offers for it.

    Attributes
    ----------
    what : str
        In words, such as "frames".
    where : str
        Its path in the file; empty if nothing was taken.
    said : str
        Its shape and type, or its number with the unit of the file.
    others : tuple of str
        What else was seen.
    option : str
        What chooses another one.
    """

    what: str
    where: str
    said: str
    others: tuple[str, ...] = ()
    option: str = ""

    def __str__(self) -> str:
        parts = [f"{self.where}, {self.said}" if self.where else self.said]
        if self.others:
            more = len(self.others) - MOST_OTHERS
            listed = [*self.others[:MOST_OTHERS], *([f"{more} more"] if more > 0 else [])]
            parts.append(f"{'also there' if self.where else 'there'}: {', '.join(listed)} ({self.option})")
        return "; ".join(parts)


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value that the file has and that is impossible, until it is certain to be needed."""

    error: ScanError


def require(value: Any) -> Any:
    """The value itself; raises the error of one that is `Unreadable`."""
    if isinstance(value, Unreadable):
        raise value.error
    return value


def describe(array: Any) -> str:
    """Shape and type of an array, such as "64 x 32 x 32 uint16"."""
    size = " x ".join(str(int(n)) for n in array.shape) or "one"
    return f"{size} {'fields ' + ', '.join(array.dtype.names) if array.dtype.names else array.dtype}"


def take(
    offers: Mapping[str, Sequence[Offer]], keys: Keys, source: str
) -> tuple[dict[str, Any], list[Taken]]:
    """Read the first offer for each thing.

    Parameters
    ----------
    offers : mapping
        By the name of the argument of `create_scan`, the best first.
    keys : Keys
        What the user has named: that is not compared with others.
    source : str
        Name of the file.

    Returns
    -------
    found : dict
        The values; `Unreadable` in place of one that is impossible.
    account : list of Taken

    Warns
    -----
    UserWarning
        Another offer could be meant as well, or says another number.
    """
    found: dict[str, Any] = {}
    account = []
    for name in sorted(offers, key=list(CALLED).index):
        option = f"--key {name}=PATH" if name in NUMBERS else f"--{name}-key"
        option = "--centre" if name == "centre" else option
        first = next((offer for offer in offers[name] if not offer.on_demand), None)
        others = [offer for offer in offers[name] if offer is not first]
        seen = tuple(map(str, others))
        if first is None:
            if seen:
                account.append(Taken(CALLED[name], "", "none taken", seen, f"{option} takes it"))
            continue
        try:
            found[name] = first.read()
        except ScanError as error:
            found[name] = Unreadable(error)
        account.append(Taken(CALLED[name], first.where, first.said, seen, option))
        rivals = _rivals(found[name], others, number=name in NUMBERS)
        if rivals and keys.of(name) is None:
            warn_caller(
                f"{CALLED[name]}: {first} is taken from {source}, which also has "
                f"{', '.join(map(str, rivals[:MOST_OTHERS]))}; {option} chooses"
            )
    return found, account


def _rivals(value: Any, others: Sequence[Offer], *, number: bool) -> list[Offer]:
    """Offers that could be meant as well; of numbers, those that differ from the one that is taken."""
    rivals = [offer for offer in others if offer.rival and not offer.on_demand]
    if not number or isinstance(value, Unreadable):
        return rivals
    different = []
    for offer in rivals:
        try:
            if not np.allclose(offer.read(), value, rtol=DIFFERENT, atol=0):
                different.append(offer)
        except ScanError:
            continue
    return different


def number_offer(
    where: str,
    array: Any,
    name: str,
    *,
    unit: str | None = None,
    on_demand: bool = False,
    read: Callable[[Any], NDArray[Any]] = lambda array: np.asarray(array[()]),
) -> Offer:
    """The offer of a number of the geometry.

    Parameters
    ----------
    where : str
        Its path in the file.
    array : array
        One value, or several equal ones; two for the size of a pixel.
    name : str
        A key of `offers.NUMBERS`.
    unit : str, optional
        The unit that the format prescribes for a number that does not name its own; by default, that of the
        argument.
    on_demand : bool
        Whether it is taken only if the user names it.
    read : callable
        Returns the values of the array.
    """
    kind, usual = NUMBERS[name]
    own = unit_of(getattr(array, "attrs", {})) or split_unit(where.rsplit("/", 1)[-1], kind)[1]
    taken_in = own or unit or usual

    def value() -> Any:
        numbers = to_si(real_numbers(read(array), where), taken_in, kind, where).ravel()
        if "pixel_size" in name and numbers.size == 2:
            return float(numbers[0]), float(numbers[1])
        if not np.allclose(numbers, numbers[0], rtol=1e-6, atol=0):
            raise ScanError(f"{where} has {numbers.size} different values; expected one {name}")
        return float(numbers[0])

    shown = describe(array)
    if array.dtype.kind in "iuf" and 0 < array.size <= SHOWN_VALUES:
        shown = ", ".join(f"{number:.6g}" for number in np.ravel(read(array)))
    return Offer(where, f"{shown} {own or f'(no unit: {taken_in})'}", value, on_demand)


def real_numbers(values: NDArray[Any], where: str) -> NDArray[np.float64]:
    """Values as real numbers; refuses everything else."""
    if values.dtype.kind not in "iuf" or not values.size:
        raise ScanError(f"{where} is {values.dtype} of the shape {values.shape}; expected real numbers")
    return values.astype(np.float64)
