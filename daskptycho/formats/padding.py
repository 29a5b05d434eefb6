"""Near-field frames with a margin of pixels that no detector saw.

A reconstruction takes the frame to be periodic: light that leaves it on one side returns on the other. A beam
as wide as the detector does not do that. A margin of invalid pixels leaves it room.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.errors import OptionError
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.scan.calibration import geometry_attributes
from daskptycho.scan.optics import NEAR_FIELD

__all__ = ["pad_frames"]

GEOMETRY = (
    *("energy_eV", "wavelength_m", "detector_distance_m", "detector_pixel_size_m"),
    *("source_distance_m", "pixel_size_m", "propagation", "radiation"),
)


def pad_frames(scan: dict[str, Any], margin: int) -> None:
    """Add a margin to the frames, `valid`, `background` and `probe` of a near-field scan, in place.

    The pixels of the margin are not valid. The probe goes on in it as at its edge. Positions become those of
    the new first pixel, so that the object stays where it was.

    Parameters
    ----------
    scan : dict
        Arguments of `create_scan`, in the order of a scan.
    margin : int
        Pixels on each side.

    Raises
    ------
    OptionError
        `margin` is negative, or frames are diffraction patterns.
    ScanError
        The geometry of the near field is incomplete or impossible.
    """
    if margin < 0:
        raise OptionError(f"pad is {margin}; expected 0 pixels or more")
    if scan.get("propagation") != NEAR_FIELD:
        raise OptionError(
            "pad (--pad) belongs to the near field; expected propagation 'near-field': a diffraction pattern "
            "with a margin would have smaller pixels on the sample"
        )
    height, width = (int(size) + 2 * margin for size in scan["intensity"].shape[1:])
    attributes = geometry_attributes(
        (height, width), **{name: scan[name] for name in GEOMETRY if scan.get(name) is not None}
    )
    pixel = (1.0, 1.0) if scan.get("position_unit") == "pixel" else attributes["pixel_size_m"]
    scan["position"] = np.asarray(scan["position"], dtype=np.float64) - margin * np.asarray(pixel)

    def widen(frames: Any) -> Any:
        return np.pad(frames, [(0, 0)] * (frames.ndim - 2) + [(margin, margin)] * 2)

    frames = scan["intensity"]
    if scan.get("valid") is None:
        scan["valid"] = np.ones(frames.shape[1:], dtype=bool)
    lazy = isinstance(frames, LazyFrames)
    scan["intensity"] = frames.map(widen, (height, width)) if lazy else widen(frames)
    for name in ("valid", "background"):
        if scan.get(name) is not None:
            scan[name] = widen(np.asarray(scan[name]))
    if scan.get("probe") is not None:
        probe = np.asarray(scan["probe"])
        scan["probe"] = np.pad(probe, [(0, 0)] * (probe.ndim - 2) + [(margin, margin)] * 2, mode="edge")
