"""Foreign files in: which reader a file needs, told by its content and not by its name.

The command line and user code call `read_file`; each format is one module of this folder that
returns the arguments of `create_scan`. Nothing here knows a store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daskptycho.errors import ScanError
from daskptycho.formats.npz import is_npz, read_npz

__all__ = ["read_file", "read_npz"]

# Name, test and reader of each format, in the order in which they are tried.
FORMATS: tuple[tuple[str, Callable[[Path], bool], Callable[..., dict[str, Any]]], ...] = (
    ("npz (also compressed by bz2, xz or gzip)", is_npz, read_npz),
)


def read_file(path: str | Path, **options: Any) -> dict[str, Any]:
    """Read a foreign file.

    Parameters
    ----------
    path : str or Path
    **options
        Those of the format's reader, such as `zero_frequency` of `read_npz`.

    Returns
    -------
    dict
        Arguments for `create_scan`.

    Raises
    ------
    ScanError
        No file, or one of no known format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ScanError(f"{path} {found}; expected a data file")
    for _, recognises, reader in FORMATS:
        if recognises(path):
            return reader(path, **options)
    names = ", ".join(name for name, _, _ in FORMATS)
    raise ScanError(f"{path} is of no known format; expected one of: {names}")
