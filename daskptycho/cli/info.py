"""``daskptycho info``: describe a scan or a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import overwrite_option, refuse_to_overwrite
from daskptycho.cli.terminal import print_warning, show_facts, show_progress
from daskptycho.views.facts import Counts, mean_step, result_facts, sample_counts, scan_facts
from daskptycho.views.quantities import format_number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["command"]

# Frames with less linear overlap than this hardly constrain each other.
LEAST_OVERLAP = 0.5
# A detector with fewer valid pixels than this part hardly measures anything.
LEAST_VALID = 0.1
# Warn if the rim of near-field frames is brighter than this fraction of their mean.
LIT_RIM = 0.1


@click.command(
    "info",
    cls=CommandWithExamples,
    short_help="Describe a scan or a result.",
    examples=("daskptycho info scan.zarr", "daskptycho info scan.zarr --picture scan.png"),
)
@click.argument("scan", metavar="SCAN")
@click.option(
    "--picture",
    metavar="PICTURE",
    help="Also draw the mean frame and the positions, or the result, into this file.",
)
@overwrite_option
def command(scan: str, picture: str | None, overwrite: bool) -> None:
    """Describe SCAN: frames, counts, positions and geometry, with a warning for everything unusual.

    The mean frame, on a logarithmic scale, and the positions are drawn in characters. SCAN may also be a
    result.
    """
    from daskptycho.cli.sketch import place_side_by_side, sketch_frame, sketch_positions
    from daskptycho.run.result import FORMAT, open_result
    from daskptycho.scan.dataset import open_scan, position_in_pixels, take_used
    from daskptycho.storage.store import parse_location, read_attributes

    if picture is not None:
        refuse_to_overwrite(picture, overwrite)
    if read_attributes(parse_location(scan)).get("format") == FORMAT:
        result = open_result(scan)
        show_facts(f"{scan}, a result", result_facts(result))
        for fault in result.attrs.get("warnings", ()):
            print_warning(fault)
        if picture is not None:
            from daskptycho.views.plotting import plot_result
            from daskptycho.views.saving import save_figure

            click.echo(save_figure(plot_result(result), picture))
        return
    opened = open_scan(scan)
    with show_progress(leave=False) as progress:
        counts = sample_counts(opened, progress.tiles("Reading"))
    show_facts(f"{scan}, a scan", scan_facts(opened, counts))
    used = take_used(opened)
    position = position_in_pixels(used)
    click.echo()
    click.echo(
        place_side_by_side(
            ("mean frame (log)", sketch_frame(counts.mean)),
            ("positions", sketch_positions(position, opened["intensity"].shape[1:])),
        )
    )
    if picture is not None:
        from daskptycho.views.plotting import plot_scan
        from daskptycho.views.saving import save_figure

        click.echo(save_figure(plot_scan(used, counts.mean), picture))
    for warning in _find_oddities(used, counts):
        print_warning(warning)


def _find_oddities(scan: xr.Dataset, counts: Counts) -> list[str]:
    """Warnings about what is allowed but rarely intended; the scan has only the frames that are used."""
    from daskptycho.scan.findings import describe_positions
    from daskptycho.scan.optics import is_near_field
    from daskptycho.scan.zero_frequency import doubt_zero_frequency

    oddities = _dark_frames(scan, counts)
    if counts.pixels < LEAST_VALID * counts.mean.size:
        oddities.append(
            f"only {counts.pixels:,} of {counts.mean.size:,} pixels are valid; a mask has to be True where "
            "the detector counts"
        )
    if "probe" not in scan:
        oddities.append(
            "the scan has no probe: reconstruct guesses one from the frames (or takes --probe FILE)"
        )
    if is_near_field(scan.attrs):
        oddities += _rim_is_lit(scan, counts)
    else:
        doubt = doubt_zero_frequency(counts.mean)
        oddities += [] if doubt is None else [doubt]
    oddities += describe_positions(scan)
    if scan.sizes["frame"] > 1:
        oddities += _sparse(scan)
        oddities += _parts(scan, counts)
    return oddities


def _sparse(scan: xr.Dataset) -> list[str]:
    """Warn if the beams overlap too little, or without a probe, if even the frames do."""
    from daskptycho.scan.dataset import position_in_pixels, scan_period
    from daskptycho.scan.odd_frames import doubt_distance
    from daskptycho.scan.overlap import describe_sparse, measure_overlap

    if "probe" in scan:
        sentence = describe_sparse(measure_overlap(position_in_pixels(scan), scan["probe"].values))
        return [sentence] if sentence else []
    step, frame = mean_step(scan), min(scan["intensity"].shape[1:])
    told = doubt_distance(position_in_pixels(scan), scan["intensity"].shape[1:], scan_period(scan))
    if told is not None or 1 - step / frame >= LEAST_OVERLAP:
        return []
    return [
        f"on average a frame is {step:.3g} pixels from its nearest neighbour, more than half of its {frame} "
        "pixels: neighbours hardly overlap"
    ]


def _rim_is_lit(scan: xr.Dataset, counts: Counts) -> list[str]:
    """Warn if light passes beside the detector in the near field."""
    import numpy as np

    from daskptycho.scan.optics import fresnel_numbers

    mean = counts.mean
    rim = np.concatenate([mean[0], mean[-1], mean[:, 0], mean[:, -1]]).mean()
    # The frames of the simulator are periodic.
    if "truth_object" in scan or rim <= LIT_RIM * mean.mean():
        return []
    # As far as the finest structure, of two pixels, is carried on its way to the detector.
    margin = min(max(1, round(0.5 / min(fresnel_numbers(scan.attrs)))), min(mean.shape) // 2)
    return [
        "the beam reaches the rim of the frames: light that leaves a frame there is taken to come back on "
        f"the other side; import with --pad {margin} to leave it room"
    ]


def _parts(scan: xr.Dataset, counts: Counts) -> list[str]:
    """Warn if the scan falls into parts whose relative phases are not determined."""
    from daskptycho.scan.dataset import position_in_pixels, scan_period
    from daskptycho.scan.parts import describe_parts, label_parts
    from daskptycho.tiling import split_position

    # R2 of a perfect reconstruction, if the counts are photons.
    noise = counts.pixels / (4 * max(float(counts.per_frame.mean()), counts.pixels / 4))
    corner, _ = split_position(position_in_pixels(scan))
    probe = scan["probe"].values if "probe" in scan else None
    frame_shape = (scan.sizes["qy"], scan.sizes["qx"])
    sentence = describe_parts(label_parts(corner, probe, frame_shape, scan_period(scan), noise))
    return [sentence] if sentence else []


def _dark_frames(scan: xr.Dataset, counts: Counts) -> list[str]:
    """Warnings about frames that have no counts, or far fewer or more than their neighbours."""
    import numpy as np

    from daskptycho.scan.dataset import frame_numbers, list_numbers, position_in_pixels
    from daskptycho.scan.odd_frames import find_dark_frames

    position = position_in_pixels(scan)[np.isin(frame_numbers(scan), counts.number)]
    whole = scan["intensity"].dtype.kind != "f"
    empty, odd = find_dark_frames(counts.per_frame, position, scan["intensity"].shape[1:], whole=whole)
    said = []
    for found, what in ((empty, "no counts"), (odd, "far fewer or more counts than neighbours that agree")):
        numbers = sorted(counts.number[found].tolist())
        if numbers:
            said.append(
                f"{list_numbers(numbers)} of the {format_number(len(counts.per_frame))} that were read "
                f"{'has' if len(numbers) == 1 else 'have'} {what} "
                f"(to leave out: reconstruct with --leave-out {','.join(map(str, numbers))})"
            )
    return said
