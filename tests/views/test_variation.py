"""What the end of a run says of a probe that varies, and what the picture draws of it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from daskptycho.views.variation import describe_variation, draw_variation

FRAMES = 50


def made(share: float, modes: int = 2) -> xr.Dataset:
    """A result whose frames are not in the order of acquisition; its first frame was left out."""
    order = np.random.default_rng(1).permutation(FRAMES)
    weight = np.stack([np.cos(0.2 * (order + k)) for k in range(modes)], axis=1).astype(complex)
    weight[0] = np.nan
    weight *= np.sqrt(share / modes / np.nanmean(abs(weight) ** 2, axis=0))
    basis = np.eye(64)[: modes + 1].reshape(modes + 1, 8, 8)
    return xr.Dataset(
        {
            "probe": (("mode", "probe_y", "probe_x"), basis[:1]),
            "probe_variation": (("variation", "probe_y", "probe_x"), basis[1:]),
            "probe_weight": (("frame", "variation"), weight),
            "frame_number": ("frame", order),
        }
    )


def test_says_how_much_the_probe_varies() -> None:
    assert describe_variation(made(0.1)) == "Probe: varies, 9.1 % of the power in 2 modes."
    assert describe_variation(made(0.1, modes=1)) == "Probe: varies, 9.1 % of the power in 1 mode."
    assert describe_variation(made(0.0)) == "Probe: does not vary significantly."


def test_draws_weights_in_the_order_of_acquisition() -> None:
    figure = Figure()
    result = made(0.1)
    draw_variation(figure, result)
    curve, *pictures = figure.axes
    assert len(pictures) == 2
    for mode, line in enumerate(curve.lines):
        number, weight = line.get_data()
        assert len(number) == FRAMES - 1
        assert (np.diff(number) > 0).all()
        expected = result.sortby("frame_number")["probe_weight"].values[:, mode].real
        np.testing.assert_array_equal(weight, expected[np.isfinite(expected)])
