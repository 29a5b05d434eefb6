"""What each kernel has to do, as trials: the shipped function on arrays of noise, against plain NumPy.

A trial takes the functions of `daskptycho.gpu_kernels` and raises AssertionError where a number is wrong.
Sizes are odd, as small as one pixel, and large enough for several blocks a frame; frames lie at the edges
of the image, apart from each other and upon each other; stacks are empty. `TRIALS` has them by kernel, and
`COMPOSED` those of functions that are made of other kernels and of CuPy's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests import plain
from tests.cuda.matrix_trials import MATRIX_CHECKS, MATRIX_LAYOUTS
from tests.cuda.shipped import ChooseBlocks
from tests.plain import complex_noise

__all__ = ["COMPOSED", "TRIALS", "Trial"]

Kernels = Any
Shape = tuple[int, int]

# Sums of a few hundred products of float32 numbers about one.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


class Trial(NamedTuple):
    """Calls of one kernel."""

    what: str
    run: Callable[[Kernels], None]
    choose_blocks: ChooseBlocks | None = None
    """Of a grid too large to be run as a whole."""


class Layout(NamedTuple):
    """Sizes of a call."""

    frames: int
    modes: int
    frame: Shape
    image: Shape
    own_probe: bool = False

    @property
    def corner(self) -> NDArray[np.int64]:
        """Corners anywhere; the first two frames at opposite ends of the image, the last two at one place."""
        most = np.subtract(self.image, self.frame)
        corner = np.random.default_rng(self.frames).integers(0, most + 1, (self.frames, 2))
        if self.frames > 3:
            corner[0], corner[1], corner[-1] = 0, most, corner[-2]
        return corner

    @property
    def said(self) -> str:
        own = ", own probes" if self.own_probe else ""
        height, width = self.frame
        rows, columns = self.image
        return f"{self.frames} frames, {self.modes} modes of {height}x{width} on {rows}x{columns}{own}"


LAYOUTS = [
    Layout(5, 1, (7, 5), (17, 23)),
    Layout(6, 3, (9, 33), (20, 75), own_probe=True),
    Layout(1, 2, (1, 1), (1, 1)),
    # Frames with nothing between them, on an image of several patches.
    Layout(3, 1, (4, 6), (50, 130)),
    # Two blocks a frame.
    Layout(3, 1, (47, 65), (60, 70)),
    # Two groups of the probe update.
    Layout(67, 2, (3, 4), (9, 40), own_probe=True),
    Layout(67, 2, (3, 4), (9, 40)),
    Layout(0, 1, (4, 4), (9, 8)),
]


class Arrays(NamedTuple):
    """Noise for a layout."""

    image: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    """(1 or frame, mode, y, x)"""
    waves: NDArray[np.complex64]
    amplitude: NDArray[np.float32]


def arrays_for(layout: Layout) -> Arrays:
    random = np.random.default_rng(sum(layout.frame))
    copies = max(1, layout.frames) if layout.own_probe else 1
    amplitude = random.random((layout.frames, *layout.frame)).astype(np.float32)
    amplitude[random.random(amplitude.shape) < 0.2] = -1
    return Arrays(
        complex_noise(random, layout.image),
        complex_noise(random, (copies, layout.modes, *layout.frame)),
        complex_noise(random, (layout.frames, layout.modes, *layout.frame)),
        amplitude,
    )


def close(found: NDArray, expected: NDArray) -> None:
    np.testing.assert_allclose(found, expected, **CLOSE)


def same(found: NDArray | float, expected: NDArray | float) -> None:
    np.testing.assert_array_equal(found, expected)


# One function a kernel: from a layout, the call and its check.


def exit_waves(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    out = np.full_like(arrays.waves, np.nan)
    kernels.exit_waves(arrays.image, arrays.probe, layout.corner, out)
    patches = plain.windows(arrays.image, layout.corner, layout.frame)
    close(out, arrays.probe * patches[:, None])


def filter_spectra(layout: Layout, kernels: Kernels) -> None:
    waves = arrays_for(layout).waves
    height, width = layout.frame
    random = np.random.default_rng(layout.frames)
    factor, along_y, along_x = (
        complex_noise(random, shape)
        for shape in (layout.frame, (layout.frames, height), (layout.frames, width))
    )
    found = waves.copy()
    kernels.filter_spectra(found, factor, along_y, along_x)
    own = along_y[:, :, None].astype(complex) * along_x[:, None, :] * factor
    close(found, waves * own[:, None])


def project_modulus(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    for scale in (1.0, 1 / 64):
        wave = (arrays.waves / np.sqrt(scale)).astype(np.complex64)
        found = kernels.project_modulus(wave, arrays.amplitude, scale)
        modulus = np.sqrt((abs(arrays.waves.astype(complex)) ** 2).sum(axis=1))
        valid = arrays.amplitude >= 0
        ratio = np.where(valid, arrays.amplitude, modulus) / modulus
        close(wave / np.sqrt(scale), arrays.waves * ratio[:, None])
        close(found, ((modulus - arrays.amplitude)[valid] ** 2).sum())


def waves_shifted_by_a_constant(kernels: Kernels) -> None:
    arrays, shift = arrays_for(LAYOUTS[1]), 0.375
    wave = arrays.waves.copy()
    found = kernels.project_modulus(wave, arrays.amplitude, 1.0, shift)
    modulus = np.sqrt((abs(arrays.waves.astype(complex)) ** 2).sum(axis=1) + shift)
    valid = arrays.amplitude >= 0
    ratio = np.where(valid, arrays.amplitude / modulus, 1)
    close(wave, arrays.waves * ratio[:, None])
    close(found, ((modulus - arrays.amplitude)[valid] ** 2).sum())


def waves_on_a_background(kernels: Kernels) -> None:
    for layout in (LAYOUTS[1], LAYOUTS[4]):
        arrays = arrays_for(layout)
        background = np.random.default_rng(4).random(layout.frame).astype(np.float32)
        wave = arrays.waves.copy()
        found = kernels.project_modulus(wave, arrays.amplitude, 1.0, background)
        modulus = np.sqrt((abs(arrays.waves.astype(complex)) ** 2).sum(axis=1) + background)
        valid = arrays.amplitude >= 0
        ratio = np.where(valid, arrays.amplitude / modulus, 1)
        close(wave, arrays.waves * ratio[:, None])
        close(found, ((modulus - arrays.amplitude)[valid] ** 2).sum())


def weigh_frames(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    weighted = np.full((layout.frames, *layout.frame), np.nan, dtype=np.complex64)
    power = np.full(layout.frames, np.nan)
    kernels.weigh_frames(arrays.waves, arrays.probe, weighted, power)
    close(weighted, plain.weigh(arrays.waves, arrays.probe))
    np.testing.assert_allclose(power, (abs(arrays.waves.astype(complex)) ** 2).sum(axis=(1, 2, 3)), rtol=1e-6)


def accumulate_overlap(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    weighted = arrays.waves[:, 0].copy()
    phase = np.exp(1j * np.arange(layout.frames)).astype(np.complex64)
    image = arrays.image.copy()
    kernels.accumulate_overlap(weighted, phase, layout.corner, image)
    turned = phase[:, None, None] * weighted.astype(complex)
    close(image, arrays.image + plain.overlap(turned, layout.corner, layout.image))


def accumulate_waves(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    image = arrays.image.copy()
    kernels.accumulate_waves(arrays.waves, arrays.probe, layout.corner, image)
    weighted = plain.weigh(arrays.waves.astype(complex), arrays.probe)
    close(image, arrays.image + plain.overlap(weighted, layout.corner, layout.image))


def accumulate_illumination(layout: Layout, kernels: Kernels) -> None:
    probe = arrays_for(layout).probe
    image = np.ones(layout.image, dtype=np.float32)
    kernels.accumulate_illumination(probe, layout.corner, image)
    probes = np.broadcast_to(probe, (layout.frames, *probe.shape[1:])) if len(probe) == 1 else probe
    close(image, 1 + plain.illuminate(probes.astype(complex), layout.corner, layout.image))


def accumulate_probe(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    numerator = np.ones_like(arrays.probe)
    denominator = np.ones(layout.frame, dtype=np.float32)
    kernels.accumulate_probe(arrays.image, arrays.waves, layout.corner, numerator, denominator)
    patches = plain.windows(arrays.image, layout.corner, layout.frame)
    expected = patches.conj()[:, None] * arrays.waves
    if not layout.own_probe:
        expected = expected.sum(axis=0, keepdims=True)
    close(numerator, 1 + expected)
    close(denominator, 1 + (abs(patches) ** 2).sum(axis=0))


def accumulate_probe_step(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    numerator = np.ones(arrays.probe.shape[1:], dtype=np.complex64)
    denominator = np.ones(layout.frame, dtype=np.float32)
    kernels.accumulate_probe_step(
        arrays.image, arrays.waves, arrays.probe, layout.corner, numerator, denominator
    )
    patches = plain.windows(arrays.image, layout.corner, layout.frame)
    change = arrays.waves - arrays.probe * patches[:, None]
    close(numerator, 1 + (patches.conj()[:, None] * change).sum(axis=0))
    close(denominator, 1 + (abs(patches) ** 2).sum(axis=0))


def take_amplitudes(layout: Layout, kernels: Kernels) -> None:
    amplitude = arrays_for(layout).amplitude
    counts, invalid = (100 * abs(amplitude)).astype(np.uint16), (amplitude < 0).any(axis=0)
    for mask in (None, invalid):
        out = np.full_like(amplitude, np.nan)
        kernels.take_amplitudes(counts, mask, out)
        expected = np.sqrt(counts, dtype=np.float32)
        close(out, expected if mask is None else np.where(mask, np.float32(-1), expected))


def displacement_terms(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    image, corner = np.pad(arrays.image, 1, mode="wrap"), layout.corner + 1
    force, curvature = np.full((layout.frames, 2), np.nan), np.full((layout.frames, 3), np.nan)
    kernels.displacement_terms(image, arrays.waves, arrays.probe, corner, force, curvature)
    slopes = [(np.roll(image.astype(complex), -1, a) - np.roll(image, 1, a)) / 2 for a in (0, 1)]
    patches = [plain.windows(slope, corner, layout.frame)[:, None] for slope in slopes]
    weighted, power = arrays.probe.conj() * arrays.waves, abs(arrays.probe.astype(complex)) ** 2
    close(force, np.stack([(one.conj() * weighted).real.sum(axis=(1, 2, 3)) for one in patches], axis=1))
    products = [patches[a].conj() * patches[b] for a, b in ((0, 0), (0, 1), (1, 1))]
    close(curvature, np.stack([(one.real * power).sum(axis=(1, 2, 3)) for one in products], axis=1))


def field_sums(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    power = (abs(arrays.probe) ** 2).sum(axis=1)
    fields = np.stack([arrays.image.real, arrays.image.imag, abs(arrays.image)])
    out = np.full((layout.frames, 3), np.nan)
    kernels.field_sums(power, fields, layout.corner, out)
    patches = [plain.windows(field, layout.corner, layout.frame).real for field in fields]
    close(out, np.stack([(power * patch).sum(axis=(1, 2)) for patch in patches], axis=1))


def measure_turns(layout: Layout, kernels: Kernels) -> None:
    arrays = arrays_for(layout)
    other = arrays.waves[:, ::-1, ::-1].copy()
    out = np.full(len(other), np.nan)
    kernels.measure_turns(arrays.waves, other, out)
    close(out, (arrays.waves.astype(complex).conj() * other).imag.sum(axis=(1, 2, 3)))


def gramian(layout: Layout, kernels: Kernels) -> None:
    """Every pair of frames, with nothing in common too, and each with itself; conjugate to the last bit."""
    arrays = arrays_for(layout)
    stack, corner = arrays.waves[:, 0].copy(), layout.corner
    weight = np.random.default_rng(0).random(layout.image).astype(np.float32)
    pair = np.array([*itertools.product(range(layout.frames), repeat=2)], dtype=np.int64).reshape(-1, 2)
    pair = pair[:200]
    offset = corner[pair[:, 1]] - corner[pair[:, 0]]
    out = np.full(len(pair), np.nan, dtype=complex)
    kernels.gramian(stack, stack, pair, offset, corner, weight, out)
    alone = [
        plain.overlap(z[None].astype(complex), c[None], layout.image)
        for z, c in zip(stack, corner, strict=True)
    ]
    close(out, np.array([(alone[i].conj() * alone[j] * weight).sum() for i, j in pair]))
    value = dict(zip(map(tuple, pair.tolist()), out, strict=True))
    for (i, j), own in value.items():
        if i == j:
            assert own.imag == 0
        if (corner[i] == corner[j]).all() and (j, i) in value:
            same(own, value[j, i].conj())


# Sums to the last bit, of numbers that a float32 sum would swallow.


def misfit_of_a_bright_pixel_among_faint_ones(kernels: Kernels) -> None:
    wave = np.ones((2, 1, 32, 64), dtype=np.complex64)
    wave[:, :, 0, 0] = 2.0**13
    found = kernels.project_modulus(wave, np.zeros((2, 32, 64), dtype=np.float32), 1.0)
    same(found, 2 * (2.0**26 + 32 * 64 - 1))


def power_of_a_bright_pixel_among_faint_ones(kernels: Kernels) -> None:
    wave = np.ones((2, 1, 32, 64), dtype=np.complex64)
    wave[:, :, 0, 0] = 2.0**13
    power = np.empty(2)
    kernels.weigh_frames(wave, wave[:1], np.empty((2, 32, 64), dtype=np.complex64), power)
    same(power, np.full(2, 2.0**26 + 32 * 64 - 1))


def gramian_of_pixels_that_cancel(kernels: Kernels) -> None:
    first = np.ones((1, 32, 64), dtype=np.complex64)
    zero = np.zeros((1, 2), dtype=np.int64)
    # A bright pixel and its opposite: summed up by one thread, one warp, and two warps.
    for opposite in ((28, 0), (0, 16), (2, 1)):
        second = np.full((1, 32, 64), 1 + 1j, dtype=np.complex64)
        second[0, 0, 0] *= 2.0**25
        second[0, *opposite] *= -(2.0**25)
        out = np.empty(1, dtype=complex)
        kernels.gramian(first, second, zero, zero, zero, np.ones((32, 64), dtype=np.float32), out)
        same(out, np.array([(1 + 1j) * (32 * 64 - 2)]))


def dark_waves_stay_finite(kernels: Kernels) -> None:
    wave = np.zeros((1, 2, 3, 4), dtype=np.complex64)
    amplitude = np.array([[[0, 1, -1, 2]] * 3], dtype=np.float32)
    close(kernels.project_modulus(wave, amplitude, 1 / 12), 15)
    assert np.isfinite(wave).all()
    assert not wave[..., [0, 2]].any()


def faint_waves_get_the_measured_amplitudes(kernels: Kernels) -> None:
    wave = np.full((1, 1, 4, 4), 1e-5 + 1e-5j, dtype=np.complex64)
    kernels.project_modulus(wave, np.full((1, 4, 4), 2, dtype=np.float32), 1.0)
    close(wave, np.full((1, 1, 4, 4), np.sqrt(2) * (1 + 1j)))


def negative_amplitudes_and_nan_are_not_measured(kernels: Kernels) -> None:
    wave = np.full((1, 1, 1, 4), 3 + 4j, dtype=np.complex64)
    amplitude = np.array([[[np.nan, -0.5, -1, 10]]], dtype=np.float32)
    close(kernels.project_modulus(wave, amplitude, 1.0), 25)
    close(wave, np.array([[[[3 + 4j, 3 + 4j, 3 + 4j, 6 + 8j]]]]))


def frames_of_two_tiles(kernels: Kernels) -> None:
    """Second frames of another stack, beyond the window of the first too; offsets tell where they are."""
    random = np.random.default_rng(7)
    first, second = complex_noise(random, (3, 8, 6)), complex_noise(random, (4, 8, 6))
    corner = random.integers(0, (10, 20), (3, 2))
    weight = random.random((18, 26)).astype(np.float32)
    pair = np.array([*itertools.product(range(3), range(4))])
    offset = random.integers(-9, 10, (12, 2))
    out = np.full(12, np.nan, dtype=complex)
    kernels.gramian(first, second, pair, offset, corner, weight, out)
    for (i, j), (dy, dx), found in zip(pair, offset, out, strict=True):
        expected = 0j
        for y, x in itertools.product(range(8), range(6)):
            if 0 <= y - dy < 8 and 0 <= x - dx < 6:
                product = complex(first[i, y, x]).conjugate() * complex(second[j, y - dy, x - dx])
                expected += product * float(weight[corner[i, 0] + y, corner[i, 1] + x])
        close(found, expected)


def zero_vectors_stay_zero(kernels: Kernels) -> None:
    start, index, data = np.array([0, 1], np.int32), np.zeros(1, np.int32), np.ones(1, complex)
    zero, none = np.zeros(1, complex), np.zeros(1)
    out, dots, squares = np.full(1, np.nan + 0j), np.full(1, np.nan), np.full(1, np.nan)
    kernels.multiply_matrix(start, index, data, zero, none, zero.copy(), none, out, dots, squares)
    for found in (out, dots, squares):
        same(found, np.zeros(1))


def _over(layouts: Sequence[Any], check: Callable[[Any, Kernels], None]) -> list[Trial]:
    def trial(layout: Any) -> Trial:
        return Trial(layout.said, lambda kernels: check(layout, kernels))

    return [trial(layout) for layout in layouts]


def _special(*checks: Callable[[Kernels], None]) -> list[Trial]:
    return [Trial(check.__name__.replace("_", " "), check) for check in checks]


TRIALS: dict[str, list[Trial]] = {
    check.__name__: _over(LAYOUTS, check)
    for check in (
        exit_waves,
        filter_spectra,
        project_modulus,
        weigh_frames,
        accumulate_overlap,
        accumulate_waves,
        accumulate_illumination,
        accumulate_probe,
        gramian,
        displacement_terms,
        field_sums,
    )
}
TRIALS |= {check.__name__: _over(MATRIX_LAYOUTS, check) for check in MATRIX_CHECKS}
TRIALS["project_modulus"] += _special(
    misfit_of_a_bright_pixel_among_faint_ones,
    dark_waves_stay_finite,
    faint_waves_get_the_measured_amplitudes,
    negative_amplitudes_and_nan_are_not_measured,
    waves_shifted_by_a_constant,
    waves_on_a_background,
)
TRIALS["weigh_frames"] += _special(power_of_a_bright_pixel_among_faint_ones)
TRIALS["multiply_matrix"] += _special(zero_vectors_stay_zero)
TRIALS["gramian"] += _special(gramian_of_pixels_that_cancel, frames_of_two_tiles)
COMPOSED: dict[str, list[Trial]] = {
    check.__name__: _over(LAYOUTS, check) for check in (accumulate_probe_step, measure_turns, take_amplitudes)
}
