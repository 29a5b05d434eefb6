"""The parts of a picture in which a mistake would mislead: crop, rim, scale, colours."""

from __future__ import annotations

import matplotlib.colors as colours
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from daskptycho.views.drawing import (
    MOST_PIXELS,
    add_scale,
    add_scale_bar,
    complex_to_rgb,
    flatten_phase,
    make_picture,
    phase_limit,
    phase_limits,
    robust_limits,
    show_phase,
)
from daskptycho.views.quantities import length_unit


def make_image(
    values: np.ndarray, step: float = 1.0, first: tuple[float, float] = (0, 0), units: str = "pixel"
):
    coords = {
        axis: (axis, first[i] + step * np.arange(values.shape[i]), {"units": units})
        for i, axis in enumerate(("y", "x"))
    }
    return xr.DataArray(values, dims=("y", "x"), coords=coords)


@given(phase=st.floats(-np.pi, np.pi), amplitude=st.floats(1e-3, 1e3))
def test_hue_is_phase_and_brightness_is_amplitude(phase, amplitude) -> None:
    rgb = complex_to_rgb(np.array([amplitude * np.exp(1j * phase), amplitude]))
    hue, _, brightness = colours.rgb_to_hsv(rgb[0])
    assert abs(np.exp(2j * np.pi * hue) - np.exp(1j * phase)) < 1e-6
    assert brightness == pytest.approx(1)
    half = complex_to_rgb(np.array([amplitude]), vmax=2 * amplitude)
    assert half.max() == pytest.approx(0.5)


def test_colours_of_nothing_are_black() -> None:
    assert not complex_to_rgb(np.zeros((3, 4))).any()
    assert not complex_to_rgb(np.array([np.nan, np.inf, 0])).any()
    assert complex_to_rgb(np.zeros((0, 5))).shape == (0, 5, 3)


def test_picture_is_the_illuminated_box_with_its_rim() -> None:
    light = np.zeros((40, 50))
    light[10:30, 5:45] = 100
    light[10:12, 5:8] = 1
    light[0, 0] = 2
    picture = make_picture(make_image(np.full((40, 50), 1j), step=2.0, first=(-10, 3)), light)
    assert picture.values.shape == (20, 40)
    # Coordinates name the centres of pixels, extents their outer edges.
    assert picture.extent == (3 + 2 * 5 - 1, 3 + 2 * 44 + 1, -10 + 2 * 29 + 1, -10 + 2 * 10 - 1)
    assert picture.rim[:2, :3].all()
    assert picture.rim.sum() == 6
    assert picture.bright.size == 20 * 40 - 6


def test_mean_phase_is_that_of_the_lit_part() -> None:
    values = np.full((32, 32), 2 * np.exp(2j))
    values[:, :16] = -7
    light = np.ones((32, 32))
    light[:, :16] = 0.05
    picture = make_picture(make_image(values), light)
    np.testing.assert_allclose(np.angle(picture.bright), 0, atol=1e-12)
    kept = make_picture(make_image(values), light, remove_mean=False)
    np.testing.assert_allclose(np.angle(kept.bright), 2)


@given(ramp=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_a_ramp_is_removed_where_asked(ramp) -> None:
    y, x = np.mgrid[:24, :32]
    image = make_image(np.exp(1j * (ramp[0] * y + ramp[1] * x)))
    np.testing.assert_allclose(np.angle(make_picture(image, remove_ramp=True).values), 0, atol=1e-6)


def test_a_large_image_is_averaged_over_blocks() -> None:
    rng = np.random.default_rng(0)
    values = 1 + 0.1 * rng.normal(size=(12, 2 * MOST_PIXELS + 1))
    picture = make_picture(make_image(values))
    assert picture.values.shape == (4, MOST_PIXELS * 2 // 3 + 1)
    np.testing.assert_allclose(picture.values[0, 0], values[:3, :3].mean())
    np.testing.assert_allclose(picture.values[-1, -1], values[-3:, -2:].mean(), atol=0.2)
    assert picture.width == pytest.approx(2 * MOST_PIXELS + 1)


def test_a_dark_result_is_still_drawn() -> None:
    picture = make_picture(make_image(np.zeros((8, 8), complex)), np.zeros((8, 8)))
    assert picture.values.shape == (8, 8)
    assert robust_limits(np.abs(picture.bright))[0] < robust_limits(np.abs(picture.bright))[1]


def test_robust_limits_ignore_outliers() -> None:
    values = np.concatenate([np.linspace(1, 2, 1000), [500]])
    low, high = robust_limits(values)
    assert 1 <= low < 1.02
    assert 1.98 < high < 2.01


def test_range_of_phases_is_the_full_circle_only_if_they_wrap() -> None:
    weak = make_picture(make_image(np.exp(1j * np.tile([-0.2, 0.2], (8, 4)))))
    assert 0.25 < phase_limit(weak) < 0.35
    wrapping = make_picture(make_image(np.exp(1j * np.linspace(-3, 3, 64).reshape(8, 8))))
    assert phase_limit(wrapping) == np.pi
    assert phase_limit(weak, wrapping) == np.pi
    assert phase_limits(weak) == pytest.approx((-0.2, 0.2))
    assert phase_limits(weak, wrapping) == (-np.pi, np.pi)
    for limits, name in (((-0.2, 0.2), "viridis"), ((0, 2 * np.pi), "twilight")):
        assert show_phase(Figure().subplots(), weak, limits).get_cmap().name.startswith(name)
    assert show_phase(Figure().subplots(), weak, (0, 1), "gray").get_cmap().name.startswith("gray")


@given(ramp=st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_image_is_flattened_as_its_picture_is(ramp) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:24, :32]
    light = np.zeros((24, 32))
    light[3:20, 5:30] = 1 + rng.random((17, 25))
    image = make_image(np.exp(1j * (ramp[0] * y + ramp[1] * x) + 0.1j * rng.normal(size=y.shape)))
    picture = make_picture(image, light, remove_ramp=True)
    flat = flatten_phase(image, light, remove_ramp=True).values[picture.box]
    np.testing.assert_allclose(np.angle(flat * picture.values.conj()), 0, atol=1e-6)


@pytest.mark.parametrize(("metre", "drawn"), [(0.0, ("10 pixels", 10)), (1e9 / 5, ("50 nm", 10))])
def test_scale_bar_of_a_probe_counts_pixels_or_metres(metre: float, drawn: tuple[str, float]) -> None:
    axes = Figure().subplots()
    add_scale_bar(axes, 64, 64, metre)
    (bar,) = [artist for artist in axes.artists if isinstance(artist, AnchoredSizeBar)]
    assert bar.txt_label.get_text() == drawn[0]
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(drawn[1])


@pytest.mark.parametrize(
    ("length", "name"), [(3e-10, "pm"), (1e-9, "nm"), (5e-8, "nm"), (2e-6, "µm"), (0.3, "mm"), (2.0, "m")]
)
def test_lengths_read_as_one_to_a_thousand(length, name) -> None:
    unit, found = length_unit(length)
    assert found == name
    assert 1 <= length / unit < 1000


@given(step=st.floats(1e-11, 1e-4), width=st.integers(20, 300))
def test_scale_bar_is_as_long_as_it_says(step, width) -> None:
    axes = Figure().subplots()
    picture = make_picture(make_image(np.ones((20, width)), step=step, units="m"))
    add_scale(axes, picture)
    (bar,) = [artist for artist in axes.artists if isinstance(artist, AnchoredSizeBar)]
    drawn = bar.size_bar.get_children()[0].get_width()
    number, name = bar.txt_label.get_text().split()
    units = {"pm": 1e-12, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "m": 1.0}
    assert drawn == pytest.approx(float(number) * units[name])
    assert 0.09 * picture.width < drawn < 0.26 * picture.width
    assert number.strip("0.") in {"1", "2", "5"}
    assert not axes.get_xticks().size


def test_pixel_coordinates_keep_their_axes() -> None:
    axes = Figure().subplots()
    add_scale(axes, make_picture(make_image(np.ones((20, 30)))))
    assert axes.get_xlabel() == "x (pixel)"
    assert axes.get_ylabel() == "y (pixel)"
    assert not axes.artists
