"""What the end of a run says of refined gains, and what the picture draws of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from daskptycho.views.beam import describe_gain, draw_gain

FRAMES = 200
TIME = np.linspace(0, 1, FRAMES)


def made(power: NDArray, *, holds_slope: bool = False) -> xr.Dataset:
    """A result with gains of this power, whose frames are not in the order of acquisition."""
    order = np.random.default_rng(1).permutation(FRAMES)
    return xr.Dataset(
        {
            "gain": ("frame", np.sqrt(power)[order]),
            "frame_number": ("frame", order),
            "gain_changed": ("sweep", np.array([0.0, 0.1])),
        },
        attrs={"options": json.dumps({"refine": {"gain": {"holds_slope": holds_slope}}})},
    )


FLICKER = 1 + 0.02 * np.random.default_rng(2).normal(size=FRAMES)


@pytest.mark.parametrize(
    ("power", "said"),
    [
        (np.exp(-0.3 * TIME) * FLICKER, "Beam: decays by 26 % over the scan, 1.9 % rms beside."),
        (np.exp(0.3 * TIME), "Beam: grows by 35 % over the scan, "),
        (FLICKER, "Beam: varies by 1.9 % rms."),
        (np.where(abs(TIME - 0.5) < 0.011, 0.1, FLICKER), "; 4 frames have less than half of the light."),
        (np.where(TIME == 0, 0.1, FLICKER), "; 1 frame has less than half of the light."),
    ],
    ids=["decay", "growth", "flicker", "dip", "one frame"],
)
def test_says_what_the_beam_did(power: NDArray, said: str) -> None:
    assert said in describe_gain(made(power))


def test_says_what_cannot_be_known() -> None:
    assert describe_gain(made(FLICKER, holds_slope=True)).endswith("and was left as given.")


def test_draws_the_power_in_the_order_of_acquisition() -> None:
    axes = Figure().subplots()
    power = np.exp(-0.3 * TIME)
    result = made(power)
    result["gain"][0] = np.nan
    draw_gain(axes, result)
    (line,) = axes.lines
    left = result["frame_number"].values[0]
    np.testing.assert_array_equal(line.get_xdata(), np.delete(np.arange(FRAMES), left))
    np.testing.assert_allclose(line.get_ydata(), np.delete(power, left))
