"""4D-STEM through RosettaSciIO: EMPAD, Merlin, DigitalMicrograph, HyperSpy, py4DSTEM, NanoMegas, MRC, TVIPS.

The first two axes are y and x of the raster of the beam, the last two qy and qx of the detector; their scales
become positions and the pixel size. No file says how the microscope rotates one against the other: see
`position_axes` and `rotation_deg` of `arrange.Arrangement`. ARINA's master files are read by `nexus`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from numbers import Real
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.formats.extras import import_extra
from daskptycho.formats.hdf5_file import attribute, child, is_hdf5, open_hdf5, to_text, walk
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.offers import NO_KEYS, NUMBERS, Keys, Offer, Taken, describe, take
from daskptycho.formats.units import is_unit, to_si
from daskptycho.scan.optics import ELECTRON

__all__ = ["is_stem", "read_stem"]

# What a chunk of RosettaSciIO's lazy arrays holds.
BLOCK = "16MiB"

UNCALIBRATED = ("", "px", "pixel", "pixels", "none", "<undefined>", "1")
DM_VERSIONS = (3, 4)

# What py4DSTEM knows of the scan and the detector besides their scales.
UNUSED_CALIBRATIONS = ("QR_rotation", "QR_flip", "QR_rotation_degrees", "qx0_mean", "qy0_mean", "ellipse")

# The size of its header, with which a TVIPS file begins; the version follows.
TVIPS_HEADER = 256


def is_stem(path: Path) -> bool:
    """Whether RosettaSciIO has a reader for a file, judging by its content."""
    return _reader_name(path) is not None


def _reader_name(path: Path) -> str | None:
    """The module of rsciio that reads a file; None if there is none."""
    if path.is_dir() or zipfile.is_zipfile(path):
        return "zspy" if _list_experiments(path) else None
    if is_hdf5(path):
        return _hdf5_reader(path)
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith((b"MQ1,", b"HDR,")):
        return "quantumdetector"
    if start.startswith(b"IMGBLO"):
        return "blockfile"
    if start[208:212] in (b"MAP ", b"MAP\0"):
        return "mrc"
    if int.from_bytes(start[:4], "little") == TVIPS_HEADER and start[4] in (1, 2) and not any(start[5:8]):
        return "tvips"
    if start.lstrip().startswith(b"<") and b"<raw_file" in path.read_bytes()[: 2**20]:
        return "empad"
    version, order = int.from_bytes(start[:4], "big"), None
    if version in DM_VERSIONS:
        # After the length of the file, in four bytes or eight, follows the order of bytes.
        offset = 8 if version == 3 else 12
        order = int.from_bytes(start[offset : offset + 4], "big")
    return "digitalmicrograph" if order in (0, 1) and len(start) > 16 else None


def _hdf5_reader(path: Path) -> str | None:
    with open_hdf5(path) as file:
        written = attribute(file, "file_format")
        if written is not None and to_text(written) == "HyperSpy":
            return "hspy"
        roots = [file, *(child(file, name) for name in file)]
        known = any(root is not None and attribute(root, "emd_group_type") is not None for root in roots)
        return "emd" if known or child(file, "4DSTEM_experiment") is not None else None


def read_stem(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read a 4D-STEM data set.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named: the frames only, by the title of their data set, or a part of it.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`: `scan_shape` and `scan_step_m` of the raster instead of
        positions, and `frequency_per_pixel` or `angle_per_pixel` of the detector if it is calibrated.

    Raises
    ------
    ScanError
        The data are not four-dimensional, or a unit is impossible.
    OptionError
        The user names something else than the frames.
    """
    if any(keys.of(name) is not None for name in ("position", "probe", "valid", "background", *NUMBERS)):
        raise OptionError(
            f"{path} is a 4D-STEM file, in which only the frames have names; expected no key but "
            "intensity_key: give numbers themselves, and positions in a file of their own (--position-file)"
        )
    name_of_reader = str(_reader_name(path))
    zspy = name_of_reader == "zspy"
    read = _read_zspy(path) if zspy else _read_with_rosettasciio(path, name_of_reader)
    _, (data, axes, metadata), account = _choose_data(read, keys, path)
    navigation = [axis for axis in axes if axis.get("navigate")]
    signal = [axis for axis in axes if not axis.get("navigate")]
    if len(axes) == data.ndim and len(signal) != 2:
        # Not every format says which axes are those of the raster: they come first.
        navigation, signal = list(axes[:-2]), list(axes[-2:])
    order = [axes.index(axis) for axis in (*navigation, *signal)]
    if data.ndim not in (3, 4) or len(order) != data.ndim:
        raise ScanError(f"{path} holds data of the shape {data.shape}; expected (y, x, qy, qx) of 4D-STEM")
    found: dict[str, Any] = {"source": path.name, "radiation": ELECTRON, "account": account}
    data = data.transpose(order)
    found["intensity"] = _flatten_frames(data)
    if len(navigation) == 2:
        found["scan_shape"] = tuple(int(n) for n in data.shape[:2])
        step = _axis_scales(navigation, "length", "the step of the scan")
        if step is not None:
            found["scan_step_m"] = step
            account.append(Taken("raster", _describe_axes(navigation), f"{step[0]:.6g} x {step[1]:.6g} m"))
    calibration = _detector_calibration(signal)
    for name, (y, x) in calibration.items():
        unit = "rad" if name == "angle_per_pixel" else "1/m"
        account.append(Taken("detector pixel", _describe_axes(signal), f"{y:.6g} x {x:.6g} {unit}"))
    energy = _look_up(metadata, "Acquisition_instrument", "TEM", "beam_energy")
    if isinstance(energy, Real) and float(energy) > 0:
        found["energy_eV"] = 1e3 * float(energy)
        account.append(Taken("energy", "Acquisition_instrument/TEM/beam_energy", f"{float(energy):.6g} keV"))
    if name_of_reader == "emd":
        _mention_calibration(path)
    return found | calibration


def _describe_axes(axes: Sequence[Mapping[str, Any]]) -> str:
    return "axes " + " and ".join(str(axis.get("name") or "without a name") for axis in axes)


def _mention_calibration(path: Path) -> None:
    """Say what py4DSTEM's calibration has that no reader uses: how the scan lies on the detector."""
    with open_hdf5(path) as file:
        found = sorted({where for where, _ in walk(file, lambda name, _: name in UNUSED_CALIBRATIONS)})
    if found:
        warn_caller(
            f"{', '.join(found)} of {path.name} are not used; what they say is given with --rotation-deg, "
            "--position-axes, --flip, --transpose and --centre"
        )


# What one data set holds: its frames, their axes, and the metadata.
Contents = tuple[Any, list[dict[str, Any]], Mapping[str, Any]]


def _choose_data(read: Mapping[str, Contents], keys: Keys, path: Path) -> tuple[str, Contents, list[Taken]]:
    """The largest data set, or the one that the user names."""
    fitting = {name: contents for name, contents in read.items() if contents[0].ndim in (3, 4)}
    if not fitting:
        shapes = ", ".join(str(contents[0].shape) for contents in read.values()) or "nothing"
        raise ScanError(f"{path} holds {shapes}; expected four-dimensional data (y, x, qy, qx)")
    key = keys.intensity_key
    named = [name for name in fitting if key is None or key.strip("/").lower() in name.lower()]
    if not named or (key is not None and len(named) > 1 and key not in named):
        raise ScanError(
            f"intensity is not found in {path}: it holds {', '.join(map(repr, fitting))}; expected {key!r} "
            "in one of these titles: name one with intensity_key (--intensity-key)"
        )
    named.sort(key=lambda name: (name != key, -fitting[name][0].size))
    offers = [Offer(name, describe(fitting[name][0]), lambda: None) for name in named]
    _, account = take({"intensity": offers}, keys, path.name)
    return named[0], fitting[named[0]], account


def _read_with_rosettasciio(path: Path, name: str) -> dict[str, Contents]:
    """The data sets of a file as dask arrays, with their axes and their metadata, by title."""
    reader = import_extra(f"rsciio.{name}")
    options: dict[str, Any] = {"lazy": True}
    if name == "emd":
        options["stack_group"] = False
    source = path.with_suffix(".mib") if path.suffix.lower() == ".hdr" else path
    try:
        with dask.config.set({"array.chunk-size": BLOCK}):
            contents = reader.file_reader(str(source), **options)
        found: dict[str, Contents] = {}
        for number, content in enumerate(contents):
            listed = content["axes"]
            axes = sorted(listed, key=lambda axis: axis.get("index_in_array", listed.index(axis)))
            title = str(_look_up(content.get("metadata"), "General", "title") or path.name)
            title = title if title not in found else f"{title} {number}"
            found[title] = (da.asarray(content["data"]), axes, content.get("metadata", {}))
    except Exception as error:  # the readers raise all kinds of errors at damaged files
        raise ScanError(f"{path} cannot be read by RosettaSciIO's {name}: {error}") from error
    return found


def _list_experiments(path: Path) -> list[str]:
    """Names of the experiments in a store of HyperSpy; none for any other store."""
    from zarr import open_group

    with closing(_open_store(path)) as store:
        try:
            group: Any = open_group(store, mode="r")
            return sorted(group["Experiments"].group_keys())
        except PermissionError:
            raise
        # No store, a store of another program, or a damaged one.
        except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
            return []


def _open_store(path: Path) -> Any:
    """Open a store for reading; the caller closes it."""
    from zarr.storage import LocalStore, ZipStore

    return LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")


def _read_zspy(path: Path) -> dict[str, Contents]:
    """Read HyperSpy's layout in Zarr directly: RosettaSciIO's own reader needs version 2 of zarr-python.

    Of the metadata only the energy of the beam is read: markers may be of types that Zarr does not open.
    """
    from zarr import open_group

    names = _list_experiments(path)
    # The store stays open: the frames are read from it, block by block.
    group: Any = open_group(_open_store(path), mode="r")
    found: dict[str, Contents] = {}
    for name in names:
        try:
            experiment = group["Experiments"][name]
            data = da.from_zarr(experiment["data"])
            axes = [dict(experiment[f"axis-{number}"].attrs) for number in range(data.ndim)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ScanError(f"{path} cannot be read as a store of HyperSpy: {error}") from error
        try:
            tem = dict(experiment["metadata/Acquisition_instrument/TEM"].attrs)
        except (KeyError, ValueError, TypeError, AttributeError):
            tem = {}
        found[name] = (data, axes, {"Acquisition_instrument": {"TEM": tem}})
    return found


def _flatten_frames(data: Any) -> LazyFrames:
    """The frames of an array of three or four dimensions, in one sequence."""
    flat = data.reshape((-1, *data.shape[-2:]))

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        # In this process, since workers on other machines may not see the file.
        return np.asarray(flat[numbers].compute(scheduler="threads"))

    frames, height, width = (int(n) for n in flat.shape)
    return LazyFrames((frames, height, width), flat.dtype, read)


def _axis_scales(axes: Sequence[Mapping[str, Any]], kind: str, what: str) -> tuple[float, float] | None:
    """Scales of two axes in SI; None if they are not calibrated."""
    units = [str(axis.get("units") or "").strip() for axis in axes]
    if any(unit.lower() in UNCALIBRATED for unit in units):
        return None
    scales = [abs(_scale_of(axis, what)) for axis in axes]
    y, x = (float(to_si(scale, unit, kind, what)) for scale, unit in zip(scales, units, strict=True))
    return y, x


def _detector_calibration(signal: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The angle (rad) or the spatial frequency (1/m) of a detector pixel, if the axes are calibrated."""
    unit = str(signal[0].get("units") or "").strip()
    if unit.lower() in UNCALIBRATED or not all(_scale_of(axis, "the detector") for axis in signal):
        return {}
    if is_unit(unit, "length"):
        warn_caller(
            f"the axes of the detector are in {unit}, which tells no angle, and are not used "
            "(--mrad-per-pixel or --pixel-size-m)"
        )
        return {}
    what = "the scale of the detector"
    angle = is_unit(unit, "angle")
    scales = _axis_scales(signal, "angle" if angle else "reciprocal length", what)
    if scales is None:
        return {}
    return {"angle_per_pixel" if angle else "frequency_per_pixel": scales}


def _scale_of(axis: Mapping[str, Any], what: str) -> float:
    scale = axis.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, Real) or not np.isfinite(float(scale)):
        raise ScanError(f"{what} has an axis with the scale {scale!r}; expected a number")
    return float(scale)


def _look_up(metadata: Any, *keys: str) -> Any:
    """An entry of nested dictionaries; None if it is absent."""
    for key in keys:
        if not isinstance(metadata, Mapping) or key not in metadata:
            return None
        metadata = metadata[key]
    return metadata
