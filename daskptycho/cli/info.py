"""``daskptycho info``: what lies in a scan or a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import bars, say_warning, show_facts
from daskptycho.views.facts import Counts, mean_step, result_facts, sample_counts, scan_facts
from daskptycho.views.quantities import format_number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["command"]

# Below this linear overlap of the frames neighbours hardly constrain each other.
LEAST_OVERLAP = 0.5
# A bright middle off the frame's by more than this share of it is doubted.
OFF_CENTRE = 0.1


@click.command(
    "info",
    cls=CommandWithExamples,
    short_help="Say what lies in a scan or a result.",
    examples=("daskptycho info scan.zarr", "daskptycho info scan.zarr --picture scan.png"),
)
@click.argument("scan", metavar="SCAN")
@click.option("--picture", metavar="PICTURE", help="Draw the mean frame and the positions there too.")
def command(scan: str, picture: str | None) -> None:
    """Say what SCAN holds: frames, counts, positions, geometry, and what looks odd.

    The mean frame and the positions are drawn in characters, the frame's counts by their logarithm. Works on
    results too.
    """
    from daskptycho.cli.sketch import side_by_side, sketch_frame, sketch_positions
    from daskptycho.run.result import FORMAT, open_result
    from daskptycho.scan.dataset import open_scan, position_in_pixels
    from daskptycho.storage.store import parse_location, read_attributes

    if read_attributes(parse_location(scan)).get("format") == FORMAT:
        show_facts(f"{scan}, a result", result_facts(open_result(scan)))
        return
    opened = open_scan(scan)
    with bars(leave=False) as progress:
        counts = sample_counts(opened, progress.tiles("Reading"))
    show_facts(f"{scan}, a scan", scan_facts(opened, counts))
    position = position_in_pixels(opened)
    click.echo()
    click.echo(
        side_by_side(
            ("mean frame (log)", sketch_frame(counts.mean)),
            ("positions", sketch_positions(position, opened["intensity"].shape[1:])),
        )
    )
    if picture is not None:
        from daskptycho.views.plotting import plot_scan, save_figure

        click.echo(save_figure(plot_scan(opened, counts.mean), picture))
    for warning in _doubts(opened, counts):
        say_warning(warning)


def _doubts(scan: xr.Dataset, counts: Counts) -> list[str]:
    """What is allowed and yet rarely meant."""
    doubts = []
    dark = int((counts.per_frame == 0).sum())
    if dark:
        doubts.append(
            f"{format_number(dark)} of {format_number(len(counts.per_frame))} frames read hold no counts at all"
        )
    if "probe" not in scan:
        doubts.append(
            "the scan has no probe; a reconstruction needs a first guess of it (import with --guess-probe)"
        )
    if scan.attrs.get("propagation") != "near-field":
        doubts += _off_centre(counts)
    if scan.sizes["frame"] > 1:
        step, frame = mean_step(scan), min(scan["intensity"].shape[1:])
        if 1 - step / frame < LEAST_OVERLAP:
            doubts.append(
                f"frames are {step:.3g} pixels from their nearest on the average, more than half of their "
                f"own {frame} pixels: neighbours hardly overlap"
            )
    return doubts


def _off_centre(counts: Counts) -> list[str]:
    """Where the mean frame's middle lies far from where the zero frequency should be."""
    import numpy as np

    mean = counts.mean
    if not mean.any():
        return []
    # The middle of gravity of the bright half: single hot pixels have no weight.
    bright = np.minimum(mean, np.percentile(mean, 99))
    bright = np.where(bright > 0.5 * bright.max(), bright, 0)
    middle = [
        float(np.average(np.arange(n), weights=bright.sum(axis=1 - a))) for a, n in enumerate(mean.shape)
    ]
    off = [place - size // 2 for place, size in zip(middle, mean.shape, strict=True)]
    if max(abs(distance) / size for distance, size in zip(off, mean.shape, strict=True)) < OFF_CENTRE:
        return []
    return [
        f"the frames' bright middle lies at {middle[0]:.1f}, {middle[1]:.1f}, not at {mean.shape[0] // 2}, "
        f"{mean.shape[1] // 2}, where the zero frequency is taken to be (import with --centre)"
    ]
