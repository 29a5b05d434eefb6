"""A folder is complete or absent, and replaces only what it may replace."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daskptycho.errors import ScanError
from daskptycho.storage.folder import write_atomically


def zarr_group(path: Path, content: str = "old") -> Path:
    """The least that counts as a Zarr group, with some content to recognise."""
    path.mkdir(parents=True)
    (path / "zarr.json").write_text("{}")
    (path / "content").write_text(content)
    return path


def write(target: Path, *, overwrite: bool = False, failure: BaseException | None = None) -> None:
    with write_atomically(target, overwrite=overwrite) as folder:
        (folder / "zarr.json").write_text("{}")
        (folder / "content").write_text("new")
        if failure is not None:
            raise failure


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Complete or absent


@pytest.mark.parametrize("name", ["new.zarr", "not/there/yet/new.zarr"])
def test_the_folder_appears_when_it_is_complete(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with write_atomically(target, overwrite=False) as folder:
        assert folder.is_dir()
        assert folder.parent == target.parent
        (folder / "content").write_text("new")
        assert not target.exists()
    assert everything_in(target) == ["content"]
    assert everything_in(target.parent) == ["new.zarr", "new.zarr/content"]


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("name", ["new.zarr", "not/there/yet/new.zarr"])
def test_a_failure_leaves_nothing(tmp_path: Path, name: str, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        write(tmp_path / name, failure=failure)
    assert everything_in(tmp_path) == []


def test_a_failure_leaves_files_of_others_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.zarr"
    with pytest.raises(RuntimeError), write_atomically(target, overwrite=False):  # noqa: PT012
        (target.parent / "notes").write_text("mine")
        raise RuntimeError
    assert everything_in(tmp_path) == ["new", "new/notes"]


@pytest.mark.parametrize("what", ["file", "folder", "group"])
def test_existing_things_are_not_touched(tmp_path: Path, what: str) -> None:
    target = tmp_path / "a.zarr"
    if what == "file":
        target.write_text("old")
    elif what == "folder":
        target.mkdir()
    else:
        zarr_group(target)
    before = everything_in(tmp_path)
    with pytest.raises(ScanError, match=r"exists already; pass overwrite=True \(--overwrite\)"):
        write(target)
    assert everything_in(tmp_path) == before


def test_an_interrupted_write_is_reported(tmp_path: Path) -> None:
    zarr_group(tmp_path / "a.zarr.partial")
    with pytest.raises(ScanError, match="another write is in progress or was interrupted"):
        write(tmp_path / "a.zarr")
    write(tmp_path / "a.zarr", overwrite=True)
    assert everything_in(tmp_path) == ["a.zarr", "a.zarr/content", "a.zarr/zarr.json"]


# Overwriting


def test_a_group_is_replaced_at_the_end(tmp_path: Path) -> None:
    target = zarr_group(tmp_path / "a.zarr")
    (target / "more").write_text("of the old")
    with write_atomically(target, overwrite=True) as folder:
        (folder / "content").write_text("new")
        assert (target / "content").read_text() == "old"
    assert everything_in(tmp_path) == ["a.zarr", "a.zarr/content"]
    assert (target / "content").read_text() == "new"


def test_a_failure_keeps_the_old_group(tmp_path: Path) -> None:
    target = zarr_group(tmp_path / "a.zarr")
    before = everything_in(tmp_path)
    with pytest.raises(RuntimeError):
        write(target, overwrite=True, failure=RuntimeError())
    assert everything_in(tmp_path) == before
    assert (target / "content").read_text() == "old"


def test_a_failure_at_the_last_step_keeps_the_old_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = zarr_group(tmp_path / "a.zarr")
    before = everything_in(tmp_path)
    rename = os.rename

    def fail_once_the_old_is_moved(source: Path, destination: Path) -> None:
        if Path(source).name.endswith(".partial"):
            raise OSError("no space left")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once_the_old_is_moved)
    with pytest.raises(OSError, match="no space left"):
        write(target, overwrite=True)
    assert everything_in(tmp_path) == before
    assert (target / "content").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_store_of_another_kind_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    target = zarr_group(tmp_path / "a.zarr")
    (target / "zarr.json").write_text(json.dumps({"attributes": {"format": "a-scan"}}))
    before = everything_in(tmp_path)
    with (
        pytest.raises(ScanError, match="is a a-scan and is not replaced by a a-result; choose another name"),
        write_atomically(target, overwrite=overwrite, kind="a-result"),
    ):
        pass
    assert everything_in(tmp_path) == before
    with write_atomically(target, overwrite=True, kind="a-scan") as folder:
        (folder / "content").write_text("new")
    assert (target / "content").read_text() == "new"


def test_a_group_without_a_kind_may_be_replaced(tmp_path: Path) -> None:
    for name, metadata in (("a", "{}"), ("b", "no json"), ("c", '{"attributes": {"format": 3}}')):
        target = zarr_group(tmp_path / name)
        (target / "zarr.json").write_text(metadata)
        with write_atomically(target, overwrite=True, kind="a-result") as folder:
            (folder / "content").write_text("new")
        assert everything_in(target) == ["content"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_anything_but_a_zarr_group_is_never_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "home"
    if what == "file":
        target.write_text("thesis")
    else:
        target.mkdir()
        (target / "thesis").write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(ScanError, match="is not a Zarr group and is not overwritten"):
        write(target, overwrite=True)
    assert everything_in(tmp_path) == before


def test_an_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    write(tmp_path / "a.zarr", overwrite=True)
    assert everything_in(tmp_path) == ["a.zarr", "a.zarr/content", "a.zarr/zarr.json"]
