"""What the end of a run says of refined positions, and what the picture draws of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from numpy.typing import NDArray

from daskptycho.views.moves import describe_moves, draw_moves, find_moves_in_pixels

SIDE = 8


def made(moves: NDArray, *, metres: bool = False, **options: Any) -> xr.Dataset:
    """A result whose frames have moved by some pixels."""
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    given = 5.0 * np.stack([y.ravel(), x.ravel()], axis=1)
    size = np.array([2e-8, 4e-8]) if metres else np.ones(2)
    units = {"units": "m" if metres else "pixel"}
    refine = {"refine": {"positions": {"limit": None} | options}}
    return xr.Dataset(
        {
            "position": (("frame", "axis"), (given + moves) * size, units),
            "position_given": (("frame", "axis"), given * size, units),
            "frame_number": ("frame", np.arange(SIDE**2)),
            "probe": (("mode", "probe_y", "probe_x"), np.ones((1, 32, 32), dtype=np.complex64)),
        },
        attrs={"options": json.dumps(refine)} | ({"pixel_size_m": size.tolist()} if metres else {}),
    )


def noise(size: float) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, size, (SIDE**2, 2))


TIME = np.linspace(0, 1, SIDE**2)[:, None]
DRIFT = np.hstack([0 * TIME, 6.2 * TIME**2])


@pytest.mark.parametrize("metres", [False, True], ids=["pixels", "metres"])
def test_says_a_drift_and_what_is_beside_it(metres: bool) -> None:
    said = describe_moves(made(DRIFT + noise(0.3), metres=metres))
    assert said.startswith("Positions: drift of 6")
    assert "px along x, 0.28 px rms beside." in said


def test_says_scale_and_angle() -> None:
    result = made(np.zeros((SIDE**2, 2)))
    centred = result["position_given"].values - result["position_given"].values.mean(axis=0)
    angle = np.deg2rad(2)
    turned = 1.03 * centred @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    said = describe_moves(made(turned - centred))
    assert "scaled by 1.029 and turned by 2.1 degrees" in said


def test_says_moves_of_single_frames_and_no_moves() -> None:
    assert "moved by 0.66 px rms" in describe_moves(made(noise(0.7)))
    assert describe_moves(made(np.zeros((SIDE**2, 2)))) == "Positions: the given ones fit, and were kept."


def test_says_how_many_frames_came_to_the_limit() -> None:
    moves = noise(0.1)
    moves[5] = moves[9] = (0, 7.9)
    assert "2 frames have moved by 8 px" in describe_moves(made(moves))
    assert "limit" not in describe_moves(made(moves, limit=12))


def test_arrows_start_at_the_given_positions_and_point_along_the_moves() -> None:
    result = made(DRIFT + noise(0.1), metres=True)
    axes = Figure().subplots()
    draw_moves(axes, result)
    (arrows,) = (child for child in axes.get_children() if isinstance(child, Quiver))
    moves = find_moves_in_pixels(result)
    times = float(axes.get_title().split(",")[1].split()[0])
    np.testing.assert_allclose(np.stack([arrows.V, arrows.U], axis=1), times * moves, rtol=1e-6)
    given = result["position_given"].values / [2e-8, 4e-8]
    np.testing.assert_allclose(np.stack([arrows.Y, arrows.X], axis=1), given, rtol=1e-6)
    low, high = axes.get_ylim()
    assert low > high
