"""``daskptycho frc``: the resolution of a scan, from two images of half of its frames each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.compare import resolution_facts
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import (
    overwrite_option,
    refuse_to_overwrite,
    sync_option,
    update_probe_option,
)
from daskptycho.cli.terminal import show_facts, show_progress, verbosity_options
from daskptycho.errors import ScanError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["command"]

# Fewer frames than this have no two halves that overlap.
FEWEST_FRAMES = 8


@click.command(
    "frc",
    cls=CommandWithExamples,
    short_help="Measure the resolution of a scan from its two halves.",
    examples=("daskptycho frc scan.zarr frc.png --sweeps 60 --modes 3",),
)
@click.argument("scan", metavar="SCAN")
@click.argument("picture", metavar="[PICTURE]", required=False)
@click.option(
    "--sweeps", type=int, default=100, show_default=True, help="Maximum number of sweeps of each half."
)
@sync_option
@update_probe_option
@click.option("--modes", type=int, help="Number of incoherent probe modes; by default, that of the scan.")
@overwrite_option
@verbosity_options
def command(scan: str, picture: str | None, sync: str, overwrite: bool, **options: Any) -> None:
    """Reconstruct two halves of SCAN, and correlate their images ring by ring of spatial frequency.

    One half has every second frame in the order in which they were measured, the other half the rest. The
    resolution is the length at which the correlation falls below the half-bit threshold. Each half has half
    the overlap, so a sparse scan looks worse than it is. PICTURE shows both images, their difference and the
    correlation. Nothing else is written.
    """
    from daskptycho.analysis.metrics import common_region, compare_images
    from daskptycho.run.first_probe import guess_probe
    from daskptycho.run.reconstruction import reconstruct
    from daskptycho.scan.dataset import open_scan
    from daskptycho.sync.options import Sync

    opened = open_scan(scan)
    if picture is not None:
        refuse_to_overwrite(picture, overwrite)
    if "probe" not in opened and options["update_probe"]:
        # One guess for both: two could differ by the sign of the defocus, and the images be mirror twins.
        opened = opened.assign(probe=(("mode", "y", "x"), guess_probe(opened)))
    with show_progress() as progress:
        results = [
            reconstruct(
                half,
                sync=Sync(None if sync == "none" else sync),  # type: ignore[arg-type]
                callback=progress.sweeps(name, options["sweeps"]),
                **options,
            )
            for half, name in zip(_split(opened), ("First half", "Second half"), strict=True)
        ]
    first, second = common_region(results[0]["object"], results[1]["object"])
    lights = common_region(results[0]["illumination"], results[1]["illumination"])
    weight = lights[0].values / lights[0].values.max()
    weight = weight.clip(max=lights[1].values / lights[1].values.max())
    metres = first["y"].attrs.get("units") == "m"
    pixel = abs(float(first["y"][1] - first["y"][0])) if metres else 1.0
    comparison = compare_images(first.values, second.values, weight, pixel)
    residuals = ", ".join(f"{float(result['residual'][-1]):.4g}" for result in results)
    facts = [
        ("frames", ", ".join(str(result.sizes["frame"]) for result in results)),
        ("residuals", residuals),
        ("relative difference", f"{comparison.error:.4g}"),
        *resolution_facts(comparison.frc, metres),
    ]
    show_facts(f"{scan}, two halves compared", [facts])
    if picture is not None:
        from daskptycho.views.plotting import plot_comparison
        from daskptycho.views.saving import save_figure

        names = ("first half", "second half")
        click.echo(f"\nPicture: {save_figure(plot_comparison(comparison, second, names=names), picture)}")


def _split(scan: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Every second frame of a scan in the order of measurement, and the others.

    Raises
    ------
    ScanError
        The scan has too few frames.
    """
    import numpy as np

    from daskptycho.scan.dataset import frame_numbers

    if scan.sizes["frame"] < FEWEST_FRAMES:
        raise ScanError(
            f"the scan has {scan.sizes['frame']} frames; expected at least {FEWEST_FRAMES}, for two halves"
        )
    order = np.argsort(np.argsort(frame_numbers(scan)))
    return tuple(scan.isel(frame=np.flatnonzero(order % 2 == half)) for half in (0, 1))  # type: ignore[return-value]
