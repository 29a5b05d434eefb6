"""Images on disk: what a task leaves for a later one where the memory of its worker has no room for it.

`layout` says whether a run does so, and wraps the functions that leave images; whoever takes one writes
``image[...]``, which reads a stored image and is a view of one in memory. Files lie in a folder of the
process that wrote them and go with the last reference; what travels to another process is a plain array.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import dask
import numpy as np
import psutil
from dask.utils import format_bytes
from distributed import get_worker
from numpy.typing import NDArray

from daskptycho.errors import FaultError

__all__ = ["StoredImage", "StoringImages", "store_images"]

# With the machine's name and the process's number: a base may be on a disk that several machines share.
PREFIX = f"daskptycho-images-{socket.gethostname()}-"


def _remove_leftovers(base: Path) -> None:
    """Remove what processes that were killed have left."""
    for folder in base.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


class _Folder:
    """A folder of this process for its images; it goes with the last of them."""

    def __init__(self, base: str | None) -> None:
        _remove_leftovers(Path(base or tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
        self.numbers = itertools.count()
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


_folders: weakref.WeakValueDictionary[str | None, _Folder] = weakref.WeakValueDictionary()
_folders_lock = threading.Lock()


def _folder() -> _Folder:
    """Below the worker's own folder, or else where Dask's configuration says, or in the system's."""
    try:
        base = get_worker().local_directory
    except ValueError:
        base = dask.config.get("temporary-directory", None)
    with _folders_lock:
        found = _folders.get(base)
        if found is None:
            if base is not None:
                Path(base).mkdir(parents=True, exist_ok=True)
            found = _folders[base] = _Folder(base)
        return found


class StoredImage:
    """A (y, x) array in a file of its own.

    ``image[...]`` reads all of it, ``image[rows, columns]``, two slices, so much; both are fresh memory.
    Pickled it is a plain array: no two processes need to see one disk, and a lost worker's images are
    computed again like all that it had.

    Parameters
    ----------
    image : (y, x) array

    Raises
    ------
    FaultError
        The disk is full, or cannot be written to.
    """

    def __init__(self, image: NDArray) -> None:
        self.shape: tuple[int, int] = image.shape
        self.dtype = image.dtype
        try:
            self._folder = _folder()
            self._path = self._folder.path / str(next(self._folder.numbers))
            # Set up first: a file that is half written goes too.
            weakref.finalize(self, self._path.unlink, missing_ok=True)
            image.tofile(self._path)
        except OSError as error:
            raise FaultError(
                f"an image of {format_bytes(image.nbytes)} cannot be put on disk ({error}); expected room in "
                "the folder that Dask's setting temporary-directory names, or more memory"
            ) from error

    def __getitem__(self, part: EllipsisType | tuple[slice, slice]) -> NDArray:
        height, width = self.shape
        rows, columns = (slice(None), slice(None)) if part is ... else part
        first, end, _ = rows.indices(height)
        found = np.fromfile(
            self._path,
            self.dtype,
            count=(end - first) * width,
            offset=first * width * self.dtype.itemsize,
        ).reshape(end - first, width)
        # A copy of what is asked for: a view would keep the whole rows.
        return found if columns.indices(width) == (0, width, 1) else found[:, columns].copy()

    @property
    def nbytes(self) -> int:
        """On disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (self[...],)


def store_images(value: Any) -> Any:
    """What a task leaves, its images on disk: an image, or a value with images (``with_images``)."""
    return value.with_images(_store) if hasattr(value, "with_images") else _store(value)


def _store(image: Any) -> StoredImage:
    return image if isinstance(image, StoredImage) else StoredImage(image)


@dataclass(frozen=True)
class StoringImages:
    """A function of a task, which leaves its images on disk."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return store_images(self.function(*arguments, **options))
