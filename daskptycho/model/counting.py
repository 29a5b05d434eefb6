"""The misfit that the counting of photons leaves: what R2 can be expected to reach.

With the true waves, a pixel of mean lambda has the misfit ``g(lambda) = E (sqrt(n) - sqrt(lambda))^2`` of a
Poisson count n: nearly 2 lambda where hardly any photon arrives, up to 0.45 at about one photon, and 1/4 for
many. lambda is not known, but a sum over pixels of some h(n) has the expectation of that of g(lambda).
`tasks.frames` calls this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.backend import array_module

__all__ = ["expect_misfit"]

Array = Any

# h(n) of 0 to 4 photons, fitted so that its Poisson mean is g(lambda) within a tenth for any lambda.
FEW_PHOTONS = (0.0, 1.74, -2.0, 2.92, -0.89)
# Counts that are looked at together: temporaries stay small.
BLOCK = 2**20


def expect_misfit(counts: Array) -> float:
    """The misfit ``sum (|Fz| - a)^2`` that is expected with the true waves, from Poisson counts.

    Above four photons ``h(n) = 1/4 + 3 / (32 n)``, from the expansion of g for large means.

    Parameters
    ----------
    counts : array
        Zero where a pixel is not valid.

    Returns
    -------
    float
        NaN if not all of them are whole numbers: then they are no counts.
    """
    flat, total = counts.reshape(-1), 0.0
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK]
        if part.dtype.kind == "f" and bool((part != array_module(part).rint(part)).any()):
            return np.nan
        total += sum(float((part == n).sum()) * term for n, term in enumerate(FEW_PHOTONS))
        many = part[part >= len(FEW_PHOTONS)].astype(np.float64)
        total += float((0.25 + 3 / (32 * many)).sum())
    return total
