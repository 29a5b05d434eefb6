"""Runs where they should not change: on two worker processes, and where memory holds no images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from distributed import Client, LocalCluster

from daskptycho.run.memory import Needs


@contextmanager
def two_workers() -> Iterator[None]:
    """Two worker processes of one thread for the block."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        yield


@contextmanager
def images_on_disk() -> Iterator[None]:
    """Runs in the block read amplitudes from the store in each sweep, and keep their images on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Needs, "fits", property(lambda needs: needs.residency.images_on_disk))
        yield
