// The kernels that gpu_kernels.py launches, and functions that they share. Shapes are those of cpu_kernels.py.
//
// float2 is a complex number of 64 bits. Blocks have 256 threads; eight blocks fill a multiprocessor, and the
// compiler limits registers so that they fit. An index into a stack of frames has 64 bits, since a stack may have
// more than 2^31 elements; a frame may not. Loops over modes, which are few, are not unrolled: that would only
// take registers.

typedef long long int64;

__device__ __forceinline__ float2 times(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

__device__ __forceinline__ float2 conj_times(float2 a, float2 b) {
  return make_float2(a.x * b.x + a.y * b.y, a.x * b.y - a.y * b.x);
}

__device__ __forceinline__ float square(float2 a) { return a.x * a.x + a.y * a.y; }

__device__ __forceinline__ void add(float2& sum, float2 value) {
  sum.x += value.x;
  sum.y += value.y;
}

// Blocks (f, 0), (f, 1), ... share the pixels of frame f: the first pixel of this thread, and the step to its next.
__device__ __forceinline__ int first_pixel() { return blockIdx.y * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int next_pixel() { return gridDim.y * blockDim.x; }

// Row and column of a pixel that advances by a fixed number of pixels. Steps are faster than divisions.
struct Place {
  int y, x;
  int width, down, across;
  __device__ __forceinline__ Place(int first, int next, int width)
      : y(first / width), x(first % width), width(width), down(next / width), across(next % width) {}
  __device__ __forceinline__ void move_on() {
    y += down;
    x += across;
    if (x >= width) {
      x -= width;
      ++y;
    }
  }
};

// Sum over a warp, always in the same order; only the first lane gets the result.
__device__ __forceinline__ double warp_sum(double value) {
  for (int step = 16; step; step >>= 1) value += __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

// Sum over a block of 256 threads, always in the same order; only the first thread gets the result.
__device__ double block_sum(double value) {
  __shared__ double part[8];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < 8; ++warp) total += part[warp];
  // The block's next sum overwrites part.
  __syncthreads();
  return total;
}

// out[f, m] = probe[f or 0, m] * image[window of frame f]
extern "C" __global__ void __launch_bounds__(256, 8)
exit_waves(const float2* image, const float2* probe, const int64* corner, float2* out,
           int own, int modes, int height, int width, int stride) {
  const int64 f = blockIdx.x;
  const int pixels = height * width;
  const float2* o = image + corner[2 * f] * stride + corner[2 * f + 1];
  const float2* p = probe + (own ? f * modes * pixels : 0);
  float2* z = out + f * modes * pixels;
  Place at(first_pixel(), next_pixel(), width);
  for (int t = first_pixel(); t < pixels; t += next_pixel()) {
    const float2 under = o[(int64)at.y * stride + at.x];
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) z[(int64)m * pixels + t] = times(under, p[(int64)m * pixels + t]);
    at.move_on();
  }
}

// spectrum[f, m, y, x] *= factor[y, x] * along_y[f, y] * along_x[f, x]
extern "C" __global__ void __launch_bounds__(256, 8)
filter_spectra(float2* spectrum, const float2* factor, const float2* along_y, const float2* along_x,
               int modes, int height, int width) {
  const int64 f = blockIdx.x;
  const int pixels = height * width;
  const float2* down = along_y + f * height;
  const float2* across = along_x + f * width;
  float2* z = spectrum + f * modes * pixels;
  Place at(first_pixel(), next_pixel(), width);
  for (int t = first_pixel(); t < pixels; t += next_pixel()) {
    const float2 whole = times(factor[t], times(down[at.y], across[at.x]));
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) {
      float2& own = z[(int64)m * pixels + t];
      own = times(whole, own);
    }
    at.move_on();
  }
}

// The FFT before and the inverse FFT after this kernel leave out their factors; scale is the product of both,
// 1 / pixels. Each block stores its part of the misfit.
extern "C" __global__ void __launch_bounds__(256, 8)
project_modulus(float2* wave, const float* amplitude, double* misfit, int modes, int pixels, float scale,
                int of_pixels, const float* shifts, float shift) {
  const int64 f = blockIdx.x;
  float2* z = wave + f * modes * pixels;
  const float* a = amplitude + f * pixels;
  double total = 0.0;
  for (int t = first_pixel(); t < pixels; t += next_pixel()) {
    const float measured = a[t];
    float factor = scale;
    if (measured >= 0.0f) {
      float power = 0.0f;
      #pragma unroll 1
      for (int m = 0; m < modes; ++m) power += square(z[(int64)m * pixels + t]);
      // Where the wave is zero it has no phase: the least shift keeps the result finite.
      const float modulus = sqrtf(power * scale + (of_pixels ? shifts[t] : shift));
      const double difference = modulus - measured;
      factor *= measured / modulus;
      total += difference * difference;
    }
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) {
      float2& own = z[(int64)m * pixels + t];
      own = make_float2(factor * own.x, factor * own.y);
    }
  }
  total = block_sum(total);
  if (threadIdx.x == 0) misfit[f * gridDim.y + blockIdx.y] = total;
}

// out[f] = sum over modes of conj(probe) * wave. Each block stores its part of |wave|^2.
extern "C" __global__ void __launch_bounds__(256, 8)
weigh_frames(const float2* wave, const float2* probe, float2* out, double* power, int own, int modes, int pixels) {
  const int64 f = blockIdx.x;
  const float2* z = wave + f * modes * pixels;
  const float2* p = probe + (own ? f * modes * pixels : 0);
  double total = 0.0;
  for (int t = first_pixel(); t < pixels; t += next_pixel()) {
    float2 sum = make_float2(0.0f, 0.0f);
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) {
      const float2 at = z[(int64)m * pixels + t];
      add(sum, conj_times(p[(int64)m * pixels + t], at));
      total += square(at);
    }
    out[f * pixels + t] = sum;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) power[f * gridDim.y + blockIdx.y] = total;
}

// A frame that touches a patch of 8 x 32 pixels of the image, and its corner there.
struct Touching {
  int frame, y, x;
};

// The frames that touch each patch, in order: list[start[patch]] to list[start[patch + 1] - 1].
struct Cover {
  const int64* start;
  const Touching* list;
  int height, width, rows, columns;
};

// Adds to each pixel of the image what add_frame gives for the frames that cover it, with one thread for each pixel
// and one block for each patch. Without atomics, so that sums have the same bits in every run.
template <class Value, class AddFrame>
__device__ __forceinline__ void gather(Cover cover, Value* image, AddFrame add_frame) {
  const int patch = blockIdx.x, across = (cover.columns + 31) / 32;
  const int row = patch / across * 8 + threadIdx.x / 32, column = patch % across * 32 + threadIdx.x % 32;
  if (row >= cover.rows || column >= cover.columns) return;
  Value& pixel = image[(int64)row * cover.columns + column];
  Value sum = pixel;
  const Touching* last = cover.list + cover.start[patch + 1];
  for (const Touching* own = cover.list + cover.start[patch]; own < last; ++own) {
    const int y = row - own->y, x = column - own->x;
    if (y >= 0 && y < cover.height && x >= 0 && x < cover.width) add_frame(sum, own->frame, y * cover.width + x);
  }
  pixel = sum;
}

// image[window of frame f] += phase[f] * weighted[f]
extern "C" __global__ void __launch_bounds__(256, 8)
accumulate_overlap(const float2* weighted, const float2* phase, const int64* start, const Touching* list,
                   float2* image, int height, int width, int rows, int columns) {
  const int pixels = height * width;
  gather({start, list, height, width, rows, columns}, image, [=](float2& sum, int f, int t) {
    add(sum, times(phase[f], weighted[(int64)f * pixels + t]));
  });
}

// image[window of frame f] += sum over modes of conj(probe[f or 0]) * wave[f]
extern "C" __global__ void __launch_bounds__(256, 8)
accumulate_waves(const float2* wave, const float2* probe, const int64* start, const Touching* list, float2* image,
                 int own, int modes, int height, int width, int rows, int columns) {
  const int pixels = height * width, all = modes * pixels;
  gather({start, list, height, width, rows, columns}, image, [=](float2& sum, int f, int t) {
    const float2* z = wave + (int64)f * all + t;
    const float2* p = probe + (own ? (int64)f * all : 0) + t;
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) add(sum, conj_times(p[(int64)m * pixels], z[(int64)m * pixels]));
  });
}

// image[window of frame f] += power[f or 0]
extern "C" __global__ void __launch_bounds__(256, 8)
accumulate_illumination(const float* power, const int64* start, const Touching* list, float* image,
                        int own, int height, int width, int rows, int columns) {
  const int pixels = height * width;
  gather({start, list, height, width, rows, columns}, image,
         [=](float& sum, int f, int t) { sum += power[(own ? (int64)f * pixels : 0) + t]; });
}

// One thread for each pixel and mode of the probe sums over a group of consecutive frames. Each group stores its
// part of both sums. Where each frame has its own numerator, the kernel adds to that directly.
extern "C" __global__ void __launch_bounds__(256, 8)
accumulate_probe(const float2* image, const float2* wave, const int64* corner, float2* numerator, float* denominator,
                 int frames, int group, int own, int modes, int height, int width, int stride) {
  const int pixels = height * width, t = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.z;
  if (t >= pixels) return;
  const int y = t / width, x = t % width;
  const int64 first = (int64)blockIdx.y * group, last = min(first + group, (int64)frames);
  float2 sum = make_float2(0.0f, 0.0f);
  float power = 0.0f;
  for (int64 f = first; f < last; ++f) {
    const float2 under = image[(corner[2 * f] + y) * stride + corner[2 * f + 1] + x];
    const int64 at = (f * modes + m) * pixels + t;
    const float2 value = conj_times(under, wave[at]);
    power += square(under);
    if (own)
      add(numerator[at], value);
    else
      add(sum, value);
  }
  if (!own) numerator[((int64)blockIdx.y * modes + m) * pixels + t] = sum;
  if (m == 0) denominator[(int64)blockIdx.y * pixels + t] = power;
}

// out[k] = sum of conj(first[i]) * second[j] * weight over the pixels that frames i and j of pair k share. One block
// for each pair; its threads share the pixels.
extern "C" __global__ void __launch_bounds__(256, 8)
gramian(const float2* first, const float2* second, const int64* pair, const int64* offset, const int64* corner,
        const float* weight, double2* out, int height, int width, int stride) {
  const int64 k = blockIdx.x, i = pair[2 * k], j = pair[2 * k + 1];
  const int dy = offset[2 * k], dx = offset[2 * k + 1];
  const int y0 = max(0, dy), x0 = max(0, dx);
  const int rows = max(0, min(height, height + dy) - y0), columns = max(0, min(width, width + dx) - x0);
  // The first shared pixel, in both frames and in the image.
  const float2* a = first + i * height * width + y0 * width + x0;
  const float2* b = second + j * height * width + (y0 - dy) * width + x0 - dx;
  const float* w = weight + (corner[2 * i] + y0) * stride + corner[2 * i + 1] + x0;
  double real = 0.0, imaginary = 0.0;
  Place place(threadIdx.x, blockDim.x, max(1, columns));
  for (int t = threadIdx.x; t < rows * columns; t += blockDim.x) {
    const float2 u = a[place.y * width + place.x], v = b[place.y * width + place.x];
    const float at = w[(int64)place.y * stride + place.x];
    place.move_on();
    real += (u.x * v.x + u.y * v.y) * at;
    // Both products are rounded the same way, so that the imaginary part of a frame with itself is exactly zero.
    imaginary += (__fmul_rn(u.x, v.y) - __fmul_rn(u.y, v.x)) * at;
  }
  real = block_sum(real);
  imaginary = block_sum(imaginary);
  if (threadIdx.x == 0) out[k] = make_double2(real, imaginary);
}

// First and second derivatives of the misfit by the displacement of each frame, from differences of neighbours in the
// image, which has at least one pixel more around each frame. Each block stores its part of the five sums. They take
// registers, and so there are half as many blocks.
extern "C" __global__ void __launch_bounds__(256, 4)
displacement_terms(const float2* image, const float2* change, const float2* probe, const int64* corner, double* sums,
                   int own, int modes, int height, int width, int stride) {
  const int64 f = blockIdx.x;
  const int pixels = height * width;
  const float2* o = image + corner[2 * f] * stride + corner[2 * f + 1];
  const float2* z = change + f * modes * pixels;
  const float2* p = probe + (own ? f * modes * pixels : 0);
  double along_y = 0.0, along_x = 0.0, yy = 0.0, yx = 0.0, xx = 0.0;
  Place at(first_pixel(), next_pixel(), width);
  for (int t = first_pixel(); t < pixels; t += next_pixel()) {
    float2 weighted = make_float2(0.0f, 0.0f);
    float power = 0.0f;
    #pragma unroll 1
    for (int m = 0; m < modes; ++m) {
      const float2 lit = p[(int64)m * pixels + t];
      add(weighted, conj_times(lit, z[(int64)m * pixels + t]));
      power += square(lit);
    }
    const float2* here = o + (int64)at.y * stride + at.x;
    const float2 above = here[-stride], below = here[stride], left = here[-1], right = here[1];
    const float2 y = make_float2(below.x - above.x, below.y - above.y);
    const float2 x = make_float2(right.x - left.x, right.y - left.y);
    along_y += y.x * weighted.x + y.y * weighted.y;
    along_x += x.x * weighted.x + x.y * weighted.y;
    yy += power * square(y);
    yx += power * (y.x * x.x + y.y * x.y);
    xx += power * square(x);
    at.move_on();
  }
  along_y = block_sum(along_y);
  along_x = block_sum(along_x);
  yy = block_sum(yy);
  yx = block_sum(yx);
  xx = block_sum(xx);
  if (threadIdx.x == 0) {
    double* part = sums + 5 * (f * gridDim.y + blockIdx.y);
    part[0] = along_y / 2;
    part[1] = along_x / 2;
    part[2] = yy / 4;
    part[3] = yx / 4;
    part[4] = xx / 4;
  }
}

// out[f, n] = sum of power[f or 0] * fields[n, window of frame f]. One block for each frame and field.
extern "C" __global__ void __launch_bounds__(256, 8)
field_sums(const float* power, const float* fields, const int64* corner, double* out,
           int own, int height, int width, int rows, int stride) {
  const int64 f = blockIdx.x;
  const int pixels = height * width;
  const float* g = fields + ((int64)blockIdx.y * rows + corner[2 * f]) * stride + corner[2 * f + 1];
  const float* p = power + (own ? f * pixels : 0);
  double total = 0.0;
  Place at(threadIdx.x, blockDim.x, width);
  for (int t = threadIdx.x; t < pixels; t += blockDim.x) {
    total += p[t] * g[(int64)at.y * stride + at.x];
    at.move_on();
  }
  total = block_sum(total);
  if (threadIdx.x == 0) out[f * gridDim.y + blockIdx.y] = total;
}

// A sparse matrix has the entries start[r] to start[r + 1] - 1 in row r, and index tells their columns. One warp for
// each row; out[r] = sum of |data| over row r.
extern "C" __global__ void __launch_bounds__(256, 8)
sum_moduli(const int* start, const double2* data, double* out, int rows) {
  const int64 r = (int64)blockIdx.x * 8 + threadIdx.x / 32;
  double sum = 0.0;
  if (r < rows)
    for (int e = start[r] + threadIdx.x % 32; e < start[r + 1]; e += 32)
      sum += sqrt(data[e].x * data[e].x + data[e].y * data[e].y);
  sum = warp_sum(sum);
  if (r < rows && threadIdx.x % 32 == 0) out[r] = sum;
}

// out = data, with rows and columns multiplied by factor
extern "C" __global__ void __launch_bounds__(256, 8)
scale_matrix(const int* start, const int* index, const double2* data, const double* factor, double2* out, int rows) {
  const int64 r = (int64)blockIdx.x * 8 + threadIdx.x / 32;
  if (r >= rows) return;
  for (int e = start[r] + threadIdx.x % 32; e < start[r + 1]; e += 32) {
    const double by = factor[r] * factor[index[e]];
    out[e] = make_double2(data[e].x * by, data[e].y * by);
  }
}

// Sum of the parts that the blocks of another launch left, for every thread of the block.
__device__ double sum_of_parts(const double* part, int parts) {
  __shared__ double total;
  double value = 0.0;
  for (int k = threadIdx.x; k < parts; k += blockDim.x) value += part[k];
  value = block_sum(value);
  if (threadIdx.x == 0) total = value;
  __syncthreads();
  // The next sum overwrites total behind the barriers of block_sum.
  return total;
}

__device__ __forceinline__ double one_over_root(double square) { return square > 0.0 ? 1.0 / sqrt(square) : 0.0; }

// With v = vector / |vector| and b = before / |before|: out = matrix v, less |vector| b where that is asked for. Each
// block takes some consecutive rows, and leaves its parts of <v, out> and |out|^2. The squares of the norms come as
// such parts too, so that nothing waits for a sum on the host. There are never more blocks than four for each
// multiprocessor, and so there may be more registers.
extern "C" __global__ void __launch_bounds__(256, 4)
multiply_matrix(const int* start, const int* index, const double2* data, const double2* vector, const double* squares,
                const double2* before, const double* squares_before, double2* out, double* dots, double* squares_out,
                int with_before, int rows, int each) {
  const int parts = gridDim.x, lane = threadIdx.x % 32;
  const double square = sum_of_parts(squares, parts), scale = one_over_root(square);
  double back = 0.0;
  if (with_before) back = sqrt(square) * one_over_root(sum_of_parts(squares_before, parts));
  const int first = blockIdx.x * each, last = min(first + each, rows);
  double dot = 0.0, power = 0.0;
  for (int r = first + threadIdx.x / 32; r < last; r += 8) {
    double x = 0.0, y = 0.0;
    for (int e = start[r] + lane; e < start[r + 1]; e += 32) {
      const double2 h = data[e], v = vector[index[e]];
      x += h.x * v.x - h.y * v.y;
      y += h.x * v.y + h.y * v.x;
    }
    x = warp_sum(x);
    y = warp_sum(y);
    if (lane == 0) {
      x = x * scale - back * before[r].x;
      y = y * scale - back * before[r].y;
      out[r] = make_double2(x, y);
      dot += (vector[r].x * x + vector[r].y * y) * scale;
      power += x * x + y * y;
    }
  }
  dot = block_sum(dot);
  power = block_sum(power);
  if (threadIdx.x == 0) {
    dots[blockIdx.x] = dot;
    squares_out[blockIdx.x] = power;
  }
}

// out -= <v, out> v with v = vector / |vector|; <v, out> and |vector|^2 come in parts, |out|^2 leaves in parts.
extern "C" __global__ void __launch_bounds__(256, 8)
subtract_component(double2* out, const double2* vector, const double* squares, const double* dots,
                   double* squares_out, int rows, int each) {
  const int parts = gridDim.x;
  const double scale = one_over_root(sum_of_parts(squares, parts));
  const double by = sum_of_parts(dots, parts) * scale;
  const int first = blockIdx.x * each, last = min(first + each, rows);
  double power = 0.0;
  for (int r = first + threadIdx.x; r < last; r += blockDim.x) {
    const double x = out[r].x - by * vector[r].x, y = out[r].y - by * vector[r].y;
    out[r] = make_double2(x, y);
    power += x * x + y * y;
  }
  power = block_sum(power);
  if (threadIdx.x == 0) squares_out[blockIdx.x] = power;
}
