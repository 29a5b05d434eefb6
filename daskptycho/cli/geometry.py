"""The geometry of a scan as options, the same in `import`, `record` and `simulate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from daskptycho.cli.options import LENGTHS

__all__ = ["add_geometry_options"]


def add_geometry_options(*, simulated: bool = False, file: bool = False) -> Callable[..., Any]:
    """Add the numbers of the geometry, the kind of radiation and the propagation to a command.

    Parameters
    ----------
    simulated : bool
        Whether positions are in pixels, so that neither their unit nor a calibrated pixel belongs to them.
    file : bool
        Whether a file may say what is not given; otherwise photons and the far field are meant.
    """
    unit = click.option(
        "--position-unit",
        type=click.Choice(["m", "mm", "um", "nm", "pixel"]),
        help="Unit of the positions; lengths need the geometry.  [default: as their file says, or m]",
    )
    wavelength = click.option(
        "--wavelength-m", type=float, help="Wavelength of the radiation, in place of its energy."
    )
    calibrated = click.option(
        "--pixel-size-m", type=LENGTHS, help="Size of an object pixel, if it is known by calibration."
    )
    options = [
        *([] if simulated else [unit]),
        click.option("--energy-eV", "energy_eV", type=float, help="Energy of the photons or electrons."),
        *([] if simulated else [wavelength]),
        click.option("--detector-distance-m", type=float, help="Distance from the sample to the detector."),
        click.option(
            "--detector-pixel-size-m",
            type=LENGTHS,
            help="Size of a detector pixel; one length, or two for y and x.",
        ),
        *([] if simulated else [calibrated]),
        click.option(
            "--source-distance-m",
            type=float,
            help="Distance from a point source to the sample (near field).",
        ),
        _choose("--radiation", ("photon", "electron"), "Kind of radiation.", file),
        _choose(
            "--propagation",
            ("far-field", "near-field"),
            "Diffraction patterns, or Fresnel images, which need the geometry.",
            file,
        ),
    ]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _choose(name: str, choices: tuple[str, ...], what: str, file: bool) -> Callable[..., Any]:
    """An option with a few choices, of which the first is meant if nothing is said."""
    if file:
        said = f"{what}  [default: as the file says, or {choices[0]}]"
        return click.option(name, type=click.Choice(choices), help=said)
    return click.option(name, type=click.Choice(choices), default=choices[0], show_default=True, help=what)
