"""The result of a run: tiles assembled on the canvas, as a dataset with coordinates, written to a store.

The store can be opened with plain ``xarray.open_zarr``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from daskptycho.backend import to_host
from daskptycho.errors import ScanError, warn_caller
from daskptycho.model import model
from daskptycho.model.gain import Gain
from daskptycho.model.operators import is_lit
from daskptycho.model.positions import Positions
from daskptycho.model.probe import Probe
from daskptycho.model.probe_variation import ProbeVariation, ProbeWeight
from daskptycho.model.sweep import FrameMeasures
from daskptycho.run.misfits import name_misfits
from daskptycho.scan.dataset import frame_numbers, frames_used, pixel_size, spread_over_frames
from daskptycho.scan.parts import describe_parts, label_parts
from daskptycho.storage.old_names import rename_old_variables
from daskptycho.storage.store import load_dataset, open_dataset, parse_location, read_attributes
from daskptycho.sync.variation import order_modes
from daskptycho.tasks.spec import Value, task, values_in
from daskptycho.tasks.state import State
from daskptycho.tasks.waiting import compute
from daskptycho.tiling import Tiling
from daskptycho.version import __version__

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "FORMAT",
    "Outcome",
    "assemble_canvas",
    "assemble_values",
    "make_result",
    "open_result",
    "show_lit",
    "warn_of_parts",
    "write_result",
]

FORMAT = "daskptycho-result"
FORMAT_VERSION = 1
# Number of rows of a tile's image that are copied to the canvas at a time.
BAND = 64


class _Sweep(Protocol):
    @property
    def residual(self) -> float: ...
    @property
    def disagreement(self) -> float: ...
    @property
    def spread(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def significance(self) -> float: ...
    @property
    def moved(self) -> float: ...
    @property
    def gain_significance(self) -> float: ...
    @property
    def gain_changed(self) -> float: ...
    @property
    def variation_significance(self) -> float: ...
    @property
    def variation_share(self) -> float: ...


def assemble_canvas(tiling: Tiling, images: Sequence[Value]) -> NDArray:
    """Assemble the images of tiles on the whole canvas, fetching one tile after the other."""
    canvas: NDArray | None = None
    for tile, image in zip(tiling.tiles, images, strict=True):
        part = compute(task(to_host, image))
        if canvas is None:
            canvas = np.zeros(tiling.window.shape, dtype=part.dtype)
        rows, columns = tiling.indices(tile.window)
        # Tiles hold the same merged pixels where their windows overlap, or nearly so after frames have moved.
        for band in (slice(first, first + BAND) for first in range(0, len(rows), BAND)):
            # An image on disk is read band by band.
            canvas[np.ix_(rows[band], columns)] = part[band, :]
    assert canvas is not None
    return canvas


def show_lit(images: Sequence[Value], illuminations: Sequence[Value], shared: Value) -> list[Value]:
    """The images of tiles for results and views: zero where there is too little light to know the object.

    Parameters
    ----------
    images, illuminations : sequence of Value
        Image and illumination of each tile, (y, x) on its window.
    shared : Value
        The shared parameters of the model, by name.
    """
    return [task(_show_lit, *of_tile, shared) for of_tile in zip(images, illuminations, strict=True)]


def _show_lit(image: Any, illumination: Any, shared: dict[str, Any]) -> Any:
    return image[...] * is_lit(illumination[...], shared[Probe.name])


def assemble_values(state: State) -> dict[str, NDArray]:
    """Fetch the values of all parameters of the model; per-frame values follow the order of the tiles."""
    values = compute(task(_to_host, state.shared))
    own = list(values_in([tile.own for tile in state.tiles]))
    parts = compute([task(_to_host, of_tile) for of_tile in own])
    return values | {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}


def _to_host(values: dict[str, Any]) -> dict[str, NDArray]:
    return {name: to_host(value) for name, value in values.items()}


class Outcome(NamedTuple):
    """The outcome of a run, from which its result is made."""

    images: list[Value]
    """The object on each tile's window, from `show_lit`."""
    illuminations: list[Value]
    """The illumination on each tile's window, summed over all tiles."""
    values: dict[str, NDArray]
    """Values of the parameters of the model, by name."""
    measures: FrameMeasures | None = None
    """Of each frame that was used; None where they are not known."""


def make_result(
    scan: xr.Dataset,
    tiling: Tiling,
    found: Outcome,
    history: Iterable[_Sweep],
    options: Mapping[str, Any],
    expected: float | None = None,
    faults: Sequence[str] = (),
) -> xr.Dataset:
    """Make the dataset that `reconstruct` returns.

    `scan` has all its frames, `tiling` those that were used. `expected` is the R2 that counting photons
    leaves, if it is known; `faults` are sentences of `verdict`.
    """
    history, used = list(history), frames_used(scan)
    unit = scan["position"].attrs["units"]
    size = pixel_size(scan) if unit == "m" else None
    step = (1.0, 1.0) if size is None else size
    first = (tiling.window.y, tiling.window.x)
    coordinates = {
        axis: (axis, (first[i] + np.arange(tiling.window.shape[i])) * step[i], {"units": unit})
        for i, axis in enumerate(("y", "x"))
    }
    recovered: dict[str, Any] = {}
    found = found._replace(values=order_variation(found.values))
    for kind in model.PARAMETERS:
        if kind.name in found.values:
            recovered |= kind.result(found.values[kind.name])
    if ProbeVariation.name in found.values:
        # It varies the first mode: modes are not mixed.
        recovered |= {"probe": (("mode", "probe_y", "probe_x"), found.values[Probe.name], {})}
    of_frames: dict[str, Any] = {}
    if found.measures is not None:
        recovered |= {f"frame_{name}": (("frame",), of, {}) for name, of in found.measures._asdict().items()}
    for name, (dims, values, attributes) in recovered.items():
        if dims[0] == "frame":
            of_frames[name] = (dims, spread_over_frames(used, values), attributes)
    result = xr.Dataset(
        {
            "object": (("y", "x"), assemble_canvas(tiling, found.images)),
            "illumination": (("y", "x"), assemble_canvas(tiling, found.illuminations)),
            **recovered,
            **of_frames,
            **_positions(scan, used, found.values.get(Positions.name)),
            "frame_number": ("frame", frame_numbers(scan)),
            "frame_used": ("frame", used),
            "part": (
                "frame",
                spread_over_frames(used, _label_parts(tiling, found.values["probe"], history)),
            ),
            **{
                name: ("sweep", np.array([getattr(sweep, name) for sweep in history]))
                for name in ("residual", "disagreement", "spread", "seconds")
            },
            **_drifts_of_sweeps(history, found.values, options),
        },
        coords={**coordinates, "sweep": np.arange(1, len(history) + 1)},
        attrs={
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "options": json.dumps(options, sort_keys=True),
            "version": __version__,
            "source": str(scan.encoding.get("source", scan.attrs.get("source", "memory"))),
        },
    )
    if found.measures is not None:
        result.attrs |= name_misfits(result)
    if pixel_size(scan) is not None:
        result.attrs["pixel_size_m"] = list(pixel_size(scan) or ())
    if expected is not None:
        result.attrs["expected_residual"] = expected
    if faults:
        result.attrs["warnings"] = list(faults)
    result["seconds"].attrs["units"] = "s"
    result["spread"].attrs["units"] = "rad"
    return result


def order_variation(values: dict[str, NDArray]) -> dict[str, NDArray]:
    """The values of a model with orthogonal modes of the variation, the one with the most weight first."""
    if ProbeVariation.name not in values:
        return values
    weights, modes = values[ProbeWeight.name][:, 0], values[ProbeVariation.name][0]
    if not weights.any():
        ordered, mixed = np.zeros_like(modes), weights
    else:
        exact, mixture = order_modes(weights.astype(complex), modes, [values[Probe.name][0]])
        ordered, mixed = exact.astype(modes.dtype), (weights @ mixture).astype(weights.dtype)
    return values | {ProbeVariation.name: ordered[None], ProbeWeight.name: mixed[:, None]}


def _label_parts(tiling: Tiling, probe: NDArray, history: Sequence[_Sweep]) -> NDArray[np.int64]:
    residual = history[-1].residual if history else 1.0
    return label_parts(tiling.corner, probe, tiling.frame_shape, tiling.period, residual)


def warn_of_parts(result: xr.Dataset) -> None:
    """Warn that the scan of a result falls into parts."""
    if sentence := describe_parts(result["part"].values):
        warn_caller(f"{sentence}; the result numbers them in part")


def _positions(scan: xr.Dataset, used: NDArray, value: NDArray | None) -> dict[str, xr.Variable]:
    """The positions in the scan's unit, and the given ones beside them if they were refined.

    Frames that were left out stay where they were given.
    """
    given = scan["position"].variable.load()
    if value is None:
        return {"position": given}
    size = pixel_size(scan) if given.attrs["units"] == "m" else None
    offset = np.zeros((len(used), 2))
    offset[used] = value[:, 0] * ((1.0, 1.0) if size is None else size)
    moved = given.copy(data=given.values + offset)
    return {"position": moved, "position_given": given}


def _drifts_of_sweeps(
    history: Sequence[_Sweep], values: dict[str, NDArray], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What updates of positions and gains found, for each sweep, if these were refined."""
    names: dict[str, str] = {}
    if Positions.name in values:
        names |= {"position_significance": "significance", "position_moved": "moved"}
    if Gain.name in options.get("refine", {}):
        names |= {"gain_significance": "gain_significance", "gain_changed": "gain_changed"}
    if ProbeVariation.name in values:
        names |= {name: name for name in ("variation_significance", "variation_share")}
    return {
        name: ("sweep", np.array([getattr(sweep, field) for sweep in history]))
        for name, field in names.items()
    }


def write_result(result: xr.Dataset, store: Store) -> None:
    """Write a result into a new store, which plain ``xarray.open_zarr`` can open."""
    with warnings.catch_warnings():
        # Writing consolidated metadata warns that they are not part of the Zarr v3 specification yet. Without
        # them, opening the store would warn.
        warnings.simplefilter("ignore")
        encoding = {name: {"compressors": (ZstdCodec(), Crc32cCodec())} for name in result.variables}
        result.to_zarr(store, mode="a", zarr_format=3, consolidated=True, encoding=encoding)


def open_result(url: str | Path) -> xr.Dataset:
    """Open a result that `reconstruct` or `resume` has written.

    Parameters
    ----------
    url : str or Path
        Its location: a folder, or a URL in a bucket or on a web server.

    Returns
    -------
    xarray.Dataset
        The dataset that `reconstruct` returned, loaded into memory.

    Raises
    ------
    ScanError
        Nothing exists there, or it is not a result.
    StoreError
        The store does not answer, or denies access.
    OptionError
        The URL is not valid.
    """
    location = parse_location(url)
    attributes = read_attributes(location, "a result, as reconstruct writes it")
    if attributes.get("format") != FORMAT:
        raise ScanError(f"{location} is a {attributes.get('format')}; expected a result ({FORMAT})")
    opened = load_dataset(location, open_dataset(location))
    # A new dataset, since the opened one keeps a reference to its store, which may hold credentials.
    return rename_old_variables(xr.Dataset(dict(opened.variables), attrs=opened.attrs))
