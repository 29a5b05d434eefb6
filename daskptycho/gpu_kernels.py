"""The kernels of `cpu_kernels` for CuPy arrays, in CUDA C. Called by ``backend`` alone.

Same functions, same arguments, same shapes. No kernel uses atomics: each output element is written by one
thread that gathers what belongs to it, so that a sum has the same bits each time. Indices into stacks
are 64 bits wide. The Gramian follows the flowchart of the poster: one block a pair of frames, threads
over the shared pixels, a block-wide sum.

None of this has run on a GPU yet: the sources have been run on an emulation of the CUDA execution model
against `cpu_kernels`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = [
    "accumulate_illumination",
    "accumulate_overlap",
    "accumulate_probe",
    "exit_waves",
    "gramian",
    "project_modulus",
    "weigh_frames",
]

Array = Any

THREADS = 256

SOURCE = r"""
typedef long long int64;

__device__ __forceinline__ float2 times(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
__device__ __forceinline__ float2 conj_times(float2 a, float2 b) {
  return make_float2(a.x * b.x + a.y * b.y, a.x * b.y - a.y * b.x);
}
__device__ __forceinline__ int64 thread_number() {
  return (int64)blockIdx.x * blockDim.x + threadIdx.x;
}

// Sum over a block of 256 threads; the first thread has it.
__device__ double block_sum(double value) {
  __shared__ double part[8];
  for (int step = 16; step; step >>= 1) value += __shfl_down_sync(0xffffffffu, value, step);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < 8; ++warp) total += part[warp];
  // The next sum of this block may write part again.
  __syncthreads();
  return total;
}

// One thread an element of out (frame, mode, y, x).
extern "C" __global__ void __launch_bounds__(256)
exit_waves(const float2* image, const float2* probe, const int64* corner, float2* out,
           int frames, int own, int modes, int height, int width, int stride) {
  const int64 t = thread_number(), pixels = (int64)height * width;
  if (t >= pixels * modes * frames) return;
  const int x = t % width, y = t / width % height;
  const int64 f = t / (pixels * modes), p = own ? t : t % (pixels * modes);
  out[t] = times(image[(corner[2 * f] + y) * stride + corner[2 * f + 1] + x], probe[p]);
}

// One thread a detector pixel of a frame; one partial misfit a block.
extern "C" __global__ void __launch_bounds__(256)
project_modulus(float2* wave, const float* amplitude, double* misfit, int frames, int modes, int64 pixels) {
  const int64 t = thread_number();
  double own = 0.0;
  if (t < pixels * frames) {
    const float measured = amplitude[t];
    if (measured >= 0.0f) {
      const int64 first = t / pixels * pixels * modes + t % pixels;
      float power = 1e-30f;
      for (int m = 0; m < modes; ++m) {
        const float2 z = wave[first + m * pixels];
        power += z.x * z.x + z.y * z.y;
      }
      const float modulus = sqrtf(power), scale = measured / modulus;
      for (int m = 0; m < modes; ++m) {
        float2* z = wave + first + m * pixels;
        z->x *= scale;
        z->y *= scale;
      }
      own = (double)(modulus - measured) * (modulus - measured);
    }
  }
  own = block_sum(own);
  if (threadIdx.x == 0) misfit[blockIdx.x] = own;
}

// One block a frame.
extern "C" __global__ void __launch_bounds__(256)
weigh_frames(const float2* wave, const float2* probe, float2* out, double* power,
             int own, int modes, int64 pixels) {
  const int64 f = blockIdx.x;
  const float2* z = wave + f * modes * pixels;
  const float2* p = probe + (own ? f * modes * pixels : 0);
  double total = 0.0;
  for (int64 t = threadIdx.x; t < pixels; t += blockDim.x) {
    float2 u = make_float2(0.0f, 0.0f);
    for (int m = 0; m < modes; ++m) {
      const float2 a = z[m * pixels + t], b = conj_times(p[m * pixels + t], a);
      u.x += b.x;
      u.y += b.y;
      total += (double)a.x * a.x + (double)a.y * a.y;
    }
    out[f * pixels + t] = u;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) power[f] = total;
}

// One thread a pixel of the window, over the frames that cover it.
extern "C" __global__ void __launch_bounds__(256)
accumulate_overlap(const float2* weighted, const float2* phase, const int64* corner, float2* image,
                   int frames, int height, int width, int rows, int columns) {
  const int64 t = thread_number();
  if (t >= (int64)rows * columns) return;
  const int64 row = t / columns, column = t % columns;
  float2 total = image[t];
  for (int f = 0; f < frames; ++f) {
    const int64 y = row - corner[2 * f], x = column - corner[2 * f + 1];
    if (y < 0 || y >= height || x < 0 || x >= width) continue;
    const float2 u = times(phase[f], weighted[((int64)f * height + y) * width + x]);
    total.x += u.x;
    total.y += u.y;
  }
  image[t] = total;
}

extern "C" __global__ void __launch_bounds__(256)
accumulate_illumination(const float* power, const int64* corner, float* image,
                        int frames, int own, int height, int width, int rows, int columns) {
  const int64 t = thread_number();
  if (t >= (int64)rows * columns) return;
  const int64 row = t / columns, column = t % columns;
  float total = image[t];
  for (int f = 0; f < frames; ++f) {
    const int64 y = row - corner[2 * f], x = column - corner[2 * f + 1];
    if (y < 0 || y >= height || x < 0 || x >= width) continue;
    total += power[((int64)(own ? f : 0) * height + y) * width + x];
  }
  image[t] = total;
}

// One thread a pixel of the probe, over modes and frames.
extern "C" __global__ void __launch_bounds__(256)
accumulate_probe(const float2* image, const float2* wave, const int64* corner, float2* numerator,
                 float* denominator, int frames, int own, int modes, int height, int width, int stride) {
  const int64 t = thread_number(), pixels = (int64)height * width;
  if (t >= pixels) return;
  const int64 y = t / width, x = t % width;
  float power = denominator[t];
  for (int f = 0; f < frames; ++f) {
    const float2 o = image[(corner[2 * f] + y) * stride + corner[2 * f + 1] + x];
    power += o.x * o.x + o.y * o.y;
    for (int m = 0; m < modes; ++m) {
      const float2 n = conj_times(o, wave[((int64)f * modes + m) * pixels + t]);
      float2* sum = numerator + ((int64)(own ? f : 0) * modes + m) * pixels + t;
      sum->x += n.x;
      sum->y += n.y;
    }
  }
  denominator[t] = power;
}

// One block a pair.
extern "C" __global__ void __launch_bounds__(256)
gramian(const float2* first, const float2* second, const int64* pair, const int64* offset,
        const int64* corner, const float* weight, double2* out, int height, int width, int stride) {
  const int64 k = blockIdx.x, i = pair[2 * k], j = pair[2 * k + 1];
  const int dy = offset[2 * k], dx = offset[2 * k + 1];
  const int y0 = max(0, dy), x0 = max(0, dx);
  const int rows = max(0, min(height, height + dy) - y0), columns = max(0, min(width, width + dx) - x0);
  const float2* a = first + i * height * width;
  const float2* b = second + j * height * width;
  double real = 0.0, imaginary = 0.0;
  for (int t = threadIdx.x; t < rows * columns; t += blockDim.x) {
    const int y = y0 + t / columns, x = x0 + t % columns;
    const float2 v = conj_times(a[y * width + x], b[(y - dy) * width + x - dx]);
    const float w = weight[(corner[2 * i] + y) * stride + corner[2 * i + 1] + x];
    real += (double)v.x * w;
    imaginary += (double)v.y * w;
  }
  real = block_sum(real);
  imaginary = block_sum(imaginary);
  if (threadIdx.x == 0) out[k] = make_double2(real, imaginary);
}
"""


@functools.cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE)


def _launch(name: str, blocks: int, *arguments: Any) -> None:
    _module().get_function(name)((blocks,), (THREADS,), arguments)


def _blocks(elements: int) -> int:
    return -(-elements // THREADS)


def _on_device(positions: Array) -> Array:
    """Corners, pairs and offsets come from the host."""
    import cupy

    return cupy.ascontiguousarray(cupy.asarray(positions, dtype=np.int64))


def _int(*values: int) -> tuple[np.int32, ...]:
    # A plain Python int would be passed as 64 bits.
    return tuple(np.int32(value) for value in values)


def exit_waves(image: Array, probe: Array, corner: Array, out: Array) -> None:
    """See `cpu_kernels.exit_waves`."""
    frames, modes, height, width = out.shape
    sizes = _int(frames, probe.shape[0] > 1, modes, height, width, image.shape[1])
    _launch("exit_waves", _blocks(out.size), image, probe, _on_device(corner), out, *sizes)


def project_modulus(wave: Array, amplitude: Array) -> Array:
    """See `cpu_kernels.project_modulus`; the sum stays on the device, as an array without axes."""
    import cupy

    frames, modes, height, width = wave.shape
    misfit = cupy.empty(_blocks(amplitude.size), dtype=np.float64)
    _launch(
        "project_modulus",
        len(misfit),
        wave,
        amplitude,
        misfit,
        *_int(frames, modes),
        np.int64(height * width),
    )
    return misfit.sum()


def weigh_frames(wave: Array, probe: Array, out: Array, power: Array) -> None:
    """See `cpu_kernels.weigh_frames`."""
    frames, modes, height, width = wave.shape
    sizes = (*_int(probe.shape[0] > 1, modes), np.int64(height * width))
    _launch("weigh_frames", frames, wave, probe, out, power, *sizes)


def accumulate_overlap(weighted: Array, phase: Array, corner: Array, image: Array) -> None:
    """See `cpu_kernels.accumulate_overlap`."""
    sizes = _int(*weighted.shape, *image.shape)
    _launch("accumulate_overlap", _blocks(image.size), weighted, phase, _on_device(corner), image, *sizes)


def accumulate_illumination(probe: Array, corner: Array, image: Array) -> None:
    """See `cpu_kernels.accumulate_illumination`."""
    power = (probe.real**2 + probe.imag**2).sum(axis=1)
    sizes = _int(len(corner), power.shape[0] > 1, *power.shape[1:], *image.shape)
    _launch("accumulate_illumination", _blocks(image.size), power, _on_device(corner), image, *sizes)


def accumulate_probe(image: Array, wave: Array, corner: Array, numerator: Array, denominator: Array) -> None:
    """See `cpu_kernels.accumulate_probe`."""
    frames, modes, height, width = wave.shape
    sizes = _int(frames, numerator.shape[0] > 1, modes, height, width, image.shape[1])
    _launch(
        "accumulate_probe",
        _blocks(denominator.size),
        image,
        wave,
        _on_device(corner),
        numerator,
        denominator,
        *sizes,
    )


def gramian(
    first: Array, second: Array, pair: Array, offset: Array, corner: Array, weight: Array, out: Array
) -> None:
    """See `cpu_kernels.gramian`."""
    sizes = _int(*first.shape[1:], weight.shape[1])
    pairs = [_on_device(positions) for positions in (pair, offset, corner)]
    _launch("gramian", len(pair), first, second, *pairs, weight, out, *sizes)
