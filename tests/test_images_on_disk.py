"""Runs whose images lie on disk: the same image, nothing left behind, whatever happens to them."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from distributed.sizeof import sizeof
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho.resources import Recipe
from daskptycho.scratch import StoredImage
from tests.test_resources import HERE, tight

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = 5


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return dp.simulate_scan(
        tmp_path_factory.mktemp("scans") / "scan.zarr",
        frames=(8, 8),
        frame_size=32,
        step=8,
        jitter=1,
        photons=1e5,
        tile_frames=16,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where this process puts images; one thread, as the runs below are planned for."""
    folder = tmp_path / "images"
    folder.mkdir()
    with dask.config.set({"temporary-directory": str(folder), "num_workers": HERE.threads}):
        yield folder


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def images() -> Any:
    generator = np.random.default_rng(0)
    return generator.normal(size=(7, 5)).astype(np.float32) + 1j * np.float32(1)


# One image


@given(st.tuples(*[st.integers(0, 7)] * 2), st.tuples(*[st.integers(0, 5)] * 2))
def test_any_part_of_a_stored_image_is_that_of_the_array(rows: Any, columns: Any) -> None:
    image = images()
    kept = StoredImage(image)
    part = (slice(*sorted(rows)), slice(*sorted(columns)))
    np.testing.assert_array_equal(kept[part], image[part])
    np.testing.assert_array_equal(kept[...], image)
    assert kept[part].base is None or kept[part].base.nbytes == kept[part].nbytes


def test_image_travels_as_a_plain_array_and_weighs_nothing_where_it_lies(folder: Path) -> None:
    kept = StoredImage(images())
    assert sizeof(kept) < 100
    assert len([found for found in files(folder) if found.is_file()]) == 1
    sent = pickle.dumps(kept)
    del kept
    assert files(folder) == []
    np.testing.assert_array_equal(pickle.loads(sent), images())


def test_disk_that_is_full_is_told_and_keeps_no_half_image(
    ds: xr.Dataset, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_image, number = StoredImage.__init__, iter(range(10**6))

    def full(own: StoredImage, image: Any) -> None:
        if next(number) < 30:
            next_image(own, image)
            return
        Path(own.__class__.__name__)
        raise_full(own, image)

    def raise_full(own: StoredImage, image: Any) -> None:
        class Full(np.ndarray):
            def tofile(self, path: Any) -> None:  # type: ignore[override]
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")

        next_image(own, image.view(Full))

    monkeypatch.setattr(StoredImage, "__init__", full)
    with pytest.raises(
        dp.FaultError, match=r"cannot be put on disk .*No space left.*temporary-directory"
    ) as failed:
        dp.reconstruct(
            ds, tmp_path / "r.zarr", sweeps=SWEEPS, memory=tight(ds, Recipe(), images_on_disk=True)
        )
    assert "go on with: daskptycho resume" in failed.value.__notes__[0]
    failed.value.__traceback__ = None
    assert files(folder) == []
