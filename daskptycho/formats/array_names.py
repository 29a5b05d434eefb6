"""Arrays of files that follow no convention, npz and plain HDF5: named by the user, or by usual names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["drop_leading_ones", "not_found_error"]


def not_found_error(
    path: Path, name: str, key: str | None, usual: tuple[str, ...], arrays: Mapping[str, Any]
) -> ScanError:
    """The error for a variable of a scan that is not among the arrays of a file.

    Parameters
    ----------
    path : Path
    name : str
        The variable, such as "intensity".
    key : str or None
        Where the user says it is.
    usual : tuple of str
        Where else it was looked for.
    arrays : mapping
        The arrays of the file by name.
    """
    shapes = ", ".join(f"{label} {array.shape}" for label, array in arrays.items())
    expected = repr(key) if key is not None else f"one of {', '.join(usual)}"
    option = f"{name}_key"
    return ScanError(
        f"{name} is not found in {path}: it holds {shapes}; expected {expected}: "
        f"name it with {option} (--{option.replace('_', '-')})"
    )


def drop_leading_ones(array: NDArray[Any], dimensions: int) -> NDArray[Any]:
    """The array without leading axes of length one, as long as it has more than this number of dimensions."""
    while array.ndim > dimensions and array.shape[0] == 1:
        array = array[0]
    return array
