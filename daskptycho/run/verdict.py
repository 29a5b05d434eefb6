"""Whether a run has gone well: its R2 against what the counts allow, its own best, and one.

`driving` asks at the end of a run, warns, and puts the answer into the result.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

import xarray as xr

from daskptycho.scan.left_out import frames_used

__all__ = ["count_unknowns", "find_faults"]

# Fewer sweeps say nothing about what R2 will reach.
FEW_SWEEPS = 10
# R2 is too high above this multiple of the expected one, and this more. Good simulated scans end below the
# expected R2, since the image fits part of the noise; partial coherence and blurred positions of good
# measurements leave about 0.01.
ALLOWED, MARGIN = 1.3, 0.015
# R2 is too high in any case above this: half of the measured intensity is not described.
HALF = 0.5
# R2 has risen from its best by this factor, and by this difference. Algorithms with a stack leave good images
# on purpose, so that their R2 goes up and down.
RISEN, RISEN_REFLECTING = 1.5, 4.0
NOTICED = 1e-3
# R2 is too low below this part of the expected one, less the share of the noise that the unknowns of the
# model take up. With Poisson counts of 1e2 to 1e6 photons a frame R2 ended above 1.3 times that.
FAR_BELOW = 0.6


def find_faults(
    residuals: Sequence[float],
    expected: float | None,
    scan: xr.Dataset,
    *,
    reflects: bool,
    unknowns: float = 1.0,
    sweep: int | None = None,
) -> list[str]:
    """Sentences about a run that has not gone well; none for a good one.

    Parameters
    ----------
    residuals : sequence of float
        R2 of each sweep.
    expected : float or None
        R2 that counting photons leaves, if it is known.
    scan : xarray.Dataset
    reflects : bool
        Whether the algorithm has a stack.
    unknowns : float
        Unknowns of the model for each value that was measured, from `count_unknowns`. By default as many.
    sweep : int, optional
        The sweep whose image is the result, if the run ended because it diverged too often.

    Returns
    -------
    list of str
    """
    if not residuals:
        return []
    if scan.sizes.get("frame", 0) and frames_used(scan).sum() == 1:
        return [
            "the scan has a single frame: without others that overlap it, many images and probes fit it "
            "equally well, and R2 tells nothing; expected a scan of several frames"
        ]
    last, finite = residuals[-1], [value for value in residuals if math.isfinite(value)]
    if sweep is not None:
        found = f"the reconstruction diverged again and again; the image is that after sweep {sweep}"
    elif last > 1 and len(residuals) >= FEW_SWEEPS:
        found = f"R2 is {last:.3g}: the model fits the frames worse than no light at all"
    elif last > min(finite) + NOTICED and last > (RISEN_REFLECTING if reflects else RISEN) * min(finite):
        best = min(finite)
        found = f"R2 has risen to {last:.3g} from {best:.3g} in sweep {residuals.index(best) + 1}"
    elif len(residuals) < FEW_SWEEPS:
        return []
    elif expected is not None and last > ALLOWED * expected + MARGIN:
        found = f"R2 is {last:.3g}, where counting photons would leave {expected:.2g}"
    elif expected is None and last > HALF:
        found = f"R2 is {last:.3g}: half of the measured intensity is not described"
    elif expected is not None and last < FAR_BELOW * (1 - unknowns) * expected:
        return [
            f"R2 is {last:.2g}, far below the {expected:.2g} that counting photons would leave: the frames "
            "hold no counts as they were measured, but for instance means of several, smoothed or scaled "
            "ones, or a simulation without noise. What follows from counts is not valid then: the expected "
            "R2, and the polish at low dose (polish=False, --no-polish)"
        ]
    else:
        return []
    return [f"{found}. {_name_causes(scan)}"]


def count_unknowns(scan: xr.Dataset, canvas: Sequence[int], probe: Sequence[int] = ()) -> float:
    """Unknowns of a model for each value that was measured, 1 at most.

    Parameters
    ----------
    scan : xarray.Dataset
    canvas : (int, int)
        Of the object, whose real and imaginary parts are unknowns of each pixel.
    probe : sequence of int
        Shape of a probe that is recovered; empty for a known one.
    """
    valid = int(scan["valid"].sum()) if "valid" in scan else scan.sizes["qy"] * scan.sizes["qx"]
    measured = int(frames_used(scan).sum()) * valid
    unknowns = 2 * (math.prod(canvas) + (math.prod(probe) if probe else 0))
    return min(1.0, unknowns / max(measured, 1))


def _name_causes(scan: xr.Dataset) -> str:
    """What is likely wrong, and the command that shows it."""
    causes = ["positions (unit, or the order or sign of their axes)"]
    if scan.attrs.get("propagation") != "near-field":
        causes.append("the centre of the detector")
    causes.append("the first probe")
    causes.append("pixels that should be masked")
    causes.append("a background" if "background" not in scan else "the background")
    source = scan.encoding.get("source")
    command = f"daskptycho info {shlex.quote(str(source)) if source else 'SCAN'}"
    return f"Likely causes: {', '.join(causes[:-1])} or {causes[-1]}; look at them with: {command}"
