"""Where the zero frequency lies is told by trying both the middle and the corner."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho.scan.zero_frequency import doubt_zero_frequency
from tests.smooth_rendering import frames_at, raster

MEAN = frames_at(raster(4)).mean(axis=0)


def test_frames_in_order_are_not_doubted() -> None:
    assert doubt_zero_frequency(MEAN) is None
    assert doubt_zero_frequency(np.zeros((8, 8))) is None
    assert doubt_zero_frequency(np.ones((8, 8)), decisive=True) is None


def test_one_lit_pixel_is_enough() -> None:
    mean = np.zeros((24, 24))
    mean[2, 21] = 5
    said = doubt_zero_frequency(mean)
    assert said is not None
    assert "--centre 2,21" in said


def test_the_corner_is_named() -> None:
    said = doubt_zero_frequency(np.fft.ifftshift(MEAN))
    assert said is not None
    assert "--zero-frequency corner" in said
    assert "--centre" not in said


@pytest.mark.parametrize("shift", [(7, 0), (-6, 5)])
def test_a_centre_elsewhere_is_named(shift: tuple[int, int]) -> None:
    said = doubt_zero_frequency(np.roll(MEAN, shift, axis=(0, 1)))
    assert said is not None
    assert "corner" not in said
    y, x = (float(part) for part in said.split("--centre ")[1].split(" ")[0].split(","))
    assert (y, x) == pytest.approx((12 + shift[0], 12 + shift[1]), abs=1.5)


def test_advice_for_cropped_frames_is_how_far_the_centre_is_off() -> None:
    said = doubt_zero_frequency(np.roll(MEAN, (-6, 5), axis=(0, 1)))
    assert said is not None
    y, x = (float(part) for part in said.split("a centre ")[1].split(" ")[0].split(","))
    assert (y, x) == pytest.approx((-6, 5), abs=1.5)


def test_a_corner_that_is_off_is_named_with_its_centre() -> None:
    said = doubt_zero_frequency(np.roll(np.fft.ifftshift(MEAN), (3, 0), axis=(0, 1)))
    assert said is not None
    assert "--zero-frequency corner" in said
    assert "--centre 15,12" in said
