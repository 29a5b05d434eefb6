"""Regions of an image, cut out after the mean phase and slope of the whole image have been subtracted.

`plotting` and the command line call this module; it builds on `drawing`.
"""

from __future__ import annotations

import xarray as xr

from daskptycho.errors import OptionError
from daskptycho.views.drawing import MOST_PIXELS, Picture, flatten_phase, make_picture

__all__ = ["crop_flattened", "crop_result"]


def crop_flattened(
    image: xr.DataArray,
    illumination: xr.DataArray | None,
    region: tuple[slice, slice],
    *,
    remove_ramp: bool,
    most: int = MOST_PIXELS,
) -> Picture:
    """Crop an image to a region, after the mean phase and slope of the whole image have been subtracted.

    Parameters
    ----------
    image, illumination, remove_ramp, most
        As for `make_picture`.
    region : (slice, slice)
        Rows and columns.

    Raises
    ------
    OptionError
        The region holds no pixel of the image.
    """
    _check_region(image, region)
    flat = flatten_phase(image, illumination, remove_ramp=remove_ramp)
    light = None if illumination is None else illumination[region]
    return make_picture(flat[region], light, remove_mean=False, most=most)


def crop_result(result: xr.Dataset, region: tuple[slice, slice] | None, *, remove_ramp: bool) -> xr.Dataset:
    """Crop a result to rows and columns, and subtract the mean slope of the phase of its object.

    Raises
    ------
    OptionError
        The region holds no pixel of the object.
    """
    if remove_ramp:
        image = result["object"]
        result = result.assign({"object": flatten_phase(image, result.get("illumination"), remove_ramp=True)})
    if region is None:
        return result
    _check_region(result["object"], region)
    return result.isel(y=region[0], x=region[1])


def _check_region(image: xr.DataArray, region: tuple[slice, slice]) -> None:
    """Refuse a region without any pixel of the image.

    Raises
    ------
    OptionError
    """
    if not image[region].size:
        asked = ",".join(f"{part.start or 0}:{'' if part.stop is None else part.stop}" for part in region)
        raise OptionError(
            f"the region {asked} holds no pixel; expected rows and columns of the image, which has "
            f"{image.shape[0]} x {image.shape[1]} pixels"
        )
