"""``daskptycho info``: describe a scan or a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import print_warning, show_facts, show_progress
from daskptycho.views.facts import Counts, mean_step, result_facts, sample_counts, scan_facts
from daskptycho.views.quantities import format_number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["command"]

# Frames with less linear overlap than this hardly constrain each other.
LEAST_OVERLAP = 0.5
# Warn if the bright centre is off the zero frequency by more than this fraction of the frame.
OFF_CENTRE = 0.1
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
    "--picture", metavar="PICTURE", help="Also draw the mean frame and the positions, or the result, here."
)
def command(scan: str, picture: str | None) -> None:
    """Describe SCAN: frames, counts, positions and geometry, with a warning for everything unusual.

    The mean frame, on a logarithmic scale, and the positions are drawn in characters. SCAN may also be a
    result.
    """
    from daskptycho.cli.sketch import place_side_by_side, sketch_frame, sketch_positions
    from daskptycho.run.result import FORMAT, open_result
    from daskptycho.scan.dataset import open_scan, position_in_pixels
    from daskptycho.storage.store import parse_location, read_attributes

    if read_attributes(parse_location(scan)).get("format") == FORMAT:
        result = open_result(scan)
        show_facts(f"{scan}, a result", result_facts(result))
        if picture is not None:
            from daskptycho.views.plotting import plot_result
            from daskptycho.views.saving import save_figure

            click.echo(save_figure(plot_result(result), picture))
        return
    opened = open_scan(scan)
    with show_progress(leave=False) as progress:
        counts = sample_counts(opened, progress.tiles("Reading"))
    show_facts(f"{scan}, a scan", scan_facts(opened, counts))
    position = position_in_pixels(opened)
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

        click.echo(save_figure(plot_scan(opened, counts.mean), picture))
    for warning in _find_oddities(opened, counts):
        print_warning(warning)


def _find_oddities(scan: xr.Dataset, counts: Counts) -> list[str]:
    """Warnings about what is allowed but rarely intended."""
    from daskptycho.scan.optics import is_near_field

    oddities = []
    dark = int((counts.per_frame == 0).sum())
    if dark:
        oddities.append(
            f"frames without any counts: {format_number(dark)} of the "
            f"{format_number(len(counts.per_frame))} that were read"
        )
    if "probe" not in scan:
        oddities.append(
            "the scan has no probe; a reconstruction needs a first guess (import with --guess-probe)"
        )
    oddities += _rim_is_lit(scan, counts) if is_near_field(scan.attrs) else _off_centre(counts)
    if scan.sizes["frame"] > 1:
        step, frame = mean_step(scan), min(scan["intensity"].shape[1:])
        if 1 - step / frame < LEAST_OVERLAP:
            oddities.append(
                f"on average a frame is {step:.3g} pixels from its nearest neighbour, more than half of its "
                f"{frame} pixels: neighbours hardly overlap"
            )
    return oddities


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


def _off_centre(counts: Counts) -> list[str]:
    """Warn if the centre of the mean frame is far from the assumed zero frequency."""
    import numpy as np

    mean = counts.mean
    if not mean.any():
        return []
    # The centre of mass of the bright half, in which single hot pixels have no weight.
    bright = np.minimum(mean, np.percentile(mean, 99))
    bright = np.where(bright > 0.5 * bright.max(), bright, 0)
    centre = [
        float(np.average(np.arange(n), weights=bright.sum(axis=1 - a))) for a, n in enumerate(mean.shape)
    ]
    off = [coordinate - size // 2 for coordinate, size in zip(centre, mean.shape, strict=True)]
    if max(abs(distance) / size for distance, size in zip(off, mean.shape, strict=True)) < OFF_CENTRE:
        return []
    return [
        f"the bright centre of the frames is at {centre[0]:.1f}, {centre[1]:.1f}, but the zero frequency is "
        f"assumed at {mean.shape[0] // 2}, {mean.shape[1] // 2} (import with --centre)"
    ]
