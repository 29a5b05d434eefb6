// What translated PTX calls: registers, shared memory, shuffles, and a checker that sees every access to memory
// and counts what a launch reads, writes and reckons.
//
// Two accesses to a word race where one of them writes, different threads make them, and no barrier of their block
// stands between; threads of different blocks have no barrier. A shuffle orders no memory.
#pragma once
#include "execution.h"

#include <cmath>
#include <type_traits>
#include <unordered_map>

// A register or constant read as another kind of number: its bits where both are of one size.
template <class To, class From>
static inline To as(From from) {
  if constexpr (sizeof(To) == sizeof(From) && !std::is_same<To, bool>::value) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
  } else {
    return (To)from;
  }
}

// A wider register is filled with the sign of a signed number, with zeros otherwise.
template <class Register, class Value>
static inline void set(Register& to, Value value) {
  to = as<Register>(value);
}

static inline char* in_shared(uint32_t place) { return emulation::shared_start() + place; }
static inline uint32_t place_in_shared(char* array) { return array - emulation::shared_start(); }

static inline uint32_t shuffle(char how, uint32_t value, uint32_t step, uint32_t limits, uint32_t mask, bool& inside,
                               int line) {
  const int lane = emulation::current % emulation::WARP, segment = limits >> 8 & 31, clamp = limits & 31;
  const int most = (lane & segment) | (clamp & ~segment);
  int source = 0;
  switch (how) {
    case 'u':
      source = lane - (int)step;
      break;
    case 'd':
      source = lane + (int)step;
      break;
    case 'b':
      source = lane ^ (int)step;
      break;
    default:
      source = (lane & segment) | ((int)step & ~segment);
  }
  inside = how == 'u' ? source >= most : source <= most;
  return emulation::exchange(mask, value, inside ? source : lane, line);
}

namespace races {

struct Access {
  int64_t block = -1;
  int thread = -1, barriers = 0, line = 0;
};

struct Word {
  Access written, read;
  bool read_by_threads = false;  // by several of them since the last barrier
  bool read_by_blocks = false;   // by several of them at any time
  unsigned reads = 0, writes = 0;
};

static std::unordered_map<uintptr_t, Word> words;
static int barriers[emulation::MOST_THREADS];
static long launch = -1;
static int64_t block = -1;
static uint64_t operations_f32, operations_f64;

static void passed_barrier() { ++barriers[emulation::current]; }

static void forget_earlier_launches() {
  if (launch == emulation::launches) return;
  words.clear();
  launch = emulation::launches;
  block = -1;
  operations_f32 = operations_f64 = 0;
}

static Access now(int line) {
  const int64_t own = blockIdx.x + (int64_t)gridDim.x * (blockIdx.y + (int64_t)gridDim.y * blockIdx.z);
  forget_earlier_launches();
  if (block != own) {
    block = own;
    memset(barriers, 0, sizeof barriers);
    // Shared memory is new in every block.
    for (char* at = emulation::shared_start(); at < emulation::shared_end(); at += 4) words.erase((uintptr_t)at);
  }
  Access access;
  access.block = own;
  access.thread = emulation::current;
  access.barriers = barriers[emulation::current];
  access.line = line;
  return access;
}

static bool unordered(const Access& before, const Access& own) {
  if (before.thread < 0) return false;
  return before.block != own.block || (before.thread != own.thread && before.barriers == own.barriers);
}

[[noreturn]] static void report(const char* what, const Access& own, const Access& before) {
  emulation::describe("race: PTX line %d %s a word that line %d used in thread %d of block %lld; no barrier between",
                      own.line, what, before.line, before.thread, (long long)before.block);
  emulation::fail();
}

static void read(const char* address, int bytes, int line) {
  const Access own = now(line);
  for (uintptr_t at = (uintptr_t)address & ~(uintptr_t)3; at < (uintptr_t)address + bytes; at += 4) {
    Word& word = words[at];
    if (unordered(word.written, own)) report("reads", own, word.written);
    const bool others = unordered(word.read, own), same_block = word.read.block == own.block;
    word.read_by_blocks |= others && !same_block;
    word.read_by_threads = same_block && (others || (word.read_by_threads && word.read.barriers == own.barriers));
    word.read = own;
    ++word.reads;
  }
}

static void write(const char* address, int bytes, int line) {
  const Access own = now(line);
  for (uintptr_t at = (uintptr_t)address & ~(uintptr_t)3; at < (uintptr_t)address + bytes; at += 4) {
    Word& word = words[at];
    if (unordered(word.written, own)) report("writes", own, word.written);
    const bool by_threads = word.read_by_threads && word.read.barriers == own.barriers;
    if (unordered(word.read, own) || by_threads || word.read_by_blocks) report("writes", own, word.read);
    word.written = own;
    ++word.writes;
  }
}

}  // namespace races

static inline void count_f32(int operations) {
  races::forget_earlier_launches();
  races::operations_f32 += operations;
}

static inline void count_f64(int operations) {
  races::forget_earlier_launches();
  races::operations_f64 += operations;
}

// Of the last launch: floating-point operations, single and double.
extern "C" void counted_operations(uint64_t* out) {
  out[0] = races::operations_f32;
  out[1] = races::operations_f64;
}

// Of the last launch, bytes of some memory: read and written with each word once, and each time it was.
extern "C" void counted_bytes(uintptr_t start, uintptr_t end, uint64_t* out) {
  out[0] = out[1] = out[2] = out[3] = 0;
  for (const auto& entry : races::words) {
    if (entry.first < start || entry.first >= end) continue;
    const races::Word& word = entry.second;
    out[0] += 4 * (word.reads > 0);
    out[1] += 4 * (word.writes > 0);
    out[2] += 4 * (uint64_t)word.reads;
    out[3] += 4 * (uint64_t)word.writes;
  }
}
