"""Positions as arrays hold them: two columns in any order, named fields, or one value a row and a column.

The readers of arrays and of position files share this; `arrange` brings what they return into the order and
the unit of a scan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.offers import real_numbers
from daskptycho.formats.units import split_unit, unit_of

__all__ = [
    "Positions",
    "axis_of",
    "count_positions",
    "expand_raster",
    "join_columns",
    "one_unit",
    "read_positions",
]

# What a name that means the x or the y of the scan has besides that letter.
BESIDE = "|".join(
    (
        *(
            "sample",
            "sam",
            "scan",
            "stage",
            "piezo",
            "probe",
            "beam",
            "motor",
            "mot",
            "position",
            "positions",
        ),
        *("pos", "coordinate", "coord", "encoder", "translation", "trans", "pt", "st", "s", "p", "m", "d"),
    )
)
NAMED_AXIS = re.compile(
    rf"(?:(?:{BESIDE})[\W_]*)*(?P<axis>[xyz])(?:[\W_]*(?:{BESIDE}|axis|actual|readback|rbv))*",
)


class Positions(NamedTuple):
    """Positions in the order and the unit of the file.

    Attributes
    ----------
    values : (frame, 2) float64 array
    unit : str or None
        As the file names it; None if it does not.
    order : {"yx", "xy"}, optional
        What the columns are, if they have names that tell.
    where : str
        Name of the columns, or of the array, in the file.
    """

    values: NDArray[np.float64]
    unit: str | None
    order: str | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{len(self.values)} x 2, {self.unit or 'without a unit'}"


def axis_of(name: str) -> tuple[str, str | None] | None:
    """The axis, "x", "y" or "z", and the unit that a name such as ``sam_x (um)`` tells; None for others."""
    bare, unit = split_unit(name, "length")
    found = NAMED_AXIS.fullmatch(bare.strip().lower())
    return None if found is None else (found["axis"], unit)


def count_positions(array: Any) -> int:
    """Number of positions that an array could hold by its type and shape; 0 if it can hold none."""
    shape = _without_leading_ones(array.shape)
    size = int(np.prod(shape, dtype=np.int64))
    if array.dtype.names is not None:
        axes = [found[0] for found in map(axis_of, array.dtype.names) if found]
        return size if sorted(a for a in axes if a != "z") == ["x", "y"] else 0
    if array.dtype.kind not in "iuf" or len(shape) not in (2, 3) or 2 not in (shape[0], shape[-1]):
        return 0
    return size // 2


def read_positions(
    array: Any, values: NDArray[Any], where: str, columns: Sequence[str] | None = None
) -> Positions:
    """Positions from one array.

    Parameters
    ----------
    array : array
        For its attributes.
    values : array
        What it holds: two columns, two rows, a raster of pairs, or records with fields named x and y.
    where : str
        Its path in the file, for messages.
    columns : sequence of str, optional
        Two of its columns, by their numbers from 1 or the names of its fields.

    Raises
    ------
    ScanError
        It has another form.
    """
    unit = unit_of(getattr(array, "attrs", {}))
    if columns is not None:
        values = _choose_columns(values, where, columns)
    if values.dtype.names is not None:
        named = {found[0]: (field, found[1]) for field in values.dtype.names if (found := axis_of(field))}
        if not {"x", "y"} <= set(named):
            raise ScanError(f"{where} has the fields {', '.join(values.dtype.names)}; expected x and y")
        order = "".join(axis for axis in named if axis != "z")
        units = [named[axis][1] for axis in order]
        pair = [real_numbers(values[named[axis][0]], where).ravel() for axis in order]
        return Positions(np.column_stack(pair), unit or one_unit(units, where), order, where)
    if count_positions(values) == 0:
        raise ScanError(
            f"{where} is {values.dtype} of the shape {values.shape}; expected positions: two "
            "columns, (frame, 2)"
        )
    numbers = real_numbers(values, where)
    while numbers.ndim > 2 and numbers.shape[0] == 1:
        numbers = numbers[0]
    pairs = numbers.reshape(-1, 2) if numbers.shape[-1] == 2 else numbers.reshape(2, -1).T
    return Positions(pairs, unit or split_unit(where.rsplit("/", 1)[-1], "length")[1], where=where)


def _choose_columns(values: NDArray[Any], where: str, columns: Sequence[str]) -> NDArray[Any]:
    """Two columns, (frame, 2), of an array with more of them."""
    names = values.dtype.names
    if names is not None:
        listed = {name: values[name].ravel() for name in names}
    elif values.ndim == 2:
        table = values if values.shape[0] >= values.shape[1] else values.T
        listed = {str(number): column for number, column in enumerate(table.T, start=1)}
    else:
        listed = {}
    if not set(columns) <= set(listed):
        raise ScanError(
            f"{where} is {values.dtype} of the shape {values.shape}, with the columns "
            f"{', '.join(listed) or 'none'}; expected {' and '.join(columns)} among them"
        )
    return np.column_stack([real_numbers(listed[column], where) for column in columns])


def join_columns(
    parts: Sequence[tuple[str, Any, NDArray[Any]]],
    shape: tuple[int, ...],
    slow_axis: str | None,
    *,
    named: bool = False,
) -> Positions:
    """Positions from two arrays, each with one value a frame, or a row and a column of a raster.

    Parameters
    ----------
    parts : sequence of (str, array, array)
        Path in the file, the array for its attributes, and its values; that of y comes first.
    shape : tuple of int
        Shape of the frames, (frame, qy, qx) or (row, column, qy, qx).
    slow_axis : {"y", "x"}, optional
        Which of the two changes last, where nothing else tells.
    named : bool
        Whether their names tell that the first is y.

    Raises
    ------
    ScanError
        They do not fit each other, or have different units.
    """
    columns: Sequence[NDArray[np.float64]] = [real_numbers(v, where).ravel() for where, _, v in parts]
    units = [
        unit_of(getattr(array, "attrs", {})) or split_unit(_tail(where), "length")[1]
        for where, array, _ in parts
    ]
    where = " and ".join(where for where, *_ in parts)
    unit = one_unit(units, where)
    if columns[0].size != columns[1].size or columns[0].size ** 2 == int(np.prod(shape[:-2])):
        what = [where for where, *_ in parts]
        columns = expand_raster(columns, shape[:-2], what, slow_axis)
    return Positions(np.column_stack(columns), unit, "yx" if named else None, where)


def expand_raster(
    vectors: Sequence[NDArray[np.float64]],
    scan: tuple[int, ...],
    where: Sequence[str],
    slow_axis: str | None = None,
    along: Sequence[int | None] = (None, None),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates y and x of each frame, from one value for each row and one for each column.

    Parameters
    ----------
    vectors : sequence of (n,) array
        Of y and of x.
    scan : tuple of int
        Rows and columns of the raster, or the number of frames.
    where : sequence of str
        Their paths, for messages.
    slow_axis : {"y", "x"}, optional
        Which of the two changes last, where nothing else tells.
    along : sequence of int, optional
        The axis of `scan` along which each changes, if the file says so.

    Raises
    ------
    ScanError
        Their lengths do not fit the frames.
    """
    lengths = (vectors[0].size, vectors[1].size)
    orders = [(0, 1), (1, 0)]  # the axis of the raster along which y changes, and that of x
    fitting = [
        order
        for order in orders
        if int(np.prod(lengths)) == int(np.prod(scan))
        and (len(scan) != 2 or (scan[order[0]], scan[order[1]]) == lengths)
        and all(axis is None or axis == own for axis, own in zip(along, order, strict=True))
    ]
    if not fitting:
        raise ScanError(
            f"{where[0]} has {lengths[0]} values and {where[1]} {lengths[1]}, for frames of the scan {scan}; "
            "expected one for each frame, or one for each row and one for each column"
        )
    order = fitting[0]
    if len(fitting) > 1:
        order = (1, 0) if slow_axis == "x" else (0, 1)
        if slow_axis is None and lengths != (1, 1):
            warn_caller(
                f"nothing says whether {where[0]} or {where[1]} changes from row to row of the raster; "
                f"taken to be {where[0]}: if it is not, give slow_axis='x' (--slow-axis x)"
            )
    grid = np.meshgrid(*(vectors if order == (0, 1) else vectors[::-1]), indexing="ij")
    y, x = grid if order == (0, 1) else grid[::-1]
    return y.ravel(), x.ravel()


def one_unit(units: Iterable[str | None], where: str) -> str | None:
    """The unit that all columns share, None if none has one."""
    named = {unit for unit in units if unit is not None}
    if len(named) > 1:
        raise ScanError(f"{where} has the units {' and '.join(sorted(named))}; expected one for both columns")
    return next(iter(named), None)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _tail(where: str) -> str:
    return where.rsplit("/", 1)[-1]
