"""The CUDA sources as g++ compiles them, on the emulation of `tests.cuda`, against plain NumPy."""

from __future__ import annotations

import pytest

from tests.cuda.emulation import Compiled, compile_source, compiler_missing, kernel_names
from tests.cuda.shipped import SOURCE, kernels_on
from tests.cuda.trials import TRIALS, Trial

pytestmark = pytest.mark.skipif(compiler_missing() is not None, reason=str(compiler_missing()))

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_source(SOURCE, sanitise=True)


def test_every_kernel_has_trials() -> None:
    assert kernel_names(SOURCE) == list(TRIALS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kernel", "trial"),
    [
        pytest.param(kernel, trial, id=f"{kernel}-{trial.what}")
        for kernel in TRIALS
        for trial in TRIALS[kernel]
    ],
)
def test_kernel(compiled: Compiled, kernel: str, trial: Trial, seed: int) -> None:
    with kernels_on(compiled, seed) as kernels:
        trial.run(kernels)
