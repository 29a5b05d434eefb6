"""Trials on arrays of more than 2^31 elements, where an index of 32 bits would overflow.

The arrays are sparse: memory is there where it is touched. Only the blocks that reach the far end of them
are run, and the far end alone is compared. `LARGE_TRIALS` has them by kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from daskptycho import gpu_kernels
from daskptycho.gpu_kernels import _cover
from tests.cuda.matrix_trials import MATRIX_CHECKS
from tests.cuda.memory import fenced
from tests.cuda.shipped import ChooseBlocks
from tests.cuda.trials import Kernels, Trial, close
from tests.plain import complex_noise

__all__ = ["LARGE_TRIALS"]

# Frames of 2^20 pixels: the last one begins beyond element 2^31.
SIZE = 1024
FRAMES = 2**31 // SIZE**2 + 2
LAST = FRAMES - 1
# An image of more than 2^31 pixels, with room for one small frame in its far corner.
IMAGE = (1100, 2**21)
SMALL = (6, 10)
# Pixels of a frame of one row.
LONG = 2**20


def _of_last_frame(grid: tuple[int, ...]) -> Sequence[int]:
    """The first and the last of the blocks that share the last frame."""
    frames, parts = grid
    return [frames - 1, frames - 1 + frames * (parts - 1)]


def _last(grid: tuple[int, ...]) -> Sequence[int]:
    return [int(np.prod(grid)) - 1]


def _reached() -> NDArray[np.intp]:
    """Pixels of a frame that those two blocks reach, as numbers in the flattened frame."""
    _, parts = gpu_kernels._blocks_of_frames(1, SIZE**2)
    step = gpu_kernels.THREADS * parts
    first = (np.arange(0, SIZE**2, step)[:, None] + np.arange(gpu_kernels.THREADS)).ravel()
    return np.concatenate([first, first + step - gpu_kernels.THREADS])


def _stack(random: np.random.Generator, modes: int = 1) -> NDArray[np.complex64]:
    """Frames of which the last one is noise and the others are dark."""
    stack = fenced((FRAMES, modes, SIZE, SIZE), np.complex64)
    stack[LAST] = complex_noise(random, stack.shape[1:])
    return stack


def _corners(place: Sequence[int]) -> NDArray[np.int64]:
    """All frames at the origin but the last."""
    corner = np.zeros((FRAMES, 2), dtype=np.int64)
    corner[LAST] = place
    return corner


def _cover_of_last(corner: NDArray[np.int64], *sizes: int) -> tuple[NDArray, ...]:
    """The patches of the last frame alone: those of all would take seconds, and the others are dark."""
    start, touching = _cover(corner[LAST:], *sizes)
    return start, touching + np.array([LAST, 0, 0], dtype=np.int32)


def _image(random: np.random.Generator) -> tuple[NDArray[np.complex64], NDArray[np.int64]]:
    """An image with noise in its far corner, and the corner of a frame there."""
    image = fenced(IMAGE, np.complex64)
    image[-SMALL[0] :, -SMALL[1] :] = complex_noise(random, SMALL)
    return image, np.subtract(IMAGE, SMALL)[None]


def exit_waves_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(0)
    image, probe = complex_noise(random, (SIZE + 1, SIZE + 2)), _stack(random)
    out = fenced(probe.shape, np.complex64)
    kernels.exit_waves(image, probe, _corners((1, 2)), out)
    at = _reached()
    close(out[LAST, 0].ravel()[at], (probe[LAST, 0] * image[1:, 2:]).ravel()[at])


def exit_waves_of_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(1)
    image, corner = _image(random)
    probe = complex_noise(random, (1, 1, *SMALL))
    out = np.empty_like(probe)
    kernels.exit_waves(image, probe, corner, out)
    close(out[0, 0], probe[0, 0] * image[-SMALL[0] :, -SMALL[1] :])


def filter_spectra_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(12)
    spectrum = _stack(random)
    before = spectrum[LAST, 0].copy()
    along_y, along_x = (fenced((FRAMES, SIZE), np.complex64) for _ in range(2))
    along_y[LAST], along_x[LAST] = complex_noise(random, (2, SIZE))
    factor = complex_noise(random, (SIZE, SIZE))
    kernels.filter_spectra(spectrum, factor, along_y, along_x)
    at = _reached()
    own = along_y[LAST, :, None] * along_x[LAST] * factor
    close(spectrum[LAST, 0].ravel()[at], (own * before).ravel()[at])


def filter_spectra_of_long_tables(kernels: Kernels) -> None:
    """Few pixels, and so many frames that the tables of both axes have more than 2^31 numbers."""
    random = np.random.default_rng(13)
    shape = (2**31 // LONG + 2, 1, 1, LONG)
    spectrum, along_x = fenced(shape, np.complex64), fenced((shape[0], LONG), np.complex64)
    before = spectrum[-1] = complex_noise(random, (1, 1, LONG))
    along_x[-1] = complex_noise(random, (LONG,))
    along_y = fenced((shape[0], 1), np.complex64)
    along_y[-1] = 1j
    kernels.filter_spectra(spectrum, np.ones((1, LONG), np.complex64), along_y, along_x)
    close(spectrum[-1, 0, 0, :256], (1j * before * along_x[-1])[0, 0, :256])


def project_modulus_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(2)
    wave = _stack(random)
    before = wave[LAST, 0].copy()
    amplitude = fenced((FRAMES, SIZE, SIZE), np.float32)
    amplitude[LAST] = random.random((SIZE, SIZE), dtype=np.float32)
    kernels.project_modulus(wave, amplitude, 1.0)
    at = _reached()
    close(wave[LAST, 0].ravel()[at], (amplitude[LAST] * before / abs(before)).ravel()[at])


def weigh_frames_of_many(kernels: Kernels) -> None:
    random = np.random.default_rng(3)
    wave = _stack(random)
    weighted = fenced((FRAMES, SIZE, SIZE), np.complex64)
    kernels.weigh_frames(wave, wave, weighted, np.empty(FRAMES))
    at = _reached()
    close(weighted[LAST].ravel()[at], (abs(wave[LAST, 0].ravel()[at]) ** 2))


def accumulate_overlap_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(4)
    weighted = _stack(random)[:, 0]
    image = np.zeros((SIZE + 9, SIZE + 40), dtype=np.complex64)
    with mock.patch.object(gpu_kernels, "_cover", _cover_of_last):
        kernels.accumulate_overlap(weighted, np.full(FRAMES, 1j, np.complex64), _corners((9, 40)), image)
    # The last patch is one row of 8 x 32 pixels or less.
    close(image[-1, -8:], 1j * weighted[LAST, -1, -8:])


def accumulate_overlap_of_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(5)
    image, corner = _image(random)
    before = image[-4:, -SMALL[1] :].copy()
    weighted = complex_noise(random, (1, *SMALL))
    kernels.accumulate_overlap(weighted, np.ones(1, np.complex64), corner, image)
    close(image[-4:, -SMALL[1] :], before + weighted[0, -4:])


def accumulate_waves_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(6)
    wave = _stack(random)
    image = np.zeros((SIZE + 9, SIZE + 40), dtype=np.complex64)
    with mock.patch.object(gpu_kernels, "_cover", _cover_of_last):
        kernels.accumulate_waves(wave, wave, _corners((9, 40)), image)
    close(image[-1, -8:], abs(wave[LAST, 0, -1, -8:]) ** 2)


def accumulate_illumination_of_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(7)
    image, probe = fenced(IMAGE, np.float32), complex_noise(random, (1, 1, *SMALL))
    kernels.accumulate_illumination(probe, np.subtract(IMAGE, SMALL)[None], image)
    close(image[-4:, -SMALL[1] :], abs(probe[0, 0, -4:]) ** 2)


def accumulate_probe_of_many_frames(kernels: Kernels) -> None:
    """The last group of frames; the others leave nothing behind, for want of being run."""
    random = np.random.default_rng(8)
    image, wave = complex_noise(random, (SIZE + 1, SIZE + 2)), _stack(random)
    numerator = fenced(wave.shape, np.complex64)
    kernels.accumulate_probe(
        image, wave, _corners((1, 2)), numerator, np.zeros((SIZE, SIZE), dtype=np.float32)
    )
    close(numerator[LAST, 0, -1, -256:], image[-1, -256:].conj() * wave[LAST, 0, -1, -256:])


def accumulate_probe_of_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(9)
    image, corner = _image(random)
    wave = complex_noise(random, (1, 1, *SMALL))
    numerator, denominator = np.zeros_like(wave), np.zeros(SMALL, dtype=np.float32)
    kernels.accumulate_probe(image, wave, corner, numerator, denominator)
    close(numerator[0, 0], image[-SMALL[0] :, -SMALL[1] :].conj() * wave[0, 0])


def gramian_of_many_frames(kernels: Kernels) -> None:
    random = np.random.default_rng(10)
    stack = _stack(random)[:, 0]
    pair = np.full((1, 2), LAST)
    out = np.empty(1, dtype=complex)
    offset = np.array([[SIZE - 8, SIZE - 9]])
    kernels.gramian(stack, stack, pair, offset, np.zeros((FRAMES, 2)), np.ones((SIZE, SIZE), np.float32), out)
    close(out[0], np.vdot(stack[LAST, -8:, -9:], stack[LAST, :8, :9]))


def gramian_on_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(11)
    frames, weight = complex_noise(random, (1, *SMALL)), fenced(IMAGE, np.float32)
    weight[-SMALL[0] :, -SMALL[1] :] = 2
    zero, out = np.zeros((1, 2), dtype=np.int64), np.empty(1, dtype=complex)
    kernels.gramian(frames, frames, zero, zero, np.subtract(IMAGE, SMALL)[None], weight, out)
    close(out[0], 2 * np.vdot(frames, frames))


def displacement_terms_on_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(13)
    image = fenced(IMAGE, np.complex64)
    inside = np.subtract(SMALL, 2)
    corner = complex_noise(random, SMALL)
    image[-SMALL[0] :, -SMALL[1] :] = corner
    change, probe = complex_noise(random, (2, 1, 1, *inside))
    force, curvature = np.empty((1, 2)), np.empty((1, 3))
    kernels.displacement_terms(image, change, probe, np.subtract(IMAGE, inside + 1)[None], force, curvature)
    y = (corner[2:, 1:-1] - corner[:-2, 1:-1]) / 2
    x = (corner[1:-1, 2:] - corner[1:-1, :-2]) / 2
    asked, power = probe[0, 0].conj() * change[0, 0], abs(probe[0, 0]) ** 2
    close(force[0], [(one.conj() * asked).real.sum() for one in (y, x)])
    close(curvature[0], [(a.conj() * b * power).real.sum() for a, b in ((y, y), (y, x), (x, x))])


def field_sums_of_a_large_image(kernels: Kernels) -> None:
    random = np.random.default_rng(14)
    fields = fenced((1, *IMAGE), np.float32)
    fields[0, -SMALL[0] :, -SMALL[1] :] = random.random(SMALL)
    power, out = random.random((1, *SMALL)).astype(np.float32), np.empty((1, 1))
    kernels.field_sums(power, fields, np.subtract(IMAGE, SMALL)[None], out)
    close(out[0, 0], (power[0] * fields[0, -SMALL[0] :, -SMALL[1] :]).sum())


def _trial(choose_blocks: ChooseBlocks, check: Callable[[Kernels], None]) -> Trial:
    return Trial(check.__name__.replace("_", " "), check, choose_blocks)


LARGE_TRIALS: dict[str, list[Trial]] = {
    "exit_waves": [
        _trial(_of_last_frame, exit_waves_of_many_frames),
        _trial(_last, exit_waves_of_a_large_image),
    ],
    "filter_spectra": [
        _trial(_of_last_frame, filter_spectra_of_many_frames),
        _trial(_of_last_frame, filter_spectra_of_long_tables),
    ],
    "project_modulus": [_trial(_of_last_frame, project_modulus_of_many_frames)],
    "weigh_frames": [_trial(_of_last_frame, weigh_frames_of_many)],
    "accumulate_overlap": [
        _trial(_last, accumulate_overlap_of_many_frames),
        _trial(_last, accumulate_overlap_of_a_large_image),
    ],
    "accumulate_waves": [_trial(_last, accumulate_waves_of_many_frames)],
    "accumulate_illumination": [_trial(_last, accumulate_illumination_of_a_large_image)],
    "accumulate_probe": [
        _trial(_last, accumulate_probe_of_many_frames),
        _trial(_last, accumulate_probe_of_a_large_image),
    ],
    "gramian": [_trial(_last, gramian_of_many_frames), _trial(_last, gramian_on_a_large_image)],
    "displacement_terms": [_trial(_last, displacement_terms_on_a_large_image)],
    "field_sums": [_trial(_last, field_sums_of_a_large_image)],
    # Rows and entries of a matrix are numbered in 32 bits.
    **{check.__name__: [] for check in MATRIX_CHECKS},
}
