"""The emulation that the CUDA kernels are tested on does what CUDA does and refuses what CUDA leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda.emulation import Compiled, KernelError, compile_source, compiler_missing
from tests.cuda.memory import fenced

pytestmark = pytest.mark.skipif(compiler_missing() is not None, reason=str(compiler_missing()))

SOURCE = r"""
extern "C" __global__ void where(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

extern "C" __global__ void reverse(int* values) {
  __shared__ int held[64];
  held[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = held[63 - threadIdx.x];
}

extern "C" __global__ void shuffles(int* down, int* within, int* across) {
  const int lane = threadIdx.x;
  down[lane] = __shfl_down_sync(0xffffffffu, lane, 4);
  within[lane] = __shfl_down_sync(0xffffffffu, lane, 4, 8);
  across[lane] = __shfl_xor_sync(0xffffffffu, lane, 3);
}

extern "C" __global__ void order(int* next, int* out) { out[threadIdx.x] = (*next)++; }

extern "C" __global__ void divergent_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

extern "C" __global__ void barrier_missed() {
  if (threadIdx.x < 40) __syncthreads();
}

extern "C" __global__ void lane_missing(int* out) {
  if (threadIdx.x != 7) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);
}

extern "C" __global__ void lane_not_in_mask(int* out) {
  out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1, 1);
}

extern "C" __global__ void not_written_before(float* out) {
  __shared__ float held[4];
  out[threadIdx.x] = held[threadIdx.x];
}

extern "C" __global__ void beyond(const float* values, float* out, int by) { out[0] = values[by]; }

extern "C" __global__ void overflow(int* value) { value[0] *= 65536; }

extern "C" __global__ void divide(int* value, int by) { value[0] /= by; }

extern "C" __global__ void __launch_bounds__(64, 2)
kinds(const float2* a, double2* b, const long long* c, float d, unsigned e) {}
"""


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_source(SOURCE, sanitise=True)


def ints(count: int) -> Any:
    return np.zeros(count, dtype=np.int32)


def test_every_thread_knows_where_it_is(compiled: Compiled) -> None:
    out = ints(2 * 3 * 4 * 5 * 2 * 3)
    compiled.launch("where", (2, 3, 4), (5, 2, 3), (out,), seed=2)
    block, thread = np.divmod(np.arange(len(out)), 30)
    np.testing.assert_array_equal(out, 1000 * block + thread)


def test_some_blocks_alone(compiled: Compiled) -> None:
    out = ints(12)
    compiled.launch("where", (4,), (3,), (out,), blocks=[1, 3])
    np.testing.assert_array_equal(out, [0] * 3 + [1000, 1001, 1002] + [0] * 3 + [3000, 3001, 3002])


@pytest.mark.parametrize("seed", range(4))
def test_a_barrier_lets_all_see_what_all_have_written(compiled: Compiled, seed: int) -> None:
    values = np.arange(64, dtype=np.int32)
    compiled.launch("reverse", (1,), (64,), (values,), seed=seed)
    np.testing.assert_array_equal(values, np.arange(64)[::-1])


def test_lanes_hear_from_others_within_their_segment(compiled: Compiled) -> None:
    down, within, across = ints(32), ints(32), ints(32)
    compiled.launch("shuffles", (1,), (32,), (down, within, across), seed=3)
    lane = np.arange(32)
    np.testing.assert_array_equal(down, np.where(lane < 28, lane + 4, lane))
    np.testing.assert_array_equal(within, np.where(lane % 8 < 4, lane + 4, lane))
    np.testing.assert_array_equal(across, lane ^ 3)


def test_seeds_are_schedules(compiled: Compiled) -> None:
    orders = []
    for seed in range(4):
        out = ints(96)
        compiled.launch("order", (1,), (96,), (ints(1), out), seed=seed)
        assert sorted(out) == list(range(96))
        orders.append(tuple(out))
    assert orders[0] == tuple(range(96))
    assert orders[1] == orders[0][::-1]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("divergent_barriers", (), "different barriers"),
        ("barrier_missed", (), "deadlock"),
        ("lane_missing", (ints(64),), "deadlock"),
        ("lane_not_in_mask", (ints(64),), "leaves"),
        (
            "beyond",
            (np.ones(4, np.float32), np.ones(1, np.float32), np.int32(4)),
            "outside of every argument",
        ),
        ("beyond", (np.ones(4, np.float32), np.ones(1, np.float32), np.int32(-5000)), "outside of every"),
        ("overflow", (np.full(1, 65536, np.int32),), "undefined behaviour"),
        ("divide", (ints(1), np.int32(0)), "undefined behaviour"),
    ],
)
def test_what_cuda_leaves_undefined_is_refused(
    compiled: Compiled, name: str, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(KernelError, match=said) as raised:
        compiled.launch(name, (1,), (64,), arguments)
    assert name in str(raised.value)
    # The next launch finds all in order.
    test_a_barrier_lets_all_see_what_all_have_written(compiled, 2)


def test_an_access_that_fails_says_where(compiled: Compiled) -> None:
    line = 1 + SOURCE[: SOURCE.index("values[by]")].count("\n")
    with pytest.raises(KernelError, match=rf"kernel\.cu:{line}\b"):
        compiled.launch("beyond", (1,), (1,), (np.ones(4, np.float32), np.ones(1, np.float32), np.int32(99)))


def test_memory_that_nobody_wrote_is_nan(compiled: Compiled) -> None:
    out = np.zeros(4, dtype=np.float32)
    compiled.launch("not_written_before", (1,), (4,), (out,))
    assert np.isnan(out).all()
    # Just before an array of 12 bytes lies what is left of its page.
    compiled.launch("beyond", (1,), (1,), (np.ones(3, np.float32), out[:1], np.int32(-1)))
    assert np.isnan(out[0])


def test_arguments_are_held_to_what_cupy_asks_for(compiled: Compiled) -> None:
    assert compiled.parameters("kinds") == ["const c8*", "c16*", "const i8*", "f4", "u4"]
    good = (
        np.zeros(2, np.complex64),
        np.zeros(2, np.complex128),
        np.zeros(2, np.int64),
        np.float32(1),
        np.uint32(1),
    )
    compiled.launch("kinds", (1,), (64,), good)
    for number, wrong, said in (
        (0, np.zeros(2, np.complex128), "complex128"),
        (0, np.zeros((4, 2), np.complex64)[:, 0], "not contiguous"),
        (1, None, "pointer"),
        (2, np.zeros(2, np.int32), "int32"),
        (3, 1.0, "float; expected"),
        (4, np.int32(1), "int32"),
    ):
        arguments = [*good[:number], wrong, *good[number + 1 :]]
        with pytest.raises(KernelError, match=said):
            compiled.launch("kinds", (1,), (64,), arguments)
    with pytest.raises(KernelError, match="4 arguments for 5"):
        compiled.launch("kinds", (1,), (64,), good[:4])
    with pytest.raises(KernelError, match="at least one"):
        compiled.launch("kinds", (0,), (64,), good)
    with pytest.raises(KernelError, match="1 to 1024"):
        compiled.launch("kinds", (1,), (1025,), good)
    with pytest.raises(KernelError, match="no kernel 'none'"):
        compiled.launch("none", (1,), (1,), ())


def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(KernelError, match=r"kernel\.cu:1.*missing"):
        compile_source('extern "C" __global__ void broken(int* out) { out[0] = missing; }')


def test_an_array_may_be_larger_than_the_machine() -> None:
    array = fenced((2**20, 2**17), np.complex64)
    array[-1, -3:] = 1j
    assert array[-1, -4:].tolist() == [0, 1j, 1j, 1j]
