"""The race checker: silent where a barrier stands between, loud where none does. Long: it sees PTX alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda import emulation, nvrtc
from tests.cuda.emulation import Compiled, KernelError, compile_source
from tests.cuda.nvrtc import compile_ptx
from tests.cuda.ptx import translate

_missing = emulation.compiler_missing() or nvrtc.compiler_missing()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(_missing is not None, reason=str(_missing)),
]

# Launched with two blocks of 64 threads on 256 zeros.
ORDERED = {
    "each thread its own word": "a[blockIdx.x * 64 + threadIdx.x] += 1;",
    "all read one word": "a[1 + blockIdx.x * 64 + threadIdx.x] = a[0];",
    "a barrier between writing and reading": """
        a[blockIdx.x * 64 + threadIdx.x] = 1;
        __syncthreads();
        a[128 + blockIdx.x * 64 + threadIdx.x] = a[blockIdx.x * 64 + 63 - threadIdx.x];""",
    "a barrier between reading and writing": """
        int seen = a[blockIdx.x * 64 + 63 - threadIdx.x];
        __syncthreads();
        a[blockIdx.x * 64 + threadIdx.x] = seen + 1;""",
    "shared memory of each block its own": """
        __shared__ int held[64];
        held[threadIdx.x] = threadIdx.x;
        __syncthreads();
        a[blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];""",
    "the same words of shared memory once more": """
        __shared__ int held[64];
        for (int n = 0; n < 2; ++n) {
          held[threadIdx.x] = threadIdx.x + n;
          __syncthreads();
          a[128 * n + blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];
          __syncthreads();
        }""",
}
RACING = {
    "two blocks write a word": "if (threadIdx.x == 0) a[0] = 1;",
    "two threads write a word": "if (blockIdx.x == 0) a[threadIdx.x / 2] = 1;",
    "all add to a word": "if (blockIdx.x == 0) a[0] += threadIdx.x;",
    "one block reads what another writes": """
        if (threadIdx.x == 0 && blockIdx.x == 0) a[0] = 1;
        if (threadIdx.x == 0 && blockIdx.x == 1) a[1] = a[0];""",
    "one block writes what another has read": """
        if (threadIdx.x == 0 && blockIdx.x == 0) a[1] = a[0];
        if (threadIdx.x == 0 && blockIdx.x == 1) a[0] = 1;""",
    "a barrier orders one block alone": """
        int seen = a[0];
        __syncthreads();
        if (threadIdx.x == 0 && blockIdx.x == 1) a[0] = seen + 1;""",
    "no barrier between writing and reading": """
        __shared__ int held[64];
        held[threadIdx.x] = threadIdx.x;
        a[blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];""",
    "the last reader of many writes": """
        __shared__ int held[1];
        if (threadIdx.x == 0) held[0] = 1;
        __syncthreads();
        int seen = held[0];
        a[blockIdx.x * 64 + threadIdx.x] = seen;
        if (threadIdx.x == 63) held[0] = seen + 1;""",
    "a shuffle is no barrier": """
        __shared__ int held[64];
        held[threadIdx.x] = threadIdx.x;
        int step = __shfl_down_sync(0xffffffffu, 1, 1);
        a[blockIdx.x * 64 + threadIdx.x] = held[(threadIdx.x + step) % 64];""",
    "no barrier before the same words once more": """
        __shared__ int held[64];
        for (int n = 0; n < 2; ++n) {
          held[threadIdx.x] = threadIdx.x + n;
          __syncthreads();
          a[128 * n + blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];
        }""",
}


def _name(what: str) -> str:
    return what.replace(" ", "_")


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    kernels = (
        f'extern "C" __global__ void {_name(what)}(int* a) {{ {body} }}'
        for what, body in (ORDERED | RACING).items()
    )
    return compile_source(translate(compile_ptx("\n".join(kernels), 90)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ORDERED)
def test_silent_where_accesses_are_ordered(compiled: Compiled, what: str, seed: int) -> None:
    compiled.launch(_name(what), (2,), (64,), (np.zeros(256, dtype=np.int32),), seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", RACING)
def test_loud_where_they_are_not(compiled: Compiled, what: str, seed: int) -> None:
    with pytest.raises(KernelError, match="race"):
        compiled.launch(_name(what), (2,), (64,), (np.zeros(256, dtype=np.int32),), seed=seed)


def test_unknown_instructions_are_not_guessed() -> None:
    source = 'extern "C" __global__ void add(int* a) { atomicAdd(a, 1); }'
    with pytest.raises(NotImplementedError, match=r"PTX, line \d+: (atom|red)"):
        translate(compile_ptx(source, 90))


def test_a_source_that_does_not_compile_says_why() -> None:
    with pytest.raises(RuntimeError, match="missing"):
        compile_ptx('extern "C" __global__ void broken(int* a) { a[0] = missing; }', 90)
