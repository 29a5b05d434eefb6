"""``daskptycho compare``: measure how close two images are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import overwrite_option, refuse_to_overwrite
from daskptycho.cli.terminal import remark, show_facts
from daskptycho.errors import ScanError
from daskptycho.views.quantities import format_length

if TYPE_CHECKING:
    import xarray as xr

    from daskptycho.analysis.metrics import FRC, Comparison

__all__ = ["command", "resolution_facts"]


@click.command(
    "compare",
    cls=CommandWithExamples,
    short_help="Compare two images.",
    examples=("daskptycho compare result.zarr scan.zarr comparison.png",),
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("picture", metavar="[PICTURE]", required=False)
@overwrite_option
def command(a: str, b: str, picture: str | None, overwrite: bool) -> None:
    """Register the image A to the image B and measure how close they are.

    A and B are results, or simulated scans, of which the true object is compared. The shift, the phase ramp
    and the factor that no reconstruction can determine are removed first. PICTURE shows both images, their
    difference and the Fourier ring correlation. If only one of them is in metres, as a measurement and a
    simulation may be, they are compared pixel by pixel.
    """
    from daskptycho.analysis.metrics import common_region, compare_images

    if picture is not None:
        refuse_to_overwrite(picture, overwrite)
    image, reference = _load_image(a), _load_image(b)
    units = [one.object["y"].attrs.get("units") for one in (image, reference)]
    if set(units) == {"m", "pixel"}:
        remark(f"{(a, b)[units.index('m')]} is in metres and the other image in pixels: compared in pixels\n")
        image, reference = _in_pixels(image), _in_pixels(reference)
    first, second = common_region(image.object, reference.object)
    weight = None
    for own, other in ((image, reference), (reference, image)):
        if own.illumination is not None:
            # Cropped like its image; where both have an illumination, the weaker one is the weight.
            light, _ = common_region(own.illumination, other.object)
            relative = light.values / light.values.max()
            weight = relative if weight is None else weight.clip(max=relative)
    metres = first["y"].attrs.get("units") == "m"
    pixel = abs(float(first["y"][1] - first["y"][0])) if metres and first.sizes["y"] > 1 else 1.0
    comparison = compare_images(first.values, second.values, weight, pixel)
    title = f"{a} compared with {b}{', the truth' if reference.truth else ''}"
    show_facts(title, [_comparison_facts(comparison, first.shape, metres)])
    if picture is not None:
        from daskptycho.storage.store import parse_location
        from daskptycho.views.plotting import plot_comparison
        from daskptycho.views.saving import save_figure

        names = (parse_location(a).name, "truth" if reference.truth else parse_location(b).name)
        path = save_figure(plot_comparison(comparison, second, names=names), picture)
        click.echo(f"\nPicture: {path}")


@dataclass(frozen=True)
class _ComparedImage:
    """An object with its illumination, and whether it is the truth of a simulation."""

    object: xr.DataArray
    illumination: xr.DataArray | None
    truth: bool


def _in_pixels(image: _ComparedImage) -> _ComparedImage:
    """The image with coordinates in pixels."""

    def converted(values: xr.DataArray) -> xr.DataArray:
        for axis in ("y", "x"):
            where = values[axis].values
            if values[axis].attrs.get("units") == "m" and len(where) > 1:
                step = (where[-1] - where[0]) / (len(where) - 1)
                values = values.assign_coords({axis: (axis, where / step, {"units": "pixel"})})
        return values

    light = None if image.illumination is None else converted(image.illumination)
    return _ComparedImage(converted(image.object), light, image.truth)


def _load_image(url: str) -> _ComparedImage:
    """Load the object of a result, or the true object of a simulated scan."""
    from daskptycho.run.result import open_result
    from daskptycho.scan.dataset import open_scan, pixel_size
    from daskptycho.storage.store import parse_location, read_attributes

    if read_attributes(parse_location(url)).get("format") != "daskptycho-scan":
        result = open_result(url)
        return _ComparedImage(result["object"], result["illumination"], False)
    scan = open_scan(url)
    if "truth_object" not in scan:
        raise ScanError(
            f"{url} is a measured scan; expected a result, or a simulated scan with its truth_object"
        )
    truth = scan["truth_object"].load().rename(object_y="y", object_x="x")
    unit = scan["position"].attrs["units"]
    for axis, step in zip(("y", "x"), pixel_size(scan) or (1.0, 1.0), strict=True):
        if axis not in truth.coords:
            # An object without coordinates starts at position 0.
            numbers = range(truth.sizes[axis])
            values = [number * (step if unit == "m" else 1.0) for number in numbers]
            truth = truth.assign_coords({axis: (axis, values, {"units": unit})})
    return _ComparedImage(truth, None, True)


def _comparison_facts(comparison: Comparison, shape: tuple[int, ...], metres: bool) -> list[tuple[str, str]]:
    """Error, registration and resolution as names and values."""
    registration = comparison.registration
    facts = [
        ("relative error", f"{comparison.error:.4g}"),
        ("compared region", f"{shape[0]} x {shape[1]} pixels"),
        (
            "shift",
            "{:.3f}, {:.3f} pixels (y, x)".format(*(round(value, 3) + 0.0 for value in registration.shift)),
        ),
        ("ramp", "{:.2g}, {:.2g} rad per pixel (y, x)".format(*registration.ramp)),
        ("scale", f"{abs(registration.scale):.4g}"),
    ]
    return facts + resolution_facts(comparison.frc, metres)


def resolution_facts(frc: FRC, metres: bool) -> list[tuple[str, str]]:
    """Where the Fourier ring correlation ends, and the resolution that this means, as names and values."""

    def size(value: float) -> str:
        return format_length(value) if metres else f"{value:.3g} pixels"

    unit = "1/m" if metres else "1/pixel"
    if frc.crossing is None or frc.resolution is None:
        finest = size(1 / float(frc.frequency[-1]))
        return [
            ("FRC crossing", "none up to the Nyquist frequency"),
            ("resolution", f"{finest} or better"),
        ]
    return [
        ("FRC crossing", f"{frc.crossing:.4g} {unit}"),
        ("resolution", f"{size(frc.resolution)} (full period)"),
    ]
