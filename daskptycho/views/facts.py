"""Facts of a scan or a result as names and values in words.

``daskptycho info`` and the accessor call this module. It reads the Dataset, and the frames of some tiles
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskptycho.errors import ScanError, StoreError
from daskptycho.views.quantities import format_length, format_number
from daskptycho.views.run_options import read_options

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = [
    "Counts",
    "Facts",
    "mean_step",
    "result_facts",
    "sample_counts",
    "scan_facts",
]

Facts = list[tuple[str, str]]

# Number of tiles that are read for the counts, spread over the scan: it takes seconds for any size of scan.
MOST_TILES = 64


@dataclass(frozen=True)
class Counts:
    """Statistics of the counts in some tiles of a scan.

    Attributes
    ----------
    mean : (qy, qx) array
        Mean frame.
    per_frame : (frame,) array
        Counts of each frame, summed over its pixels.
    number : (frame,) array
        Numbers of these frames.
    pixels : int
        Number of valid pixels in a frame.
    largest : float
        Largest count of a pixel.
    zeros : float
        Fraction of valid pixels without counts.
    tiles : int
        Number of tiles that were read.
    """

    mean: NDArray[Any]
    per_frame: NDArray[Any]
    number: NDArray[Any]
    pixels: int
    largest: float
    zeros: float
    tiles: int


def sample_counts(
    scan: xr.Dataset, progress: Callable[[int, int], None] | None = None, most: int = MOST_TILES
) -> Counts:
    """Read at most `most` tiles one after the other and collect the statistics of their counts.

    Frames that are left out do not contribute.

    Parameters
    ----------
    scan : Dataset
    progress : callable, optional
        Called with (tiles read, tiles to read) after each tile.
    most : int
        Largest number of tiles to read.

    Raises
    ------
    ScanError
        Frames are damaged.
    StoreError
        The store does not answer or refuses access.
    """
    import numpy as np

    from daskptycho.scan.dataset import frame_numbers, take_used, tile_chunks

    scan = take_used(scan)
    starts = np.cumsum([0, *tile_chunks(scan)])
    number = frame_numbers(scan)
    blocks = scan["intensity"].data.to_delayed().ravel()
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), most)).round().astype(int))
    valid = scan["valid"].values if "valid" in scan else np.ones(scan["intensity"].shape[1:], dtype=bool)
    sums, largest, zeros = [], 0.0, 0
    total = np.zeros(scan["intensity"].shape[1:])
    for done, index in enumerate(chosen, start=1):
        frames = _read_frames(scan, blocks[index])
        # Invalid pixels are stored as zero.
        zeros += frames.size - int(np.count_nonzero(frames)) - len(frames) * int((~valid).sum())
        total += frames.sum(axis=0, dtype=np.float64)
        sums.append(frames.sum(axis=(1, 2), dtype=np.float64))
        largest = max(largest, float(frames.max()))
        if progress is not None:
            progress(done, len(chosen))
    per_frame = np.concatenate(sums)
    pixels = int(valid.sum())
    return Counts(
        np.where(valid, total / len(per_frame), 0),
        per_frame,
        np.concatenate([number[starts[index] : starts[index + 1]] for index in chosen]),
        pixels,
        largest,
        zeros / (len(per_frame) * max(pixels, 1)),
        len(chosen),
    )


def _read_frames(scan: xr.Dataset, block: Any) -> NDArray[Any]:
    """Read the frames of one tile; raise `ScanError` if they are damaged."""
    import dask.base

    try:
        frames: NDArray[Any] = dask.base.compute(block)[0]
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # zarr and its codecs raise many kinds of errors for damaged chunks
        source = scan.encoding.get("source", "the scan")
        message = " ".join(str(error).split())
        raise ScanError(f"frames of {source} cannot be read: {type(error).__name__}: {message}") from error
    return frames


def scan_facts(scan: xr.Dataset, counts: Counts) -> list[Facts]:
    """Facts of a scan in groups: counts, positions, geometry, origin."""
    from daskptycho.scan.dataset import frame_numbers, frames_used, list_numbers, take_used, tile_chunks
    from daskptycho.scan.growing import describe_growth

    whole, scan = scan, take_used(scan)
    used = frames_used(whole)
    frames, height, width = scan["intensity"].shape
    tiles = tile_chunks(scan)
    sampled = "" if counts.tiles == len(tiles) else f"; read from {counts.tiles} tiles"
    low, mean, high = counts.per_frame.min(), counts.per_frame.mean(), counts.per_frame.max()
    measured: Facts = [
        ("frames", f"{format_number(frames)} of {height} x {width} pixels, {scan['intensity'].dtype}"),
        (
            "tiles",
            f"{format_number(len(tiles))} of {'up to ' if len(set(tiles)) > 1 else ''}"
            f"{format_number(max(tiles))} frames",
        ),
        (
            "counts per frame",
            f"{format_number(mean)} ({format_number(low)} to {format_number(high)}){sampled}",
        ),
        (
            "photons per pixel",
            f"{mean / max(counts.pixels, 1):.3g} "
            f"(at most {format_number(counts.largest)}, {100 * counts.zeros:.3g} % zeros)",
        ),
    ]
    done, all_tiles = describe_growth(whole) or (0, 0)
    if not used.all():
        what = "to come" if done < all_tiles else "left out"
        measured.insert(1, (what, list_numbers(sorted(frame_numbers(whole)[~used]))))
    if done < all_tiles:
        measured.insert(1, ("measured", f"{done} of {all_tiles} tiles so far"))
    if "valid" in scan:
        measured.append(("valid pixels", f"{100 * float(scan['valid'].mean()):.4g} %"))
    if "background" in scan:
        measured.append(("background", f"{float(scan['background'].mean()):.3g} per pixel"))
    return [measured, _position_facts(scan), _geometry_facts(scan), _origin_facts(scan)]


def _position_facts(scan: xr.Dataset) -> Facts:
    import numpy as np

    from daskptycho.scan.dataset import pixel_size, position_in_pixels, scan_period
    from daskptycho.scan.overlap import measure_overlap
    from daskptycho.tiling import split_position

    position, period = position_in_pixels(scan), scan_period(scan)
    frame = np.array(scan["intensity"].shape[1:])
    span = np.ptp(position, axis=0)
    metres = pixel_size(scan)
    real = (
        ""
        if metres is None
        else f" ({format_length(span[0] * metres[0])} x {format_length(span[1] * metres[1])})"
    )
    whole = "whole pixels" if not split_position(position)[1].any() else "fractions of pixels"
    canvas = tuple(np.ceil(span).astype(int) + frame) if period is None else period
    lit = len(position) * float(frame.prod()) / float(np.prod(canvas, dtype=float))
    facts = [
        ("positions", f"{span[0]:.4g} x {span[1]:.4g} pixels{real}, {whole}"),
        ("canvas", f"{canvas[0]} x {canvas[1]} pixels" + ("" if period is None else ", periodic")),
    ]
    if len(position) > 1:
        step = mean_step(scan)
        facts.append(("mean step", f"{step:.3g} pixels to the nearest frame"))
        beams = measure_overlap(position, scan["probe"].values) if "probe" in scan else None
        if beams is None:
            facts.append(("overlap", f"unknown without a probe; {lit:.3g} frames of the detector per pixel"))
        else:
            overlap = f"{100 * beams.linear:.0f} % linear, {100 * beams.area:.0f} % of the area"
            facts += [
                ("beam", f"{beams.diameter:.3g} pixels wide"),
                ("overlap", f"{overlap if beams.linear else 'none'}; {beams.frames:.3g} beams per point"),
            ]
    return facts


def mean_step(scan: xr.Dataset) -> float:
    """Mean distance in pixels from a frame to its nearest neighbour."""
    from scipy.spatial import KDTree

    from daskptycho.scan.dataset import position_in_pixels, scan_period, take_used

    position = position_in_pixels(take_used(scan))
    distance, _ = KDTree(position, boxsize=scan_period(scan)).query(position, k=2)
    return float(distance[:, 1].mean())


def _geometry_facts(scan: xr.Dataset) -> Facts:
    from daskptycho.scan.dataset import pixel_size
    from daskptycho.scan.optics import effective_distance, fresnel_numbers, is_near_field, magnification

    size = pixel_size(scan)
    facts = [("pixel size", "unknown" if size is None else _format_lengths(size))]
    if is_near_field(scan.attrs):
        numbers = fresnel_numbers(scan.attrs)
        effective = format_length(effective_distance(scan.attrs))
        facts.append(
            (
                "near field",
                f"effective distance {effective}, magnified {magnification(scan.attrs):.4g} times, "
                f"Fresnel number of a pixel {numbers[0]:.3g}",
            )
        )
    if "energy_eV" in scan.attrs:
        wavelength = (
            f" (wavelength {format_length(scan.attrs['wavelength_m'])})"
            if "wavelength_m" in scan.attrs
            else ""
        )
        radiation = " electrons" if scan.attrs.get("radiation") == "electron" else ""
        facts.append(("energy", f"{scan.attrs['energy_eV'] / 1000:.5g} keV{radiation}{wavelength}"))
    else:
        facts.append(("energy", "unknown"))
    distance, detector = (scan.attrs.get(f"detector_{name}_m") for name in ("distance", "pixel_size"))
    facts.append(("detector distance", "unknown" if distance is None else format_length(distance)))
    if "source_distance_m" in scan.attrs:
        facts.append(("source distance", format_length(scan.attrs["source_distance_m"])))
    facts.append(("detector pixel", "unknown" if detector is None else _format_lengths(detector)))
    return facts


def _format_lengths(size: Any) -> str:
    """Write one length, or two if they differ along y and x."""
    pair = [float(size)] * 2 if isinstance(size, int | float) else [float(side) for side in size]
    return (
        format_length(pair[0])
        if math.isclose(*pair, rel_tol=1e-6)
        else f"{format_length(pair[0])} x {format_length(pair[1])} (y, x)"
    )


def _origin_facts(scan: xr.Dataset) -> Facts:
    facts = [("probe", _describe_modes(scan) if "probe" in scan else "none")]
    if "truth_object" in scan:
        height, width = scan["truth_object"].shape
        facts.append(("truth", f"object of {height} x {width} pixels, and probe"))
    names = (("source", "source"), ("written by", "created_by"))
    return facts + [(name, str(scan.attrs[key])) for name, key in names if key in scan.attrs]


def _describe_modes(holder: xr.Dataset) -> str:
    """Say how many probe modes a scan or a result has and how the power is shared."""
    import numpy as np

    power = (np.abs(holder["probe"].values) ** 2).sum(axis=(-2, -1))
    if len(power) == 1:
        return "1 mode"
    shares = ", ".join(f"{share:.3g}" for share in 100 * power / power.sum())
    return f"{len(power)} modes with {shares} % of the power"


def _frame_facts(result: xr.Dataset) -> Facts:
    """The frames of a result that were left out, that fit badly, and that share hardly any light."""
    from daskptycho.scan.dataset import frame_numbers, frames_used, list_numbers

    left_out = sorted(frame_numbers(result)[~frames_used(result)].tolist())
    named = (
        ("left out", left_out),
        ("fit badly", result.attrs.get("frames_that_fit_badly", [])),
        ("hardly any overlap", result.attrs.get("frames_alone", [])),
    )
    return [(name, list_numbers(numbers)) for name, numbers in named if len(numbers)]


def result_facts(result: xr.Dataset) -> list[Facts]:
    """Facts of a result in groups: image, run, options, origin."""
    from daskptycho.views.found import describe_found

    options = read_options(result)
    disagreement = [float(value) for value in result["disagreement"].values if not math.isnan(value)]
    height, width = result["object"].shape
    unit = result["y"].attrs.get("units")
    size = result.attrs.get("pixel_size_m")
    image: Facts = [
        ("object", f"{height} x {width} pixels, {result['object'].dtype}"),
        ("pixel size", "unknown" if size is None else _format_lengths(size)),
        ("probe", _describe_modes(result)),
        (
            "frames",
            f"{format_number(result.sizes['frame'])}, positions in {'metres' if unit == 'm' else 'pixels'}",
        ),
        *_frame_facts(result),
    ]
    if "part" in result and (parts := int(result["part"].max()) + 1) > 1:
        image.append(("parts", f"{format_number(parts)}, whose relative phases are not determined"))
    seconds, expected = float(result["seconds"].sum()), result.attrs.get("expected_residual")
    run: Facts = [
        ("sweeps", f"{result.sizes['sweep']} of {options.get('sweeps', '?')} in {seconds:.3g} s"),
        (
            "residual",
            f"{float(result['residual'][-1]):.4g} (first {float(result['residual'][0]):.4g}"
            + (f", {expected:.3g} expected from the counts)" if expected is not None else ")"),
        ),
        (
            "disagreement",
            f"{disagreement[-1]:.3g} after {len(disagreement)} synchronisations"
            if disagreement
            else "never synchronised",
        ),
    ]
    for sentence in describe_found(result):
        name, found = sentence.split(": ", 1)
        run.append((name.lower(), found.removesuffix(".")))
    return [
        image,
        run,
        [
            (name.replace("_", " "), _format_value(value))
            for name, value in options.items()
            if name != "sweeps"
        ],
        [(name, str(result.attrs[name])) for name in ("source", "version") if name in result.attrs],
    ]


def _format_value(value: Any) -> str:
    """Write the value of an option in words."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name.replace('_', ' ')} {f'({text})' if isinstance(part, dict) else text}"
            for name, part in value.items()
            if (text := _format_value(part))
        )
    return (
        {True: "yes", False: "no", None: "none"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )
