"""The CUDA sources as g++ compiles them, on the emulation of `tests.cuda`, against plain NumPy."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho import gpu_kernels
from tests.cuda.catching import SEEDS
from tests.cuda.emulation import Compiled, compile_source, compiler_missing, kernel_names
from tests.cuda.shipped import SOURCE, kernels_on
from tests.cuda.trials import COMPOSED, TRIALS, Trial

needs_compiler = pytest.mark.skipif(compiler_missing() is not None, reason=str(compiler_missing()))


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_source(SOURCE, sanitise=True)


def test_every_kernel_has_trials() -> None:
    assert kernel_names(SOURCE) == list(TRIALS)
    assert set(gpu_kernels.__all__) == {*TRIALS, *COMPOSED}


@needs_compiler
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kernel", "trial"),
    [
        pytest.param(kernel, trial, id=f"{kernel}-{trial.what}")
        for kernel, trials in (TRIALS | COMPOSED).items()
        for trial in trials
    ],
)
def test_kernel(compiled: Compiled, kernel: str, trial: Trial, seed: int) -> None:
    with kernels_on(compiled, seed) as kernels:
        trial.run(kernels)


@needs_compiler
def test_sums_have_the_same_bits_in_every_schedule(compiled: Compiled) -> None:
    random = np.random.default_rng(0)
    waves = random.standard_normal((9, 2, 20, 40, 2)).astype(np.float32).view(np.complex64)[..., 0]
    corner = random.integers(0, 12, (9, 2))
    found = []
    for seed in SEEDS:
        image, power = np.zeros((32, 52), dtype=np.complex64), np.empty(9)
        with kernels_on(compiled, seed) as kernels:
            kernels.accumulate_waves(waves, waves[:1], corner, image)
            kernels.weigh_frames(waves, waves[:1], np.empty((9, 20, 40), dtype=np.complex64), power)
        found.append((image, power))
    for image, power in found[1:]:
        np.testing.assert_array_equal(image, found[0][0])
        np.testing.assert_array_equal(power, found[0][1])


@needs_compiler
def test_a_table_of_positions_is_moved_to_the_device_once(compiled: Compiled) -> None:
    corner = np.array([[0, 0], [1, 2]])
    image, waves = np.ones((5, 6), dtype=np.complex64), np.empty((2, 1, 4, 4), dtype=np.complex64)
    with kernels_on(compiled) as kernels:
        import cupy

        with mock.patch.object(cupy, "asarray", wraps=cupy.asarray) as moved:
            for _ in range(3):
                # A tile that was sent to a worker anew is equal, and not the same.
                kernels.exit_waves(image, waves[:1], corner.copy(), waves)
            assert moved.call_count == 1
            kernels.exit_waves(image, waves[:1], corner[::-1], waves)
            assert moved.call_count == 2


@needs_compiler
def test_views_are_refused(compiled: Compiled) -> None:
    image, waves = np.ones((8, 9), dtype=np.complex64), np.empty((1, 1, 4, 4), dtype=np.complex64)
    with kernels_on(compiled) as kernels, pytest.raises(ValueError, match="exit_waves got an array that is"):
        kernels.exit_waves(image[:, ::2], waves, np.array([[0, 0]]), waves)


@settings(max_examples=60)
@given(st.data())
def test_every_patch_lists_the_frames_that_touch_it(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 80)))
    rows, columns = (
        data.draw(st.integers(height, height + 40)),
        data.draw(st.integers(width, width + 90)),
    )
    places = st.tuples(st.integers(0, rows - height), st.integers(0, columns - width))
    corner = np.array(data.draw(st.lists(places, max_size=8)), dtype=np.int64).reshape(-1, 2)
    start, touching = gpu_kernels._cover(corner, height, width, rows, columns)

    frames = touching[:, 0]
    np.testing.assert_array_equal(touching[:, 1:], corner[frames])
    down, across = gpu_kernels.PATCH
    expected = []
    for top in range(0, rows, down):
        for left in range(0, columns, across):
            meets = (corner < (top + down, left + across)) & (corner > (top - height, left - width))
            expected.append(np.flatnonzero(meets.all(axis=1)).tolist())
    found = [frames[a:b].tolist() for a, b in itertools.pairwise(start)]
    assert found == expected
