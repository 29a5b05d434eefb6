"""Positions in a file of their own: text with columns, NumPy's .npy and .npz, HDF5 and MATLAB files.

A text file may have a header, an index, more columns, units in the names, comments, and a decimal comma.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.hdf5 import read_hdf5_positions
from daskptycho.formats.hdf5_file import is_hdf5
from daskptycho.formats.matlab import is_matlab, read_matlab_positions
from daskptycho.formats.npz import is_npz, read_npz_positions
from daskptycho.formats.offers import Keys
from daskptycho.formats.positions import Positions, axis_of, one_unit, read_positions
from daskptycho.formats.units import is_unit

__all__ = ["read_position_file", "split_key"]

NPY = b"\x93NUMPY"
COMMENTS = ("#", "%", "!", "//")
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
EXPECTED = "two columns of numbers, or a header that names x and y"


def read_position_file(path: str | Path, columns: Sequence[str] | None = None) -> Positions:
    """Read positions from a file of their own.

    Parameters
    ----------
    path : str or Path
        A text file, a .npy, .npz, HDF5 or MATLAB file; the last three may be followed by a colon and the name
        of the positions, as in ``motors.h5:/scan/y+/scan/x``.
    columns : sequence of str, optional
        Names of the two columns, or their numbers from 1.

    Returns
    -------
    Positions
        In the order and the unit of the file.

    Raises
    ------
    ScanError
        The file does not exist, or does not hold two columns of numbers.
    """
    file, key = split_key(path)
    if not file.is_file():
        raise ScanError(f"{file} does not exist; expected a file of positions")
    start = file.read_bytes()[: len(NPY)]
    try:
        if start == NPY:
            array = np.load(file, allow_pickle=False)
            return read_positions(array, array, file.name, columns)
        if is_hdf5(file):
            return read_hdf5_positions(file, Keys(position_key=key, position_columns=columns))
        if is_matlab(file):
            return read_matlab_positions(file, Keys(position_key=key, position_columns=columns))
        if is_npz(file):
            return read_npz_positions(file, Keys(position_key=key, position_columns=columns))
        if key is not None:
            raise ScanError(
                f"{file} is a text file, in which nothing is called {key}; expected its name only"
            )
        return _read_text(file, columns)
    except ScanError:
        raise
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise ScanError(f"{file} cannot be read as positions: {error}; expected {EXPECTED}") from error


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """The file and what comes after a colon, unless a file has the whole name."""
    whole = Path(path).expanduser()
    name, colon, key = str(path).rpartition(":")
    if whole.exists() or not colon or not key:
        return whole, None
    return Path(name).expanduser(), key


def _read_text(path: Path, columns: Sequence[str] | None) -> Positions:
    rows, headers = _split_rows(path)
    width = len(rows[0])
    uneven = next((n for n, row in enumerate(rows, start=1) if len(row) != width), None)
    if uneven is not None:
        raise ScanError(
            f"{path} has {width} columns in its first line of numbers and {len(rows[uneven - 1])} in line "
            f"{uneven} of them; expected as many in every line"
        )
    headers = [header for header in headers if len(header) == width]
    named = _find_named(headers) if columns is None else None
    order = None
    if columns is not None:
        chosen = [_find_column(path, name, headers, width) for name in columns]
    elif named is not None:
        chosen, order = named
    elif width == 2:
        chosen = [0, 1]
    elif width == 3 and _is_index([row[0] for row in rows]):
        warn_caller(f"the first of the three columns of {path.name} is taken for an index")
        chosen = [1, 2]
    else:
        listed = f", called {', '.join(headers[-1])}" if headers else ""
        raise ScanError(
            f"{path} has {width} columns{listed}; expected {EXPECTED}: name two with position_columns "
            "(--position-columns)"
        )
    values = np.array([[_to_number(path, row[column]) for column in chosen] for row in rows])
    units = [_unit_of_column(column, headers) for column in chosen]
    return Positions(values, one_unit(units, path.name), order, _describe_columns(chosen, headers))


def _describe_columns(chosen: list[int], headers: list[list[str]]) -> str:
    """The numbers of two columns from 1, and what the last row above the numbers calls them."""
    named = f" ({' and '.join(headers[-1][column] for column in chosen)})" if headers else ""
    return f"columns {chosen[0] + 1} and {chosen[1] + 1}{named}"


def _split_rows(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of numbers, and the rows above them, each as a list of cells."""
    content = path.read_bytes()
    encoding = next((name for bom, name in BOMS.items() if content.startswith(bom)), None)
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("\N{MINUS SIGN}", "-")
    lines, comments = [], []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(COMMENTS):
            comments.append(re.sub(r"^[#%!/\s]+(?:L\s+)?", "", bare))
        elif bare:
            lines.append(bare)
    split = _find_delimiter([line for line in lines if re.search(r"\d", line)] or lines)
    cells = [split(line) for line in lines]
    numeric = [sum(map(_is_number, row)) >= 2 for row in cells]
    if True not in numeric:
        first = f", but {lines[0][:60]!r}" if lines else ""
        raise ScanError(f"{path} has no line with two numbers{first}; expected {EXPECTED}")
    above = numeric.index(True)
    rows = cells[above:]
    if all(row[-1] == "" for row in rows):  # a delimiter at the end of each line
        rows = [row[:-1] for row in rows]
    return rows, [*(split(line) for line in comments), *cells[:above]]


def _find_delimiter(lines: list[str]) -> Callable[[str], list[str]]:
    """How to split a line into cells, with numbers in English notation."""

    def by(delimiter: str | None, *, comma: bool) -> Callable[[str], list[str]]:
        def split(line: str) -> list[str]:
            cells = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))
            cells = [cell.strip() for cell in cells]
            return [c.replace(",", ".") if comma and DECIMAL_COMMA.fullmatch(c) else c for c in cells]

        return split

    sample = lines[-1] if lines else ""
    for delimiter in (";", "\t", "|"):
        if delimiter in sample:
            return by(delimiter, comma=True)
    words = sample.split()
    if len(words) > 1 and all(DECIMAL_COMMA.fullmatch(word) or _is_number(word) for word in words):
        return by(None, comma=True)
    return by(",", comma=False) if "," in sample else by(None, comma=False)


def _find_named(headers: list[list[str]]) -> tuple[list[int], str] | None:
    """The columns called x and y in the order of the file, and that order."""
    for header in reversed(headers):
        axes = [None if (axis := axis_of(cell)) is None else axis[0] for cell in header]
        if axes.count("x") == axes.count("y") == 1:
            chosen = sorted((axes.index("x"), axes.index("y")))
            return chosen, "".join(str(axes[column]) for column in chosen)
    return None


def _find_column(path: Path, name: str, headers: list[list[str]], width: int) -> int:
    """The number from 0 of a column that the user names."""
    for header in headers:
        if name in header:
            return header.index(name)
    if name.isdecimal() and 1 <= int(name) <= width:
        return int(name) - 1
    listed = ", ".join(headers[-1]) if headers else f"1 to {width}"
    raise ScanError(f"{path} has no column {name}; expected one of {listed}")


def _unit_of_column(column: int, headers: list[list[str]]) -> str | None:
    """The unit in the name of a column, or in a row of units."""
    for header in headers:
        cell = header[column].strip("()[] ")
        axis = axis_of(header[column])
        if axis is not None and axis[1] is not None:
            return axis[1]
        if is_unit(cell, "length"):
            return cell
    return None


def _is_index(cells: list[str]) -> bool:
    """Whether cells count from zero or one."""
    return len(cells) > 1 and any(cells == [str(n + start) for n in range(len(cells))] for start in (0, 1))


def _is_number(cell: str) -> bool:
    try:
        float(_in_english(cell))
    except ValueError:
        return False
    return True


def _to_number(path: Path, cell: str) -> float:
    try:
        return float(_in_english(cell))
    except ValueError:
        raise ScanError(f"{path} has {cell!r} in a column of positions; expected a number") from None


def _in_english(cell: str) -> str:
    """A number with Fortran's exponent as Python writes it."""
    return re.sub(r"(?<=\d)[dD](?=[+-]?\d)", "e", cell)
