"""Foreign files of one simulated scan, written by their own libraries or after their specifications."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import xarray as xr

import daskptycho as dp

# The simulated instrument: object pixels of about 2e-8 m.
ENERGY_EV = 8000.0
DISTANCE_M = 2.0
PIXEL_M = 172e-6
JOULE_PER_EV = 1.602176634e-19
SIZE = 32


def simulated(folder: Path, **options: Any) -> xr.Dataset:
    """A scan of 5 x 5 frames in the order of acquisition, with a probe without mirror symmetry."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    probe = np.exp(-((y - 1.5) ** 2 / 150 + (x + 1) ** 2 / 100)) * np.exp(
        1j * (0.03 * y**2 + 0.012 * x**2 + 0.02 * x * y + 0.002 * y**3)
    )
    scan = dp.simulate_scan(
        folder / "truth.zarr",
        frames=(5, 5),
        frame_size=SIZE,
        step=4,
        jitter=1,
        seed=3,
        photons=1e6,
        probe=probe,
        energy_eV=ENERGY_EV,
        detector_distance_m=DISTANCE_M,
        detector_pixel_size_m=PIXEL_M,
        **options,
    )
    return scan.load().sortby("frame_number")


def with_other_signs(scan: xr.Dataset, probe: Any, **options: Any) -> dict[tuple[int, int], float]:
    """Last residual for each of the three wrong choices of the positions' signs."""
    residuals = {}
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        mirrored = scan.assign(position=scan["position"] * np.array(signs))
        mirrored["position"].attrs |= scan["position"].attrs
        with warnings.catch_warnings():
            # A run with wrong signs says that it fits badly.
            warnings.filterwarnings("ignore", message="R2 is")
            result = dp.reconstruct(mirrored, probe=probe, update_probe=False, **options)
        residuals[signs] = float(result["residual"][-1])
    return residuals


def metres(scan: xr.Dataset) -> np.ndarray:
    """[y, x] of the beam on the sample in metres."""
    return scan["position"].values * np.asarray(scan.attrs["pixel_size_m"])


def sample_translation(scan: xr.Dataset, directions: Any = ((0, -1, 0), (-1, 0, 0))) -> np.ndarray:
    """x, y, z of the sample, (frame, 3): it moves opposite to the beam, along the detector directions."""
    return -metres(scan) @ np.asarray(directions, dtype=float)


def write_ptyd(scan: xr.Dataset, path: Path) -> None:
    """After PtyPy's description of its structure, in three chunks, one of them in a file of its own."""
    frames, position = scan["intensity"].values.astype(np.int32), metres(scan)
    position = position - position.mean(axis=0)
    weights = np.ones((SIZE, SIZE))
    weights[3, 4] = 0
    with h5py.File(path, "w") as file:
        for group in ("meta", "info"):
            file[f"{group}/energy"] = ENERGY_EV / 1e3
            file[f"{group}/distance"] = DISTANCE_M
            file[f"{group}/center"] = np.array([SIZE / 2, SIZE / 2])
            file[f"{group}/psize"] = PIXEL_M if group == "info" else np.array([PIXEL_M, PIXEL_M])
            file[f"{group}/label"] = np.array([0.0])
            file[f"{group}/label"].attrs["type"] = "None"
        for number, part in enumerate(np.array_split(np.arange(len(frames)), 3)):
            target = file
            if number == 2:
                target = h5py.File(path.with_suffix(".chunk02"), "w")
                file["chunks/2"] = h5py.ExternalLink(path.with_suffix(".chunk02").name, "/chunks/2")
            chunk = target.create_group(f"chunks/{number}")
            chunk["data"], chunk["positions"], chunk["indices"] = frames[part], position[part], part
            chunk["weights"] = np.broadcast_to(weights, (len(part), SIZE, SIZE))
            if number == 2:
                target.close()


def write_cxi(scan: xr.Dataset, path: Path, basis: Any = None, *, energy_unit: str | None = None) -> None:
    """After the CXI file format, version 1.6: links, SI units, a mask of bits, basis vectors."""
    directions = ((0, -1, 0), (-1, 0, 0)) if basis is None else basis
    mask = np.zeros((SIZE, SIZE), dtype=np.uint32)
    # A dead pixel, one with signal, one in the mask of a peak, and a hot one in the mask of a peak.
    mask[3, 4], mask[5, 6], mask[6, 7], mask[8, 9] = 0x8, 0x1000, 0x20, 0x24
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector.create_dataset(
            "data", data=scan["intensity"].values.astype(np.uint32), chunks=(4, SIZE, SIZE)
        )
        detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = (
            DISTANCE_M,
            PIXEL_M,
            PIXEL_M,
        )
        detector["mask"] = mask
        if basis is not None:
            detector["basis_vectors"] = np.asarray(basis) * PIXEL_M
        energy = file.create_dataset("entry_1/instrument_1/source_1/energy", data=ENERGY_EV * JOULE_PER_EV)
        if energy_unit is not None:
            energy.attrs["units"] = energy_unit
        file["entry_1/sample_1/geometry_1/translation"] = sample_translation(scan, directions)
        file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        file["entry_1/data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")


def write_nxptycho(scan: xr.Dataset, path: Path) -> None:
    """After NXcxi_ptycho, by nexusformat: motors with vectors and units that are not SI."""
    import nexusformat.nexus as nx

    frames, translation = scan["intensity"].values, sample_translation(scan) * 1e6
    entry = nx.NXentry(definition="NXptycho", title="simulated")
    entry["instrument"] = nx.NXinstrument()
    entry["instrument/source"] = nx.NXsource(energy=nx.NXfield(3.0, units="GeV"), probe="x-ray")
    entry["instrument/beam"] = nx.NXbeam(energy=nx.NXfield(ENERGY_EV / 1e3, units="keV"))
    detector = nx.NXdetector(
        data=nx.NXfield(frames),
        distance=nx.NXfield(DISTANCE_M * 1e3, units="mm"),
        x_pixel_size=nx.NXfield(PIXEL_M * 1e6, units="um"),
        y_pixel_size=nx.NXfield(PIXEL_M * 1e6, units="um"),
    )
    entry["instrument/pilatus"] = detector
    entry["sample"] = nx.NXsample()
    entry["sample/transformations"] = nx.NXtransformations()
    for name, column, vector in (("sx", 0, (1, 0, 0)), ("sy", 1, (0, 1, 0))):
        motor = nx.NXfield(
            translation[:, column], units="um", vector=vector, transformation_type="translation"
        )
        entry["sample/transformations"][name] = motor
    nx.NXroot(entry).save(str(path), "w")


def write_nxmx(scan: xr.Dataset, path: Path, *, positions: bool = True, **compression: Any) -> None:
    """A master file after NXmx, as Dectris writes it: linked files of compressed frames, a rotated detector.

    The fast axis of the stored frames runs upwards, the slow one to the left when looking along the beam.
    """
    directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    frames = scan["intensity"].values.astype(np.uint32)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint32)
    mask[3, 4], mask[5, 6] = 1, 1 << 8
    compression = compression or dict(hdf5plugin.Bitshuffle(cname="lz4"))
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry["definition"] = "NXmx"
        for number, part in enumerate(np.array_split(frames, 3), start=1):
            name = f"{path.stem.removesuffix('_master')}_data_{number:06d}.h5"
            with h5py.File(path.with_name(name), "w") as data:
                data.create_dataset("entry/data/data", data=part, chunks=(1, SIZE, SIZE), **compression)
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        detector = _class(entry, "instrument/detector", "NXdetector")
        entry["instrument"].attrs["NX_class"] = "NXinstrument"
        for key, value, unit in (
            ("detector_distance", DISTANCE_M, "m"),
            ("x_pixel_size", PIXEL_M, "m"),
            ("y_pixel_size", PIXEL_M, "m"),
            ("beam_center_x", SIZE / 2, "pixel"),
            ("beam_center_y", SIZE / 2, "pixel"),
        ):
            detector[key] = value
            detector[key].attrs["units"] = unit
        detector["detectorSpecific/pixel_mask"] = mask
        module = _class(detector, "module", "NXdetector_module")
        for key, vector in zip(("slow_pixel_direction", "fast_pixel_direction"), directions, strict=True):
            module[key] = PIXEL_M
            module[key].attrs.update({"vector": vector, "units": "m", "transformation_type": "translation"})
        beam = _class(entry, "instrument/beam", "NXbeam")
        beam["incident_wavelength"] = 1.23984198e-6 / ENERGY_EV * 1e10
        beam["incident_wavelength"].attrs["units"] = "angstrom"
        if positions:
            motors = _class(_class(entry, "sample", "NXsample"), "transformations", "NXtransformations")
            translation = sample_translation(scan, directions)
            for name, column, vector in (("sx", 0, (1, 0, 0)), ("sy", 1, (0, 1, 0))):
                motors[name] = translation[:, column] * 1e3
                motors[name].attrs.update(
                    {"vector": vector, "units": "mm", "transformation_type": "translation"}
                )


def _class(parent: Any, name: str, nexus_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


# 4D-STEM: a raster, electrons


STEM_ENERGY_EV = 80_000.0
STEM_STEP_M = 1.5e-10
STEM_FREQUENCY = 2e8


def raster(folder: Path) -> xr.Dataset:
    """A scan of 6 x 5 frames on a raster in pixels, whose probe has no mirror symmetry."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    probe = np.exp(-((y - 1.5) ** 2 / 150 + (x + 1) ** 2 / 100)) * np.exp(
        1j * (0.03 * y**2 + 0.012 * x**2 + 0.02 * x * y + 0.002 * y**3)
    )
    scan = dp.simulate_scan(
        folder / "raster.zarr", frames=(6, 5), frame_size=SIZE, step=4, seed=5, photons=2e5, probe=probe
    )
    return scan.load().sortby("frame_number")


def stem_axes(scan: xr.Dataset) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Counts (y, x, qy, qx) and axes as RosettaSciIO describes them: the scan in nm, the detector in 1/nm.

    The step is four object pixels, and the detector has SIZE pixels.
    """
    data = scan["intensity"].values.reshape(6, 5, SIZE, SIZE).astype(np.uint16)
    frequency = 4 / (SIZE * STEM_STEP_M) / 1e9
    named = (("y", STEM_STEP_M * 1e9, "nm"), ("x", STEM_STEP_M * 1e9, "nm"))
    named += (("qy", frequency, "1/nm"), ("qx", frequency, "1/nm"))
    return data, [
        {
            "_type": "UniformDataAxis",
            "name": name,
            "scale": scale,
            "offset": 0.0,
            "size": size,
            "units": unit,
            "navigate": number < 2,
            "is_binned": False,
        }
        for number, ((name, scale, unit), size) in enumerate(zip(named, data.shape, strict=True))
    ]


def write_hspy(scan: xr.Dataset, path: Path) -> None:
    """Written by RosettaSciIO itself."""
    from rsciio.hspy import file_writer

    data, axes = stem_axes(scan)
    metadata = {
        "Acquisition_instrument": {"TEM": {"beam_energy": STEM_ENERGY_EV / 1e3}},
        "General": {"title": "simulated"},
        "Signal": {"signal_type": "electron_diffraction"},
    }
    signal = {"data": data, "axes": axes, "metadata": metadata, "original_metadata": {}}
    signal |= {"package_info": {"name": "hyperspy", "version": "2.0"}, "tmp_parameters": {}, "models": {}}
    file_writer(str(path), signal | {"learning_results": {}, "attributes": {"_lazy": False}})


def write_zspy(scan: xr.Dataset, path: Path, axes: list[dict[str, Any]] | None = None) -> None:
    """After HyperSpy's layout, in Zarr 2, as its writer does."""
    import zarr

    data, usual = stem_axes(scan)
    axes = usual if axes is None else axes
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    experiment = group.create_group("Experiments/simulated")
    experiment.create_array("data", data=data, chunks=(2, 2, SIZE, SIZE))
    for number, axis in enumerate(axes):
        experiment.create_group(f"axis-{number}").attrs.update(axis)
    tem = experiment.create_group("metadata/Acquisition_instrument/TEM")
    tem.attrs["beam_energy"] = STEM_ENERGY_EV / 1e3


def write_py4dstem(scan: xr.Dataset, path: Path) -> None:
    """A datacube after EMD 1.0, as py4DSTEM writes it."""
    data, axes = stem_axes(scan)
    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0})
        file.attrs.update({"authoring_program": "emdfile", "UUID": "0"})
        root = file.create_group("datacube_root")
        root.attrs.update({"emd_group_type": "root", "python_class": "Root"})
        cube = root.create_group("datacube")
        cube.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        cube["data"] = data
        cube["data"].attrs.update({"units": "pixel intensity", "name": "datacube"})
        names = (("Rx", "A"), ("Ry", "A"), ("Qx", "A^-1"), ("Qy", "A^-1"))
        for number, (axis, (name, unit)) in enumerate(zip(axes, names, strict=True)):
            factor = 10 if number < 2 else 0.1
            cube[f"dim{number}"] = np.array([0.0, factor * axis["scale"]])
            cube[f"dim{number}"].attrs.update({"name": name, "units": unit})


def write_empad(scan: xr.Dataset, path: Path) -> None:
    """After the EMPAD's files: XML beside raw float32 frames of 128 x 128 with two lines of footer."""
    data, _ = stem_axes(scan)
    rows, columns = data.shape[:2]
    frames = np.zeros((rows, columns, 130, 128), dtype="<f4")
    start = (128 - SIZE) // 2
    frames[:, :, start : start + SIZE, start : start + SIZE] = data
    raw = f"scan_x{columns}_y{rows}.raw"
    frames.tofile(path.with_name(raw))
    field = (rows * STEM_STEP_M, columns * STEM_STEP_M)
    # Like the acquisition program, without blanks between the elements.
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><root><raw_file filename="{raw}"/>'
        f"<pix_x>{columns}</pix_x><pix_y>{rows}</pix_y><iom_measurements><optics>"
        f"<get_full_scan_field_of_view>{list(field)}</get_full_scan_field_of_view>"
        "</optics></iom_measurements></root>"
    )


def write_mib(scan: xr.Dataset, path: Path) -> None:
    """After Merlin's files: each frame after a header of 384 bytes, big-endian, the lowest row first."""
    data, _ = stem_axes(scan)
    with open(path, "wb") as file:
        for number, frame in enumerate(data.reshape(-1, SIZE, SIZE), start=1):
            header = (
                f"MQ1,{number:06d},00384,01,{SIZE:04d},{SIZE:04d},U16,   1x1,01,2026-01-01 00:00:00.000000,"
                "0.001000,0,0,0,1.2E+2,5.11E+2,2026-01-01T00:00:00.000000000Z,1000000ns,12,"
            )
            file.write(header.encode().ljust(384, b"\0"))
            file.write(frame[::-1].astype(">u2").tobytes())


def write_dm4(scan: xr.Dataset, path: Path) -> None:
    """A minimal DigitalMicrograph 4 file: a header and tags, one of them the image, x the fastest axis."""
    data, axes = stem_axes(scan)
    image = _group(
        Calibrations=_group(
            Brightness=_group(Label="", Origin=0.0, Scale=1.0, Units=""),
            Dimension=_group(
                *(
                    _group(Label="", Origin=0.0, Scale=float(axis["scale"]), Units=axis["units"])
                    for axis in reversed(axes)
                )
            ),
        ),
        Data=data.ravel(),
        DataType=10,
        Dimensions=_group(*(int(n) for n in reversed(data.shape))),
        PixelDepth=2,
    )
    listed = _group(ImageData=image, ImageTags=_group(**{"Meta Data": _group(Format="Diffraction image")}))
    # As in real files, the first image is a thumbnail.
    small = [("Data", np.zeros(4)), ("DataType", 10), ("Dimensions", _group(2, 2)), ("PixelDepth", 2)]
    thumbnail = _group(ImageData=[*image[:1], *small], ImageTags=_group(Thumbnail=1))
    root = _group(ImageList=_group(thumbnail, listed), DocumentObjectList=_group(_group(ImageSource=1)))
    body = b"\x01\x00" + struct.pack(">Q", len(root)) + b"".join(_tag(name, value) for name, value in root)
    path.write_bytes(struct.pack(">IQI", 4, len(body), 1) + body + bytes(8))


def _group(*unnamed: Any, **named: Any) -> list[tuple[str, Any]]:
    return [("", value) for value in unnamed] + list(named.items())


def _tag(name: str, value: Any) -> bytes:
    """A tag of DigitalMicrograph 4: a kind, a name, a length and the content."""
    if isinstance(value, list):
        inner = b"\x01\x00" + struct.pack(">Q", len(value)) + b"".join(_tag(*item) for item in value)
        kind = 20
    else:
        if isinstance(value, str):
            words = np.frombuffer(value.encode("utf-16-le"), dtype="<u2")
            info, content = (20, 4, len(words)), words.tobytes()
        elif isinstance(value, np.ndarray):
            info, content = (20, 4, value.size), value.astype("<u2").tobytes()
        elif isinstance(value, float):
            info, content = (7,), struct.pack("<d", value)
        else:
            info, content = (5,), struct.pack("<I", value)
        inner = b"%%%%" + struct.pack(f">{len(info) + 1}Q", len(info), *info) + content
        kind = 21
    return struct.pack(">BH", kind, len(name)) + name.encode() + struct.pack(">Q", len(inner)) + inner
