// As much of CUDA C as the kernels use, for g++: keywords, vector types, shuffles, arithmetic that the
// standard library lacks. Beneath the kernels' source `emulation.py` adds one `EMULATED(name)` for each kernel.
#pragma once
#include "execution.h"

#include <cmath>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

struct alignas(8) float2 { float x, y; };
struct alignas(16) double2 { double x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

constexpr int warpSize = emulation::WARP;

#define __syncthreads() emulation::barrier(__LINE__)

namespace emulation {

template <class T>
T from_lane(unsigned mask, T value, int source, int line) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source, line);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulation

// A lane whose source lies beyond its segment of `width` lanes gets its own value.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = warpSize, int line = __builtin_LINE()) {
  const int lane = emulation::current % warpSize;
  const bool inside = lane % width + step < (unsigned)width;
  return emulation::from_lane(mask, value, inside ? lane + step : lane, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step, int width = warpSize, int line = __builtin_LINE()) {
  const int lane = emulation::current % warpSize;
  const bool inside = (lane % width ^ step) < width;
  return emulation::from_lane(mask, value, inside ? lane ^ step : lane, line);
}

static inline int max(int a, int b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
// Products that the compiler must not merge into a fused multiply-add.
static inline float __fmul_rn(float a, float b) { return a * b; }

namespace emulation {

// Kinds of parameters in NumPy's codes; an array's with an asterisk, and a word where it is not written to.
template <class T>
const char* kind() {
  if (std::is_same<T, float>::value) return "f4";
  if (std::is_same<T, double>::value) return "f8";
  if (std::is_same<T, float2>::value) return "c8";
  if (std::is_same<T, double2>::value) return "c16";
  if (std::is_same<T, bool>::value) return "b1";
  static const char* const INTEGER[2][4] = {{"u1", "u2", "u4", "u8"}, {"i1", "i2", "i4", "i8"}};
  const int width = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
  // A kernel's own structures are made of 32-bit integers.
  return std::is_integral<T>::value ? INTEGER[std::is_signed<T>::value][width] : "i4";
}
template <>
inline const char* kind<void>() { return "any"; }

template <class T>
void append_kind(char* to, size_t size) {
  typedef typename std::remove_pointer<T>::type Element;
  if (std::is_pointer<T>::value && std::is_const<Element>::value) strncat(to, "const ", size - strlen(to) - 1);
  strncat(to, kind<typename std::remove_cv<Element>::type>(), size - strlen(to) - 1);
  strncat(to, std::is_pointer<T>::value ? "*," : ",", size - strlen(to) - 1);
}

template <class... Parameters>
struct Kernel {
  void (*function)(Parameters...);
  void** values;

  template <size_t... n>
  void call(std::index_sequence<n...>) { function(*(typename std::remove_cv<Parameters>::type*)values[n]...); }
  static void enter(void* own) { ((Kernel*)own)->call(std::index_sequence_for<Parameters...>()); }
};

template <class... Parameters>
void parameters_of(void (*)(Parameters...), char* to, size_t size) {
  to[0] = 0;
  (append_kind<Parameters>(to, size), ...);
}

template <class... Parameters>
bool launch(void (*function)(Parameters...), void** values, const unsigned* grid, const unsigned* block,
            const int64_t* order, int64_t blocks, unsigned seed) {
  Kernel<Parameters...> kernel{function, values};
  return run(&Kernel<Parameters...>::enter, &kernel, grid, block, order, blocks, seed);
}

}  // namespace emulation

extern "C" const char* emulated_message() { return emulation::message; }
extern "C" uint64_t emulated_fault() { return emulation::fault; }

#define EMULATED(name)                                                                                            \
  extern "C" void parameters_of_##name(char* to, size_t size) { emulation::parameters_of(&::name, to, size); }      \
  extern "C" bool launch_##name(void** values, const unsigned* grid, const unsigned* block, const int64_t* order, \
                                int64_t blocks, unsigned seed) {                                                  \
    return emulation::launch(&::name, values, grid, block, order, blocks, seed);                                    \
  }
