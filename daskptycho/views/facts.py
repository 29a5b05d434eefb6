"""What a scan or a result says of itself in words: names and values, and numbers as a reader wants them.

``daskptycho info`` and the accessor call this module, and commands for its numbers; it reads what lies in
the Dataset, and of the frames so many tiles as it is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskptycho.errors import ScanError, StoreError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = [
    "Counts",
    "Facts",
    "count",
    "counts_of",
    "length",
    "mean_step",
    "plural",
    "result_facts",
    "scan_facts",
]

Facts = list[tuple[str, str]]

# Tiles that are read for the counts, spread over the scan: seconds, whatever the scan's size.
MOST_TILES = 64
LENGTHS = ((1.0, "m"), (1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm"))


@dataclass(frozen=True)
class Counts:
    """Counts of some tiles: the mean frame, sums of frames, the largest count and the share of zeros."""

    mean: NDArray[Any]
    of_frame: NDArray[Any]
    pixels: int
    largest: float
    zeros: float
    tiles: int


def counts_of(
    scan: xr.Dataset, progress: Callable[[int, int], None] | None = None, most: int = MOST_TILES
) -> Counts:
    """Read so many tiles, one by one; the frames are never in memory together.

    Raises
    ------
    ScanError
        Frames are damaged.
    StoreError
        The place does not answer, or lets nobody in.
    """
    import numpy as np

    blocks = scan["intensity"].data.to_delayed().ravel()
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), most)).round().astype(int))
    valid = scan["valid"].values if "valid" in scan else np.ones(scan["intensity"].shape[1:], dtype=bool)
    sums, largest, zeros = [], 0.0, 0
    total = np.zeros(scan["intensity"].shape[1:])
    for number, index in enumerate(chosen, start=1):
        frames = _frames_of(scan, blocks[index])
        # Pixels that are not valid are stored as zero.
        zeros += frames.size - int(np.count_nonzero(frames)) - len(frames) * int((~valid).sum())
        total += frames.sum(axis=0, dtype=np.float64)
        sums.append(frames.sum(axis=(1, 2), dtype=np.float64))
        largest = max(largest, float(frames.max()))
        if progress is not None:
            progress(number, len(chosen))
    of_frame = np.concatenate(sums)
    pixels = int(valid.sum())
    return Counts(
        total / len(of_frame), of_frame, pixels, largest, zeros / (len(of_frame) * pixels), len(chosen)
    )


def _frames_of(scan: xr.Dataset, block: Any) -> NDArray[Any]:
    import dask.base

    try:
        frames: NDArray[Any] = dask.base.compute(block)[0]
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # whatever damaged chunks make of zarr and its codecs
        source = scan.encoding.get("source", "the scan")
        said = " ".join(str(error).split())
        raise ScanError(f"frames of {source} cannot be read: {type(error).__name__}: {said}") from error
    return frames


def scan_facts(scan: xr.Dataset, counts: Counts) -> list[Facts]:
    """Names and values of what a scan holds, in groups."""
    from daskptycho.scan.dataset import tile_chunks

    frames, height, width = scan["intensity"].shape
    tiles = tile_chunks(scan)
    sampled = "" if counts.tiles == len(tiles) else f"; read from {counts.tiles} tiles"
    low, mean, high = counts.of_frame.min(), counts.of_frame.mean(), counts.of_frame.max()
    measured: Facts = [
        ("frames", f"{count(frames)} of {height} x {width} pixels, {scan['intensity'].dtype}"),
        (
            "tiles",
            f"{count(len(tiles))} of {count(max(tiles))} frames"
            + (" at most" if len(set(tiles)) > 1 else ""),
        ),
        ("counts a frame", f"{count(mean)} ({count(low)} to {count(high)}){sampled}"),
        (
            "photons a pixel",
            f"{mean / counts.pixels:.3g} (at most {count(counts.largest)}, {100 * counts.zeros:.3g} % zeros)",
        ),
    ]
    if "valid" in scan:
        measured.append(("valid pixels", f"{100 * float(scan['valid'].mean()):.4g} %"))
    if "background" in scan:
        measured.append(("background", f"{float(scan['background'].mean()):.3g} a pixel"))
    return [measured, _position_facts(scan), _geometry_facts(scan), _origin_facts(scan)]


def _position_facts(scan: xr.Dataset) -> Facts:
    import numpy as np

    from daskptycho.scan.dataset import pixel_size, position_in_pixels, scan_period
    from daskptycho.tiling import split_position

    position, period = position_in_pixels(scan), scan_period(scan)
    frame = np.array(scan["intensity"].shape[1:])
    span = np.ptp(position, axis=0)
    metres = pixel_size(scan)
    real = "" if metres is None else f" ({length(span[0] * metres[0])} x {length(span[1] * metres[1])})"
    whole = "whole pixels" if not split_position(position)[1].any() else "fractions of pixels"
    canvas = tuple(np.ceil(span).astype(int) + frame) if period is None else period
    lit = len(position) * float(frame.prod()) / float(np.prod(canvas, dtype=float))
    facts = [
        ("positions", f"{span[0]:.4g} x {span[1]:.4g} pixels{real}, {whole}"),
        ("canvas", f"{canvas[0]} x {canvas[1]} pixels" + ("" if period is None else ", wraps round")),
    ]
    if len(position) > 1:
        step = mean_step(scan)
        overlap = f"{100 * (1 - step / frame.min()):.0f} % of a frame" if step < frame.min() else "none"
        facts += [
            ("mean step", f"{step:.3g} pixels to the nearest frame"),
            ("overlap", f"{overlap}; {lit:.3g} frames a pixel"),
        ]
    return facts


def mean_step(scan: xr.Dataset) -> float:
    """Mean distance, in pixels, from a frame to its nearest."""
    from scipy.spatial import KDTree

    from daskptycho.scan.dataset import position_in_pixels, scan_period

    position = position_in_pixels(scan)
    distance, _ = KDTree(position, boxsize=scan_period(scan)).query(position, k=2)
    return float(distance[:, 1].mean())


def _geometry_facts(scan: xr.Dataset) -> Facts:
    from daskptycho.scan.dataset import pixel_size
    from daskptycho.scan.optics import effective_distance, fresnel_numbers, is_near_field, magnification

    size = pixel_size(scan)
    facts = [("pixel size", "unknown" if size is None else _two_lengths(size))]
    if is_near_field(scan.attrs):
        numbers = fresnel_numbers(scan.attrs)
        effective = length(effective_distance(scan.attrs))
        facts.append(
            (
                "near field",
                f"effective distance {effective}, magnified {magnification(scan.attrs):.4g} times, "
                f"Fresnel number of a pixel {numbers[0]:.3g}",
            )
        )
    if "energy_eV" in scan.attrs:
        wavelength = (
            f" (wavelength {length(scan.attrs['wavelength_m'])})" if "wavelength_m" in scan.attrs else ""
        )
        radiation = " electrons" if scan.attrs.get("radiation") == "electron" else ""
        facts.append(("energy", f"{scan.attrs['energy_eV'] / 1000:.5g} keV{radiation}{wavelength}"))
    else:
        facts.append(("energy", "unknown"))
    distance, detector = (scan.attrs.get(f"detector_{name}_m") for name in ("distance", "pixel_size"))
    facts.append(("detector distance", "unknown" if distance is None else length(distance)))
    if "source_distance_m" in scan.attrs:
        facts.append(("source distance", length(scan.attrs["source_distance_m"])))
    facts.append(("detector pixel", "unknown" if detector is None else _two_lengths(detector)))
    return facts


def _two_lengths(size: Any) -> str:
    pair = [float(size)] * 2 if isinstance(size, int | float) else [float(one) for one in size]
    return (
        length(pair[0])
        if math.isclose(*pair, rel_tol=1e-6)
        else f"{length(pair[0])} x {length(pair[1])} (y, x)"
    )


def _origin_facts(scan: xr.Dataset) -> Facts:
    facts = [("probe", _modes(scan) if "probe" in scan else "none")]
    if "truth_object" in scan:
        height, width = scan["truth_object"].shape
        facts.append(("truth", f"an object of {height} x {width} pixels and its probe"))
    names = (("source", "source"), ("written by", "created_by"))
    return facts + [(name, str(scan.attrs[key])) for name, key in names if key in scan.attrs]


def _modes(holder: xr.Dataset) -> str:
    import numpy as np

    power = (np.abs(holder["probe"].values) ** 2).sum(axis=(-2, -1))
    if len(power) == 1:
        return "1 mode"
    shares = ", ".join(f"{share:.3g}" for share in 100 * power / power.sum())
    return f"{len(power)} modes with {shares} % of the power"


def result_facts(result: xr.Dataset) -> list[Facts]:
    """Names and values of what a result holds, in groups."""
    options: dict[str, Any] = json.loads(result.attrs.get("options", "{}"))
    consensus = [float(value) for value in result["consensus"].values if not math.isnan(value)]
    height, width = result["object"].shape
    unit = result["y"].attrs.get("units")
    size = result.attrs.get("pixel_size_m")
    image: Facts = [
        ("object", f"{height} x {width} pixels, {result['object'].dtype}"),
        ("pixel size", "unknown" if size is None else _two_lengths(size)),
        ("probe", _modes(result)),
        ("frames", f"{count(result.sizes['frame'])}, positions in {'metres' if unit == 'm' else 'pixels'}"),
    ]
    seconds = float(result["seconds"].sum())
    run: Facts = [
        ("sweeps", f"{result.sizes['sweep']} of {options.get('sweeps', '?')} in {seconds:.3g} s"),
        ("residual", f"{float(result['residual'][-1]):.4g} (first {float(result['residual'][0]):.4g})"),
        (
            "consensus",
            f"{consensus[-1]:.3g} after {len(consensus)} synchronisations"
            if consensus
            else "never synchronised",
        ),
    ]
    return [
        image,
        run,
        [(name.replace("_", " "), _spoken(value)) for name, value in options.items() if name != "sweeps"],
        [(name, str(result.attrs[name])) for name in ("source", "version") if name in result.attrs],
    ]


def _spoken(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_spoken(one)}" for name, one in value.items())
    return (
        {True: "yes", False: "no", None: "none"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


def count(number: float) -> str:
    """A number of things: 1,024, and no more digits than a reader wants."""
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def plural(number: int, name: str) -> str:
    """So many things of a name: 1 tile, 4 tiles."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def length(metres: float) -> str:
    """A length in the unit in which it reads as 1 to 1000."""
    unit, name = next((pair for pair in LENGTHS if abs(metres) >= 0.9999 * pair[0]), LENGTHS[-1])
    return f"{metres / unit:.4g} {name}"
