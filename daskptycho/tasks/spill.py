"""Images on disk: results of tasks for later tasks, if they do not fit into the memory of the workers.

`Layout.storing` wraps the functions that return images. Functions that use images write ``image[...]``, which
reads a stored image and gives a view of one in memory. The files are in a folder of the process that wrote
them and are deleted with the last reference. Sent to another process, a stored image becomes a plain array.
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

__all__ = ["StoredImage", "StoringImages", "store_image", "store_images"]

# The name of the machine is part of it, since several machines may share a disk; the process's number
# follows.
PREFIX = f"daskptycho-images-{socket.gethostname()}-"


def _remove_leftovers(base: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


class _Folder:
    """A folder for the images of this process; it is deleted with the last of them."""

    def __init__(self, base: str | None) -> None:
        _remove_leftovers(Path(base or tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
        self.numbers = itertools.count()
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


_folders: weakref.WeakValueDictionary[str | None, _Folder] = weakref.WeakValueDictionary()
_folders_lock = threading.Lock()


def _folder() -> _Folder:
    """The folder for images, in that of the worker, in Dask's ``temporary-directory`` or in the system's."""
    try:
        base = get_worker().local_directory
    except ValueError:
        base = dask.config.get("temporary-directory", None)
    with _folders_lock:
        folder = _folders.get(base)
        if folder is None:
            if base is not None:
                Path(base).mkdir(parents=True, exist_ok=True)
            folder = _folders[base] = _Folder(base)
        return folder


class StoredImage:
    """A (y, x) array in a file.

    ``image[...]`` reads all of it, and ``image[rows, columns]`` with two slices a part of it, into fresh
    memory. Pickled, it becomes a plain array: processes need not share a disk, and images of a lost worker
    are computed again like all its other results.

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
            # Before writing, so that a file that is only partly written is deleted too.
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
        pixels = np.fromfile(
            self._path,
            self.dtype,
            count=(end - first) * width,
            offset=first * width * self.dtype.itemsize,
        ).reshape(end - first, width)
        # A copy, since a view would keep whole rows in memory.
        return pixels if columns.indices(width) == (0, width, 1) else pixels[:, columns].copy()

    @property
    def nbytes(self) -> int:
        """Size on disk, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (self[...],)


def store_images(value: Any) -> Any:
    """Store an image, or all images of an object that has the method ``with_images``, on disk."""
    if value is None:
        return None
    return value.with_images(store_image) if hasattr(value, "with_images") else store_image(value)


def store_image(image: Any) -> StoredImage:
    """Store an image on disk, unless it is stored already."""
    return image if isinstance(image, StoredImage) else StoredImage(image)


@dataclass(frozen=True)
class StoringImages:
    """The function of a task, with its result stored by `store_images`."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return store_images(self.function(*arguments, **options))
