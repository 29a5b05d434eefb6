"""Positions in files of their own, as beamlines write them: read, or refused with the line that mends it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file
from daskptycho.formats.offers import Taken
from daskptycho.formats.position_file import read_position_file

# [y, x] of three frames, in micrometres.
YX = np.array([[0.5, -1.25], [2.0, 3.5], [-4.0, 0.0]])
UM = YX * 1e-6


def lines(template: str, *above: str, end: str = "\n") -> str:
    """A text file with a line for each frame, made from a template of y, x and n."""
    rows = [template.format(y=f"{y:.3f}", x=f"{x:.3f}", n=n, m=n + 1) for n, (y, x) in enumerate(YX)]
    return end.join([*above, *rows]) + end


def comma(text: str) -> str:
    """The same with decimal commas."""
    return text.replace(".", ",")


# Content, and the order and the unit that it tells.
READ: dict[str, tuple[str | bytes, str | None, str | None]] = {
    "two columns": (lines("{y} {x}"), None, None),
    "commas": (lines("{y},{x}"), None, None),
    "commas and blanks": (lines("{y} , {x}"), None, None),
    "semicolons": (lines("{y};{x}"), None, None),
    "tabs": (lines("{y}\t{x}"), None, None),
    "comments of Python": (lines("{y} {x}", "# measured on Monday"), None, None),
    "comments of MATLAB": (lines("{y} {x}", "% two columns"), None, None),
    "header": (lines("{x},{y}", "x,y"), "xy", None),
    "header in capitals, y first": (lines("{y},{x}", "Y,X"), "yx", None),
    "header in a comment": (lines("{x} {y}", "# x y"), "xy", None),
    "units in names": (lines("{n},{x},{y}", "index,x_um,y_um"), "xy", "um"),
    "units in brackets": (lines("{x},{y}", "X [um],Y [um]"), "xy", "um"),
    "units in parentheses": (lines("{x}\t{y}", "Sample X (µm)\tSample Y (µm)"), "xy", "µm"),
    "units in a row": (lines("{x},{y}", "x,y", "um,um"), "xy", "um"),
    "more columns": (lines("{n},{y},12:30:01,{x},img{n}.tif", "n,samy,time,samx,file"), "yx", None),
    "index without a header": (lines("{n} {y} {x}"), None, None),
    "index from one": (lines("{m};{y};{x}"), None, None),
    "mark of the order of bytes": (b"\xef\xbb\xbf" + lines("{x},{y}", "x,y").encode(), "xy", None),
    "utf-16": (lines("{x}\t{y}", "x\ty").encode("utf-16"), "xy", None),
    "latin-1": (lines("{x}\t{y}", "x (µm)\ty (µm)").encode("latin-1"), "xy", "µm"),
    "decimal comma": (comma(lines("{y};{x}")), None, None),
    "decimal comma and blanks": (comma(lines("{y} {x}")), None, None),
    "decimal comma, header": (comma(lines("{x};{y}", "x_um;y_um")), "xy", "um"),
    "ends of lines of Windows": (lines("{x},{y}", "x,y", end="\r\n"), "xy", None),
    "quotes": (lines('"{x}","{y}"', '"pos_x","pos_y"'), "xy", None),
    "delimiter at the end": (lines("{y},{x},"), None, None),
    "motors of a scan file": (lines("{x} {y}", "#S 12 mesh", "#L  samx  samy"), "xy", None),
    "empty lines": (lines("{y} {x}\n"), None, None),
    "exponents": (lines("{y}E+00 {x}D+00"), None, None),
    "minus of typesetters": (lines("{y} {x}").replace("-", "\N{MINUS SIGN}"), None, None),
    "preamble": (lines("{x},{y}", "Beamline 7", "x,y"), "xy", None),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.filterwarnings("ignore:the first of the three columns")
def test_text_is_read(name: str, tmp_path: Path) -> None:
    content, order, unit = READ[name]
    path = tmp_path / "p.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_position_file(path)
    assert (found.order, found.unit) == (order, unit)
    np.testing.assert_allclose(found.values, YX if order != "xy" else YX[:, ::-1])


REFUSED: dict[str, tuple[str, str]] = {
    "four columns": (lines("{y} {x} 3 4"), r"has 4 columns; .*name two with position_columns"),
    "names that tell nothing": (
        lines("{y},{x},1", "a,b,c"),
        "has 3 columns, called a, b, c; .*position_columns",
    ),
    "one column": ("1\n2\n", "no line with two numbers, but '1'; expected two columns"),
    "words": ("frames follow\n", "no line with two numbers, but 'frames follow'"),
    "nothing": ("", "no line with two numbers"),
    "uneven lines": ("1 2\n3 4 5\n", "has 2 columns in its first line of numbers and 3 in line 2 of them"),
    "a word among numbers": ("x,y\n1,2\n3,oops\n", "has 'oops' in a column of positions"),
    "two units": ("x_um,y_mm\n1,2\n", "has the units mm and um; expected one for both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_text_is_refused(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(ScanError, match=words):
        read_position_file(tmp_path / "p.txt")


def test_columns_may_be_named_or_numbered(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(lines("{n},{y},7,{x}", "n,fast,t,slow"))
    for columns in (("fast", "slow"), ("2", "4")):
        np.testing.assert_allclose(read_position_file(path, columns).values, YX)
    with pytest.raises(ScanError, match=r"has no column quick; expected one of n, fast, t, slow"):
        read_position_file(path, ("quick", "slow"))


def test_columns_of_arrays_may_be_numbered(tmp_path: Path) -> None:
    motors = np.column_stack([YX[:, 1], YX[:, 0], [7, 7, 7], np.arange(3)])
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["motors"] = np.vstack([motors, motors])
    found = read_position_file(f"{tmp_path}/p.h5:/motors", ("2", "1"))
    np.testing.assert_allclose(found.values, np.vstack([YX, YX]))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.ones((6, 4, 4))
        file["translation"] = np.vstack([motors, motors])[:, :3]
    found = read_file(tmp_path / "a.h5", position_key="translation", position_columns=("2", "1"))
    np.testing.assert_allclose(found["position"], np.vstack([YX, YX]))
    with pytest.raises(ScanError, match="with the columns 1, 2, 3; expected 5 and 1 among them"):
        read_file(tmp_path / "a.h5", position_key="translation", position_columns=("5", "1"))


def test_files_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", YX)
    np.save(tmp_path / "rows.npy", YX.T)
    np.savez(tmp_path / "p.npz", positions=YX, other=np.ones((5, 2)))
    savemat(tmp_path / "p.mat", {"positions": YX})
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["scan/samy"], file["scan/samx"] = YX.T
        for axis in "yx":
            file[f"scan/sam{axis}"].attrs["units"] = "um"
        file["other/xy"] = YX[:, ::-1]
    for name in (
        "p.npy",
        "rows.npy",
        "p.npz",
        "p.npz:positions",
        "p.mat",
        "p.h5",
        "p.h5:scan/samy+scan/samx",
    ):
        np.testing.assert_allclose(read_position_file(tmp_path / name).values, YX)
    np.testing.assert_allclose(read_position_file(f"{tmp_path}/p.h5:/other/xy").values, YX[:, ::-1])
    assert read_position_file(tmp_path / "p.h5").unit == "um"
    with pytest.raises(ScanError, match=r"position is not found in .*p\.h5: it holds .*expected '/nowhere'"):
        read_position_file(f"{tmp_path}/p.h5:/nowhere")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Three frames without positions."""
    np.save(tmp_path / "f.npy", np.arange(3 * 16).reshape(3, 4, 4) + 1.0)
    return tmp_path / "f.npy"


def test_names_and_units_of_columns_reach_the_scan(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(lines("{n},{x},{y}", "index,x_um,y_um"))
    found = read_file(frames, position_file=tmp_path / "p.csv", pixel_size_m=1e-8)
    np.testing.assert_allclose(found["position"], UM)
    assert found["position_unit"] == "m"
    with pytest.warns(UserWarning, match="are named x and y; position_axes makes them yx"):
        swapped = read_file(frames, position_file=tmp_path / "p.csv", pixel_size_m=1e-8, position_axes="yx")
    np.testing.assert_allclose(swapped["position"], UM[:, ::-1])
    mirrored = read_file(frames, position_file=tmp_path / "p.csv", pixel_size_m=1e-8, position_axes="-xy")
    np.testing.assert_allclose(mirrored["position"], UM * [1, -1])


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e-6), ("nm", 1e-9), ("mm", 1e-3), ("m", 1.0)])
def test_unit_of_positions_may_be_given(unit: str, factor: float, frames: Path, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "p.txt", YX)
    found = read_file(frames, position_file=tmp_path / "p.txt", position_unit=unit)
    np.testing.assert_allclose(found["position"], YX * factor)
    assert found["position_unit"] == "m"


def test_unit_that_contradicts_the_file_is_refused(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(lines("{x},{y}", "x_um,y_um"))
    for unit in ("pixel", "mm", "m"):
        with pytest.raises(
            ScanError, match=rf"of p.csv are in um, but position_unit \(--position-unit\) is {unit}"
        ):
            read_file(frames, position_file=tmp_path / "p.csv", position_unit=unit)
    assert len(read_file(frames, position_file=tmp_path / "p.csv", position_unit="µm")["position"]) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("p.csv", "p.csv: columns 2 and 3 (x_um and y_um), 3 x 2, um"),
        ("p.txt", "p.txt: columns 1 and 2, 3 x 2, without a unit"),
        ("p.h5:/scan/samy+/scan/samx", "p.h5: /scan/samy and /scan/samx, 3 x 2, um"),
        ("p.npy", "p.npy, 3 x 2, without a unit"),
    ],
)
def test_it_is_said_which_positions_were_taken(name: str, said: str, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(lines("{n},{x},{y}", "index,x_um,y_um"))
    np.savetxt(tmp_path / "p.txt", YX)
    np.save(tmp_path / "p.npy", YX)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        for axis, values in zip("yx", YX.T, strict=True):
            file[f"scan/sam{axis}"] = values
            file[f"scan/sam{axis}"].attrs["units"] = "um"
    account: list[Taken] = []
    read_file(frames, position_file=f"{tmp_path}/{name}", report=account.extend)
    assert [(taken.what, str(taken)) for taken in account][1] == ("positions", said)
    assert [taken.what for taken in account].count("positions") == 1


def test_more_positions_than_frames_and_the_other_way_round(frames: Path, tmp_path: Path) -> None:
    more, fewer = tmp_path / "more.txt", tmp_path / "fewer.txt"
    np.savetxt(more, np.vstack([YX, YX]))
    np.savetxt(fewer, YX[:2])
    with pytest.raises(
        ScanError, match=r"f.npy has 3 frames, and more.txt has 6 positions; .*\(--frames 0:3\)"
    ):
        read_file(frames, position_file=more)
    with pytest.raises(
        ScanError, match=r"f.npy has 3 frames, and fewer.txt has 2 positions; .*\(--frames 0:2\)"
    ):
        read_file(frames, position_file=fewer)
    found = read_file(frames, position_file=more, frames=(0, 3))
    np.testing.assert_allclose(found["position"], YX)
    found = read_file(frames, position_file=fewer, frames=(0, 2))
    np.testing.assert_allclose(found["position"], YX[:2])
    assert found["intensity"][:][:, 0, 0].tolist() == [1, 17]
    found = read_file(frames, position_file=more, frames=(1, 3))
    np.testing.assert_allclose(found["position"], YX[1:])
    assert found["intensity"][:][:, 0, 0].tolist() == [17, 33]
    assert found["frame_number"].tolist() == [1, 2]
    with pytest.raises(OptionError, match=r"frames is \(5, 9\), none of the 3"):
        read_file(frames, position_file=more, frames=(5, 9))
