"""A disk that is full: no file of this process may grow."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import daskptycho as dp

__all__ = ["full_disk"]


@contextmanager
def full_disk(after: int) -> Iterator[Callable[[dp.Progress], None]]:
    """A callback of a run that fills the disk after this sweep; when the block ends there is room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def callback(progress: dp.Progress) -> None:
        if progress.sweep == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    try:
        yield callback
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
