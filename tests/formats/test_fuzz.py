"""Any HDF5 file is read, or refused in words: random trees of usual names, wrong types, shapes and links."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file
from daskptycho.formats.offers import Taken
from daskptycho.formats.position_file import read_position_file
from daskptycho.scan.dataset import create_scan

# Files of the long tests, together more than 2000; every run of the suite reads a fifth of them.
EXAMPLES = {"plain": 1000, "nexus": 500, "cxi": 400, "ptyd": 150, "npz": 300}

FRAMES, SIZE = 6, 4
SHAPES = st.sampled_from(
    [
        (),
        (1,),
        (2,),
        (FRAMES,),
        (FRAMES, 2),
        (2, FRAMES),
        (FRAMES, 3),
        (FRAMES + 1, 2),
        (0, 2),
        (2, 3, 2),
        (2,),
        (3,),
        (SIZE, SIZE),
        (FRAMES, SIZE, SIZE),
        (FRAMES, SIZE, SIZE),
        (2, 3, SIZE, SIZE),
        (1, FRAMES, SIZE, SIZE),
        (SIZE, SIZE, FRAMES),
        (0, SIZE, SIZE),
        (FRAMES, 1, SIZE),
        (2, 2, 2, 2, 2),
    ]
)
TYPES = st.sampled_from(
    ["f8", "f4", "u2", "i8", "u1", "c8", "?", "S3", "xy", "ri", "ab", "text", "enum", "ref"]
)
UNITS = st.sampled_from(
    [
        None,
        None,
        "m",
        "um",
        "mm",
        "nm",
        "eV",
        "keV",
        "J",
        "pixel",
        "MM",
        "parsec",
        "",
        "none",
        3,
        b"\xff",
        "Å",
    ]
)
PLAIN_NAMES = st.sampled_from(
    [
        *(
            "intensity",
            "data",
            "diffamp",
            "amplitude",
            "frames",
            "ptychogram",
            "encoder",
            "position",
            "scan",
            "y",
        ),
        *(
            "x",
            "samx",
            "samy",
            "points",
            "probe",
            "dark",
            "mask",
            "valid",
            "background",
            "energy",
            "energy_keV",
        ),
        *(
            "energy_eV",
            "wavelength",
            "lambda_nm",
            "distance",
            "pixel_size",
            "detector_distance_m",
            "zo",
            "dxd",
        ),
        *("detector_pixel_size_m", "positions", "pos_x", "pos_y", "title", "entry", "measurement"),
    ]
)
EXTREME = st.sampled_from([0.0, 1.0, 3.0, -2.0, np.nan, np.inf, 1e300, 1e-9, 8000.0])


def values(kind: str, shape: tuple[int, ...], fill: float, step: float) -> Any:
    """An array of a kind, growing from `fill` by `step`."""
    number = fill + step * np.arange(int(np.prod(shape))).reshape(shape)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in ("xy", "ri", "ab"):
            names = {"xy": ("x", "y"), "ri": ("r", "i"), "ab": ("a", "b")}[kind]
            out = np.zeros(shape, dtype=[(name, "f8") for name in names])
            for name in names:
                out[name] = number
            return out
        if kind == "S3":
            return number.astype("S3")
        return number.astype(kind)


def attach(parent: Any, name: str, kind: str, shape: tuple[int, ...], fill: float, step: float) -> Any:
    """A dataset in a group, of a type that NumPy may not have."""
    if kind == "text":
        return parent.create_dataset(name, data="x-ray", dtype=h5py.string_dtype())
    if kind == "enum":
        return parent.create_dataset(name, shape, dtype=h5py.enum_dtype({"a": 0, "b": 1}))
    if kind == "ref":
        return parent.create_dataset(name, shape, dtype=h5py.ref_dtype)
    return parent.create_dataset(name, data=values(kind, shape, fill, step))


@st.composite
def members(draw: Any, names: Any) -> tuple[Any, ...]:
    """What is put under a name: a dataset, or a link, and how."""
    link = draw(
        st.sampled_from(
            [None] * 8 + ["soft", "dangling", "external", "loop", "empty", "unwritten", "virtual"]
        )
    )
    return (
        draw(names),
        draw(st.sampled_from(["", "", "", "a", "a/b", "entry", "entry/instrument"])),
        link,
        draw(TYPES),
        draw(SHAPES),
        draw(EXTREME),
        draw(st.sampled_from([0.0, 1.0, 0.5])),
        draw(UNITS),
    )


# What a file needs besides, so that many of them get past the first check.
USEFUL = (
    ("data", "", None, "u2", (FRAMES, SIZE, SIZE), 1.0, 1.0, None),
    ("position", "", None, "f8", (FRAMES, 2), 0.0, 1.5, None),
)


def build(file: Any, chosen: list[tuple[Any, ...]]) -> None:
    """Put members into a file; what is there already stays."""
    for name, where, link, kind, shape, fill, step, unit in chosen:
        try:
            parent = file.require_group(where) if where else file
            if name in parent or parent.get(name, getlink=True) is not None:
                continue
            if link == "soft":
                parent[name] = h5py.SoftLink("/data")
            elif link == "dangling":
                parent[name] = h5py.SoftLink("/nowhere/at/all")
            elif link == "external":
                parent[name] = h5py.ExternalLink("away.h5", "/data")
            elif link == "loop":
                parent[name] = h5py.SoftLink("/")
            elif link == "empty":
                parent[name] = h5py.Empty("f8")
            elif link == "unwritten":
                parent.create_dataset(
                    name, shape or (1,), "f4", chunks=tuple(max(n, 1) for n in shape or (1,))
                )
            elif link == "virtual":
                layout = h5py.VirtualLayout(shape or (1,), "f8")
                layout[...] = h5py.VirtualSource("away.h5", "data", shape=shape or (1,))
                parent.create_virtual_dataset(name, layout)
            else:
                item = attach(parent, name, kind, shape, fill, step)
                if unit is not None:
                    item.attrs["units" if fill >= 0 else "unit"] = unit
        except (TypeError, ValueError, OSError, KeyError, RuntimeError):
            continue  # no file can hold that


def check(path: Path, folder: Path, *, store: bool, **options: Any) -> None:
    """Read a file; what is accepted has to be possible, and every other candidate named."""
    accounts: list[Taken] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = read_file(path, report=accounts.extend, **options)
        except (ScanError, OptionError):
            return
    intensity = found["intensity"]
    frames = np.asarray(intensity[:])
    assert frames.ndim == 3
    assert frames.shape == intensity.shape
    assert frames.dtype.kind in "iuf"
    position = np.asarray(found["position"])
    assert position.ndim == 2
    assert position.dtype == np.float64
    assert position.shape[1] == 2
    for name in ("energy_eV", "wavelength_m", "detector_distance_m"):
        assert 0 < found.get(name, 1.0) < np.inf
    account = {taken.what: taken for taken in accounts}
    assert account["frames"].where
    if path.suffix != ".npz":
        _check_against_file(path, account, frames, [str(warning.message) for warning in said])
    if not store:
        return  # writing takes far longer than reading
    try:
        scan = create_scan(folder / "s.zarr", **found, overwrite=True)
    except (ScanError, OptionError):
        return
    assert scan.sizes["frame"] == len(position) == len(frames)
    assert np.isfinite(scan["position"].values).all()


def _check_against_file(path: Path, account: dict[str, Taken], frames: np.ndarray, said: list[str]) -> None:
    """The frames are those under the path of the account, and no other stack is passed over in silence."""
    with h5py.File(path) as file:
        taken = file[account["frames"].where.removesuffix(" and others")]
        if taken.ndim >= 3 and taken.shape[-2:] == frames.shape[1:] and not said:
            np.testing.assert_array_equal(taken[()].reshape(frames.shape), frames)
        mentioned = " ".join([str(account["frames"]), *said])
        own = h5py.h5o.get_info(taken.id).addr
        for name in ("data", "intensity", "a/data", "entry/data"):
            try:
                other = file[name]
                is_stack = other.ndim >= 3 and other.dtype.kind in "iuf" and min(other.shape[-2:]) >= 2
            except (KeyError, AttributeError, TypeError, RuntimeError, OSError):
                continue
            if (
                is_stack
                and other.size
                and h5py.h5o.get_info(other.id).addr != own
                and "more" not in mentioned
            ):
                assert f"{name} (" in mentioned or other.file.filename != file.filename, (name, mentioned)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


options_of_import = st.fixed_dictionaries(
    {},
    optional={
        "position_unit": st.sampled_from(["m", "um", "pixel"]),
        "pixel_size_m": st.just(1e-6),
        "position_key": st.sampled_from(["y+x", "position", "samy+samx", "nothing", "probe"]),
        "intensity_key": st.sampled_from(["data", "a/data", "probe", "energy"]),
        "probe_key": st.sampled_from(["probe", "data", "title"]),
        "valid_key": st.sampled_from(["mask", "data"]),
        "background_key": st.sampled_from(["dark", "position"]),
        "keys": st.sampled_from([{"energy_eV": "energy"}, {"detector_distance_m": "data"}]),
        "energy_eV": st.just(8000.0),
        "scan_shape": st.just((2, 3)),
        "scan_step_m": st.just(1e-6),
        "centre": st.just((2.0, 2.0)),
        "guess_probe": st.just(True),
        "frame_axis": st.sampled_from(["first", "last"]),
    },
)
# Half of the files are read without any option.
maybe_options = st.one_of(st.just({}), options_of_import)


def fuzz(
    name: str, write: Callable[[Path, list[tuple[Any, ...]]], Path], names: Any
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two tests that write random files of one format and read them: a few, and in the long one many."""

    def reading(files: int) -> Callable[..., None]:
        @settings(max_examples=files)
        @given(
            chosen=st.lists(members(names), max_size=7),
            useful=st.integers(0, 2),
            options=maybe_options,
            store=st.sampled_from([True] + [False] * 9),
        )
        def run(
            folder: Path, chosen: list[tuple[Any, ...]], useful: int, options: dict[str, Any], store: bool
        ) -> None:
            path = write(folder, [*chosen, *USEFUL[:useful]])
            check(path, folder, store=store, **options)

        return run

    return reading(EXAMPLES[name] // 5), pytest.mark.long(reading(EXAMPLES[name]))


def write_plain(folder: Path, chosen: list[tuple[Any, ...]]) -> Path:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        build(file, chosen)
    return path


test_any_hdf5_file_is_read_or_refused, test_many_hdf5_files_are_read_or_refused = fuzz(
    "plain", write_plain, PLAIN_NAMES
)

NEXUS_NAMES = st.sampled_from(
    [
        *(
            "entry/data/data_000001",
            "entry/data/data_000002",
            "entry/instrument/det/data",
            "entry/definition",
        ),
        *(
            "entry/instrument/det/distance",
            "entry/instrument/det/x_pixel_size",
            "entry/instrument/det/y_pixel_size",
        ),
        *(
            "entry/instrument/det/beam_center_x",
            "entry/instrument/det/beam_center_y",
            "entry/instrument/det/mask",
        ),
        *("entry/instrument/det/pixel_mask", "entry/instrument/beam/incident_energy", "entry/sample/t/sx"),
        *("entry/sample/t/sy", "entry/sample/t/translation", "entry/instrument/fluo/data", "entry/data/data"),
        *("entry/instrument/source/probe", "entry/instrument/beam/incident_wavelength", "entry/sample"),
        *(
            "entry/instrument/det/slow_pixel_direction",
            "entry/instrument/det/fast_pixel_direction",
            "entry/data",
        ),
    ]
)
CLASSES = {
    "entry": "NXentry",
    "entry/instrument/det": "NXdetector",
    "entry/instrument/fluo": "NXdetector",
    "entry/instrument/beam": "NXbeam",
    "entry/instrument/source": "NXsource",
    "entry/sample": "NXsample",
    "entry/sample/t": "NXtransformations",
    "entry/data": "NXdata",
}


def write_nexus(folder: Path, chosen: list[tuple[Any, ...]]) -> Path:
    path = folder / "a.nxs"
    with h5py.File(path, "w") as file:
        file.create_group("entry")
        if len(chosen) % 5:
            file["entry/definition"] = "NXptycho"
        build(file, [(name, "", *rest) for name, _, *rest in chosen])
        for where, name in CLASSES.items():
            if isinstance(file.get(where), h5py.Group):
                file[where].attrs["NX_class"] = name if len(chosen) % 7 else name.encode()
        for motor, vector in (("sx", (1, 0, 0)), ("sy", (0, 1, 0))):
            item = file.get(f"entry/sample/t/{motor}")
            if isinstance(item, h5py.Dataset):
                item.attrs["vector"] = vector if len(chosen) % 6 else "up"
    return path


test_any_nexus_file_is_read_or_refused, test_many_nexus_files_are_read_or_refused = fuzz(
    "nexus", write_nexus, NEXUS_NAMES
)

DETECTOR = "entry_1/instrument_1/detector_1"
CXI_NAMES = st.sampled_from(
    [
        *("entry_1/data_1/data", f"{DETECTOR}/data", f"{DETECTOR}/distance", f"{DETECTOR}/x_pixel_size"),
        *(
            f"{DETECTOR}/y_pixel_size",
            f"{DETECTOR}/mask",
            f"{DETECTOR}/data_dark",
            f"{DETECTOR}/basis_vectors",
        ),
        *(
            f"{DETECTOR}/corner_position",
            "entry_1/data_1/translation",
            "entry_1/instrument_1/source_1/energy",
        ),
        *("entry_1/instrument_1/source_1/wavelength", "entry_1/sample_1/geometry_1/translation", "entry_1"),
        *("entry_1/instrument_1/source_1/illumination", "entry_1/instrument_1/detector_2/data"),
    ]
)


def write_cxi(folder: Path, chosen: list[tuple[Any, ...]]) -> Path:
    path = folder / "a.cxi"
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        build(file, [(name, "", *rest) for name, _, *rest in chosen])
    return path


test_any_cxi_file_is_read_or_refused, test_many_cxi_files_are_read_or_refused = fuzz(
    "cxi", write_cxi, CXI_NAMES
)

PTYD_NAMES = st.sampled_from(
    [
        *("chunks/0/data", "chunks/0/positions", "chunks/0/weights", "chunks/1/data", "chunks/1/positions"),
        *("chunks/0/indices", "meta/energy", "meta/psize", "meta/distance", "meta/center", "info/energy"),
        *("meta/propagation", "chunks/0", "chunks", "info/weight2d"),
    ]
)


def write_ptyd(folder: Path, chosen: list[tuple[Any, ...]]) -> Path:
    path = folder / "a.ptyd"
    with h5py.File(path, "w") as file:
        build(file, [(name, "", *rest) for name, _, *rest in chosen])
        file.require_group("meta")
    return path


test_any_ptyd_file_is_read_or_refused, test_many_ptyd_files_are_read_or_refused = fuzz(
    "ptyd", write_ptyd, PTYD_NAMES
)


def write_npz(folder: Path, chosen: list[tuple[Any, ...]]) -> Path:
    path = folder / "a.npz"
    arrays = {
        name: values(kind, shape, fill, step)
        for name, _, _, kind, shape, fill, step, _ in chosen
        if kind not in ("text", "enum", "ref")
    }
    np.savez(path, **arrays)
    return path


test_any_npz_archive_is_read_or_refused, test_many_npz_archives_are_read_or_refused = fuzz(
    "npz", write_npz, PLAIN_NAMES
)


cells = st.one_of(
    st.sampled_from(
        ["1", "2.5", "-3e-6", "1,5", "x", "y", "x_um", "Y (mm)", "nan", "um", "#", "%", '"', "", "12:30"]
    ),
    st.text(max_size=4),
)
text_files = st.builds(
    lambda rows, between, end: end.join(between.join(row) for row in rows),
    st.lists(st.lists(cells, min_size=1, max_size=4), max_size=6),
    st.sampled_from([",", ";", "\t", " ", ", ", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)


@settings(max_examples=200)
@given(
    content=st.one_of(text_files.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60))
)
def test_any_position_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "p.txt"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_position_file(path)
        except ScanError:
            return
    assert found.values.ndim == 2
    assert found.values.shape[1] == 2
    assert found.values.dtype == np.float64


def test_the_long_tests_read_at_least_2000_random_files() -> None:
    assert sum(EXAMPLES.values()) >= 2000


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3), at=st.integers(0, 4000), cut=st.integers(0, 5000))
def test_damaged_bytes_are_refused_in_words(folder: Path, data: bytes, at: int, cut: int) -> None:
    path = folder / "damaged.h5"
    with h5py.File(path, "w") as file:
        build(file, list(USEFUL))
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(bytes(whole[: max(cut, 100)]))
    assert os.path.getsize(path) > 0
    check(path, folder, store=True)
