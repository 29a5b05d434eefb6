"""Frames as .npy, TIFF and Zarr arrays; turned, flipped and binned."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file

FRAMES, SIZE = 6, 8
COUNTS = np.random.default_rng(1).poisson(20, (FRAMES, SIZE, SIZE + 2)).astype(np.uint16)
POSITION = np.argwhere(np.ones((2, 3))) * 3.0
RASTER = {"scan_shape": (2, 3), "scan_step_m": 1e-6}


def write_npy(path: Path) -> Path:
    np.save(path / "a.npy", COUNTS)
    return path / "a.npy"


def write_four_dimensions(path: Path) -> Path:
    np.save(path / "a.npy", COUNTS.reshape(2, 3, *COUNTS.shape[1:]))
    return path / "a.npy"


def write_stack(path: Path) -> Path:
    tifffile.imwrite(path / "a.tif", COUNTS, photometric="minisblack")
    return path / "a.tif"


def write_compressed_stack(path: Path) -> Path:
    tifffile.imwrite(path / "a.tif", COUNTS, photometric="minisblack", compression="zlib")
    return path / "a.tif"


def write_folder(path: Path) -> Path:
    (path / "frames").mkdir()
    for number, frame in enumerate(COUNTS):
        # Without leading zeros: the order of the names is not that of the numbers.
        tifffile.imwrite(path / "frames" / f"img_{number + 6}.tiff", frame)
    return path / "frames"


def write_zarr(version: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        group = zarr.open_group(path / "a.zarr", mode="w", zarr_format=version)
        group.create_array("scan/data", data=COUNTS, chunks=(2, SIZE, SIZE + 2))
        group.create_array("scan/position", data=POSITION).attrs["units"] = "um"
        return path / "a.zarr"

    return write


def write_zarr_array(path: Path) -> Path:
    zarr.create_array(path / "a.zarr", data=COUNTS)
    return path / "a.zarr"


@pytest.mark.parametrize(
    "write",
    [
        write_npy,
        write_four_dimensions,
        write_stack,
        write_compressed_stack,
        write_folder,
        write_zarr(2),
        write_zarr(3),
        write_zarr_array,
    ],
    ids=["npy", "4-D npy", "TIFF", "TIFF, compressed", "folder", "Zarr 2", "Zarr 3", "Zarr array"],
)
def test_frames_are_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    found = read_file(path, **RASTER)
    np.testing.assert_array_equal(found["intensity"][:], COUNTS)
    np.testing.assert_array_equal(found["intensity"][[4, 1]], COUNTS[[4, 1]])
    assert found["intensity"].dtype == np.uint16
    # The groups have positions of their own.
    own = (path / "scan").is_dir()
    np.testing.assert_allclose(found["position"][4], [3e-6, 3e-6] if own else [1e-6, 1e-6])


def test_shape_of_the_scan_is_that_of_the_array(tmp_path: Path) -> None:
    found = read_file(write_four_dimensions(tmp_path), scan_step_m=1e-6)
    np.testing.assert_allclose(found["position"][4], [1e-6, 1e-6])


def test_own_scan_is_not_imported_again(tmp_path: Path) -> None:
    dp.simulate_scan(tmp_path / "s.zarr", frames=(2, 2), frame_size=8, step=2)
    with pytest.raises(ScanError, match="is a scan or a result already"):
        read_file(tmp_path / "s.zarr")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    tifffile.imwrite(folder / "img_9.tiff", COUNTS[0, :4])
    with pytest.raises(ScanError, match=r"img_9\.tiff has the shape \(4, 10\); expected \(8, 10\)"):
        read_file(folder, **RASTER)["intensity"][:]
    (folder / "img_6.tiff").write_bytes(b"II*\0nothing")
    with pytest.raises(ScanError, match=r"img_6\.tiff cannot be read as TIFF"):
        read_file(folder, **RASTER)
    path = write_npy(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ScanError, match=r"a\.npy cannot be read as a \.npy file"):
        read_file(path, **RASTER)
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(ScanError, match=r"intensity is not found|cannot be read as a MATLAB file"):
        read_file(tmp_path / "a.mat")
    with pytest.raises(OptionError, match="in which nothing has a name"):
        read_file(write_stack(tmp_path), intensity_key="data")


def patterned(size: tuple[int, int]) -> np.ndarray:
    """Frames of which every pixel differs, brightest at N//2."""
    y, x = (np.arange(n) - n // 2 for n in size)
    frame = (
        1000 * np.exp(-(y[:, None] ** 2 + x**2) / 6) + 3 * np.arange(size[0])[:, None] + np.arange(size[1])
    )
    return np.rint(frame[None] + np.arange(4)[:, None, None])


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9)])
@pytest.mark.parametrize("flip", ["y", "x", "yx"])
def test_flipped_frames_are_those_of_the_mirrored_wave(
    size: tuple[int, int], flip: str, tmp_path: Path
) -> None:
    # Reversing a wave about N//2 reverses its diffraction pattern about N//2.
    wave = np.random.default_rng(2).normal(size=(4, *size)) + 1j
    axes = tuple({"y": 1, "x": 2}[axis] for axis in flip)

    def mirror(array: np.ndarray) -> np.ndarray:
        for axis in axes:
            array = np.roll(np.flip(array, axis), 1 - array.shape[axis] % 2, axis)
        return array

    def diffract(wave: np.ndarray) -> np.ndarray:
        own = np.fft.fftn(np.fft.ifftshift(wave, axes=(1, 2)), axes=(1, 2))
        return np.abs(np.fft.fftshift(own, axes=(1, 2))) ** 2

    np.savez(tmp_path / "a.npz", data=diffract(wave), position=np.zeros((4, 2)), probe=wave[0])
    found = read_file(tmp_path / "a.npz", flip=flip, zero_frequency="centre", position_unit="pixel")
    np.testing.assert_allclose(found["intensity"][:], diffract(mirror(wave)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["probe"][0], mirror(wave)[0], rtol=1e-6)


def test_transposed_frames_take_everything_with_them(tmp_path: Path) -> None:
    frames = patterned((8, 10))
    np.savez(tmp_path / "a.npz", data=frames, position=np.zeros((4, 2)), good=frames[0] > 5, probe=frames[0])
    found = read_file(
        tmp_path / "a.npz", transpose=True, valid_key="good", detector_pixel_size_m=(1e-6, 2e-6), flip=""
    )
    np.testing.assert_array_equal(found["intensity"][:], frames.transpose(0, 2, 1))
    np.testing.assert_array_equal(found["valid"], frames[0].T > 5)
    np.testing.assert_array_equal(found["probe"][0], frames[0].T)
    assert found["detector_pixel_size_m"] == (2e-6, 1e-6)


@pytest.mark.filterwarnings("ignore:the probe of the file is left out")
def test_binned_frames_keep_their_counts_and_their_zero_frequency(tmp_path: Path) -> None:
    frames = patterned((8, 12))
    good = np.ones((8, 12), dtype=bool)
    good[1, 5] = False
    np.savez(tmp_path / "a.npz", data=frames, position=np.zeros((4, 2)), good=good, probe=frames[0])
    found = read_file(
        tmp_path / "a.npz", bin=2, valid_key="good", detector_pixel_size_m=1e-6, pixel_size_m=3e-9
    )
    binned = found["intensity"][:]
    assert binned.shape == (4, 4, 6)
    np.testing.assert_array_equal(binned.sum((1, 2)), frames.sum((1, 2)))
    np.testing.assert_array_equal(binned[:, 2, 3], frames[:, 4:6, 6:8].sum((1, 2)))
    assert np.argwhere(~found["valid"]).tolist() == [[0, 2]]
    assert (found["detector_pixel_size_m"], found["pixel_size_m"]) == (2e-6, 3e-9)
    assert "probe" not in found
    # The zero frequency of an odd frame begins the middle square as well.
    np.savez(tmp_path / "a.npz", data=patterned((9, 9)), position=np.zeros((4, 2)))
    binned = read_file(tmp_path / "a.npz", bin=2)["intensity"][:]
    np.testing.assert_array_equal(binned[:, 2, 2], patterned((9, 9))[:, 4:6, 4:6].sum((1, 2)))
    for wrong in (0, 1.5):
        with pytest.raises(OptionError, match="bin is"):
            read_file(tmp_path / "a.npz", bin=wrong)
    with pytest.raises(OptionError, match="flip is 'z'"):
        read_file(tmp_path / "a.npz", flip="z")


def test_chunks_that_are_not_there_are_said(tmp_path: Path) -> None:
    path = write_zarr(3)(tmp_path)
    (path / "scan" / "data" / "c" / "1" / "0" / "0").unlink()
    with pytest.warns(
        UserWarning, match="1 of the 3 chunks of scan/data of a.zarr are not there, .* read as 0"
    ):
        read_file(path)
    for chunk in (path / "scan" / "data" / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(ScanError, match=r"scan/data of .* was never written"):
        read_file(path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a plain web server, which lists nothing, over the folder of the test."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
def test_stores_of_others_are_read_from_a_web_server(version: Any, web: str, tmp_path: Path) -> None:
    path = write_zarr(version)(tmp_path)
    with pytest.raises(ScanError, match="a web server does not list them; expected consolidated metadata"):
        read_file(f"{web}/{path.name}")
    zarr.consolidate_metadata(path)
    here, there = read_file(path), read_file(f"{web}/{path.name}")
    np.testing.assert_array_equal(there["intensity"][:], here["intensity"][:])
    np.testing.assert_array_equal(there["position"], here["position"])
    chunks = [file for file in (path / "scan" / "data").rglob("*0") if file.is_file()]
    chunks[0].unlink()
    with pytest.warns(UserWarning, match="1 of the 3 chunks of scan/data"):
        read_file(f"{web}/{path.name}")


def test_pictures_with_colours_are_no_frames(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(ScanError, match="it is a picture with colours"):
        read_file(tmp_path / "a.tif", **RASTER)


def test_command_line_turns_bins_and_chooses(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COUNTS)
    table = np.column_stack([np.arange(8), np.arange(8) * 2.0, np.arange(8) * 3.0, np.arange(8) ** 2])
    np.savetxt(tmp_path / "p.csv", table, delimiter=",", header="n,fast,slow,t", comments="")
    options = ["--position-file", tmp_path / "p.csv", "--position-columns", "slow,fast", "--frames", "1:5"]
    options += ["--position-unit", "um", "--pixel-size-m", "1e-6", "--transpose", "--flip", "y", "--bin", 2]
    done = CliRunner().invoke(
        daskptycho, ["import", *map(str, [tmp_path / "a.npy", tmp_path / "s.zarr", *options])]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "frames     array, 6 x 8 x 10 uint16"
    scan = dp.open_scan(tmp_path / "s.zarr").sortby("frame_number")
    assert scan["frame_number"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(scan["position"], table[1:5, [2, 1]] * 1e-6)
    turned = np.roll(COUNTS[1:5].transpose(0, 2, 1)[:, ::-1], 1, axis=1)
    # The zero frequency at pixel 5 of the rows begins a square.
    binned = turned[:, 1:9].reshape(4, 4, 2, 4, 2).sum((2, 4))
    np.testing.assert_array_equal(scan["intensity"], binned)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--frames", "first"), "'first' is not a range of frames; expected start:stop, as in 0:390"),
        (("--position-columns", "x"), "'x' is not a pair of columns; expected two, as in samy,samx or 3,2"),
        (("--bin", "0"), "0 is not in the range x>=1"),
        (("--position-file", "away.txt"), "away.txt does not exist; expected a file of positions"),
    ],
)
def test_impossible_options_are_refused_in_one_line(
    option: tuple[str, str], words: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", COUNTS)
    done = CliRunner().invoke(daskptycho, ["import", str(tmp_path / "a.npy"), str(tmp_path / "s"), *option])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert words in line
