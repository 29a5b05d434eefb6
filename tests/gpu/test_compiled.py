"""The CUDA sources as NVIDIA's compiler makes them: registers, PTX under the race checker, faults noticed.

Long: NVRTC is a wheel of 90 MB, and a hundred faulty kernels are compiled.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cuda import emulation, nvrtc
from tests.cuda.catching import SEEDS, caught
from tests.cuda.emulation import Compiled, compile_source, kernel_names
from tests.cuda.large_trials import LARGE_TRIALS
from tests.cuda.mutants import MUTANTS, Mutant
from tests.cuda.nvrtc import compile_ptx, compiler_version, resources_of
from tests.cuda.ptx import translate
from tests.cuda.shipped import SOURCE, kernels_on
from tests.cuda.trials import TRIALS

_missing = emulation.compiler_missing() or nvrtc.compiler_missing()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(_missing is not None, reason=str(_missing)),
]

# Turing, A100, H100, B200: and the threads that a multiprocessor of each holds.
THREADS = {75: 1024, 80: 2048, 90: 2048, 100: 2048}
REGISTERS = 65536
# Of a kernel that is never launched with more blocks than this fills, and of one that keeps five sums.
FEW_THREADS = {"multiply_matrix": 1024, "displacement_terms": 1024}

every_kernel = pytest.mark.parametrize("kernel", TRIALS)


@functools.cache
def translations() -> dict[str, list[int]]:
    """The PTX in C++, and for which architectures it is this."""
    found: dict[str, list[int]] = {}
    for architecture in THREADS:
        found.setdefault(translate(compile_ptx(SOURCE, architecture)), []).append(architecture)
    return found


compiled = functools.cache(compile_source)


@pytest.mark.parametrize("architecture", THREADS)
def test_no_kernel_spills_or_keeps_a_multiprocessor_from_being_full(architecture: int) -> None:
    found = resources_of(SOURCE, architecture)
    assert set(found) == set(kernel_names(SOURCE))
    for name, resources in found.items():
        assert resources.spill_bytes == resources.stack_bytes == 0, (name, resources)
        threads = min(THREADS[architecture], FEW_THREADS.get(name, 2048))
        assert resources.registers <= REGISTERS // threads, (name, resources)


@every_kernel
def test_ptx_does_what_numpy_does_without_a_race(kernel: str) -> None:
    for text, seed in itertools.product(translations(), SEEDS):
        for trial in [*TRIALS[kernel], *LARGE_TRIALS[kernel]]:
            with kernels_on(compiled(text), seed, trial.choose_blocks) as kernels:
                trial.run(kernels)


@every_kernel
def test_source_reaches_beyond_32_bits(kernel: str) -> None:
    source = compiled(SOURCE, sanitise=True)
    for seed, trial in itertools.product(SEEDS, LARGE_TRIALS[kernel]):
        with kernels_on(source, seed, trial.choose_blocks) as kernels:
            trial.run(kernels)


# Faults


def _compile(mutant: Mutant) -> Compiled:
    if mutant.in_ptx:
        return compile_source(translate(compile_ptx(mutant.source(), 90)))
    return compile_source(mutant.source(), sanitise=True)


@pytest.fixture(scope="module")
def mutants() -> Iterator[dict[Mutant, Future[Compiled]]]:
    """Compiled ahead of the tests, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {mutant: pool.submit(_compile, mutant) for mutant in MUTANTS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "mutant", [pytest.param(mutant, id=f"{mutant.function}-{mutant.what}") for mutant in MUTANTS]
)
def test_fault_is_noticed(mutant: Mutant, mutants: dict[Mutant, Future[Compiled]]) -> None:
    for kernel, noticed in caught(mutant, mutants[mutant].result()).items():
        assert noticed is not None, f"{mutant.what}: no trial of {kernel} notices it"


def test_some_faults_are_seen_in_ptx_alone() -> None:
    """What the race checker and fused products are for: the source's emulation lets these pass."""
    (fused,) = (mutant for mutant in MUTANTS if mutant.what == "products fused")
    (unsynchronised,) = (mutant for mutant in MUTANTS if mutant.what == "unsynchronised accumulation")
    for mutant in (fused, unsynchronised):
        assert set(caught(mutant, compile_source(mutant.source(), sanitise=True)).values()) == {None}


def test_every_kernel_has_several_faults(capsys: pytest.CaptureFixture[str]) -> None:
    of_kernel = {kernel: sum(kernel in mutant.kernels for mutant in MUTANTS) for kernel in TRIALS}
    assert min(of_kernel.values()) >= 8
    trials = sum(map(len, (*TRIALS.values(), *LARGE_TRIALS.values())))
    texts = " and ".join("sm_" + ", ".join(map(str, own)) for own in translations().values())
    with capsys.disabled():
        print(
            f"\nCUDA kernels: {len(TRIALS)}; trials: {trials}, each in {len(SEEDS)} schedules; "
            f"faults: {len(MUTANTS)}, put into {sum(of_kernel.values())} kernels; "
            f"compiled by NVRTC {compiler_version()} for {len(THREADS)} architectures, "
            f"PTX of {texts} run with the race checker"
        )
