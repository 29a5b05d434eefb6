// The CUDA execution model on one CPU thread: blocks one after the other, each CUDA thread a fiber that runs
// until it waits for others. A kernel that gets here has been compiled by g++; `emulation.py` does that.
//
// A thread waits at a barrier of its block or at an exchange of its warp, and nowhere else. Which thread goes on
// first is drawn from the launch's seed, so that several seeds are several schedules. What would hang a GPU or is
// left undefined there (lanes missing from a mask, threads at different barriers, a thread that left) is an error.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <ucontext.h>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace emulation {

enum State { READY, AT_BARRIER, AT_EXCHANGE, EXITED };
enum Return { BORN, PAUSED, FAILED };

constexpr int WARP = 32, MOST_THREADS = 1024, STACK = 64 << 10;

struct Thread {
  jmp_buf place;     // where it goes on
  ucontext_t birth;  // where it begins, on a stack of its own
  char* stack;
  bool alive;        // has a place to go on from
  State state;
  int line;          // of the barrier or exchange that it waits at
  unsigned mask;     // lanes that take part in the exchange
  int source;        // lane that it wants to hear from
  uint64_t offered, received;
};

static Thread threads[MOST_THREADS];
static int count, current;
static jmp_buf scheduler;
static void (*body)(void*);
static void* arguments;
static bool running;
static char message[1024];
static uintptr_t fault;  // program counter of a fault, in the file of this library
static long launches;

static const char* name_of(State state) {
  return state == AT_BARRIER ? "a barrier" : state == AT_EXCHANGE ? "a warp exchange" : state == EXITED ? "its end" : "work";
}

static void describe(const char* format, ...) {
  va_list values;
  va_start(values, format);
  const int n = vsnprintf(message, sizeof message, format, values);
  va_end(values);
  snprintf(message + n, sizeof message - n, " [block (%u, %u, %u)]", blockIdx.x, blockIdx.y, blockIdx.z);
}

// Ends the launch from within a thread.
[[noreturn]] static void fail() { _longjmp(scheduler, FAILED); }

static void pause() {
  if (!_setjmp(threads[current].place)) _longjmp(scheduler, PAUSED);
}

static void barrier(int line) {
  threads[current].state = AT_BARRIER;
  threads[current].line = line;
  pause();
}

// Every lane of the mask offers a value and gets the one that lane `source` offered.
static uint64_t exchange(unsigned mask, uint64_t offered, int source, int line) {
  Thread& own = threads[current];
  const int lane = current % WARP;
  if (!(mask >> lane & 1)) {
    describe("lane %d calls an exchange at line %d whose mask %08x leaves it out", lane, line, mask);
    fail();
  }
  if (!(mask >> source & 1)) {
    describe("lane %d reads lane %d at line %d, which mask %08x leaves out", lane, source, line, mask);
    fail();
  }
  own.state = AT_EXCHANGE;
  own.line = line;
  own.mask = mask;
  own.source = source;
  own.offered = offered;
  pause();
  return own.received;
}

// A fiber outlives its thread and takes the next block's: making one anew is the slow part.
static void live() {
  for (;;) {
    body(arguments);
    threads[current].state = EXITED;
    pause();
  }
}

__attribute__((noinline)) static int go_on(int thread) {
  current = thread;
  Thread& own = threads[thread];
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
  const int how = _setjmp(scheduler);
  if (how) return how;
  if (own.alive) _longjmp(own.place, 1);
  own.alive = true;
  if (!own.stack) own.stack = (char*)malloc(STACK);
  getcontext(&own.birth);
  own.birth.uc_stack.ss_sp = own.stack;
  own.birth.uc_stack.ss_size = STACK;
  own.birth.uc_link = nullptr;
  makecontext(&own.birth, live, 0);
  setcontext(&own.birth);
  return FAILED;
}

// Whether all lanes that a thread waits for have come; then each has its value and goes on.
static bool exchanged(int thread) {
  const int warp = thread / WARP * WARP;
  const Thread& own = threads[thread];
  for (int lane = 0; lane < WARP; ++lane)
    if (own.mask >> lane & 1) {
      const Thread& other = threads[warp + lane];
      if (warp + lane >= count || other.state != AT_EXCHANGE || other.mask != own.mask || other.line != own.line)
        return false;
    }
  const unsigned mask = own.mask;
  for (int lane = 0; lane < WARP; ++lane)
    if (mask >> lane & 1) {
      Thread& other = threads[warp + lane];
      other.received = threads[warp + other.source].offered;
      other.state = READY;
    }
  return true;
}

// Lets go on whoever has waited long enough; false where nobody ever will.
static bool release() {
  int waiting = 0, exited = 0, ready = 0, last = -1;
  for (int t = 0; t < count; ++t) {
    exited += threads[t].state == EXITED;
    ready += threads[t].state == READY;
    if (threads[t].state != AT_BARRIER) continue;
    ++waiting;
    if (last >= 0 && threads[t].line != threads[last].line) {
      describe("threads %d and %d wait at different barriers, lines %d and %d", last, t, threads[last].line, threads[t].line);
      return false;
    }
    last = t;
  }
  if (waiting == count) {
    for (int t = 0; t < count; ++t) threads[t].state = READY;
    return true;
  }
  bool moved = ready || exited == count;
  for (int t = 0; t < count; ++t)
    if (threads[t].state == AT_EXCHANGE) moved |= exchanged(t);
  if (moved) return true;
  for (int t = 1; t < count; ++t)
    if (threads[t].state != threads[0].state || threads[t].line != threads[0].line) {
      describe("deadlock: thread 0 is at %s, line %d, thread %d at %s, line %d", name_of(threads[0].state),
               threads[0].line, t, name_of(threads[t].state), threads[t].line);
      return false;
    }
  describe("deadlock: all threads are at %s, line %d", name_of(threads[0].state), threads[0].line);
  return false;
}

static unsigned draw(unsigned& random) {
  random ^= random << 13;
  random ^= random >> 17;
  return random ^= random << 5;
}

static bool has_ready(int warp) {
  for (int t = warp * WARP; t < count && t < (warp + 1) * WARP; ++t)
    if (threads[t].state == READY) return true;
  return false;
}

// The warp that goes on. Seed 0: the first that can, so that one runs ahead of the others as far as it gets;
// 1: the last; else any.
static int choose_warp(unsigned seed, unsigned& random) {
  const int warps = (count + WARP - 1) / WARP;
  int warp = seed == 0 ? 0 : seed == 1 ? warps - 1 : draw(random) % warps;
  while (!has_ready(warp)) warp = seed == 1 ? warp - 1 : (warp + 1) % warps;
  return warp;
}

static bool run_block(unsigned seed, unsigned& random) {
  for (int t = 0; t < count; ++t) threads[t].state = READY;
  for (int exited = 0; exited < count;) {
    const int first = choose_warp(seed, random) * WARP, lanes = count - first < WARP ? count - first : WARP;
    // A warp's lanes need not go in step: forwards, backwards, or from any of them on.
    const int start = seed > 1 ? draw(random) % lanes : 0;
    for (int n = 0; n < lanes; ++n) {
      const int t = first + (seed == 1 ? lanes - 1 - n : (start + n) % lanes);
      if (threads[t].state == READY && go_on(t) == FAILED) return false;
    }
    if (!release()) return false;
    exited = 0;
    for (int t = 0; t < count; ++t) exited += threads[t].state == EXITED;
  }
  return true;
}

static void on_fault(int signal, siginfo_t*, void* context) {
  if (!running) {
    std::signal(signal, SIG_DFL);
    return;
  }
  uintptr_t at = 0;
#if defined(__x86_64__)
  at = ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  at = ((ucontext_t*)context)->uc_mcontext.pc;
#endif
  Dl_info library;
  fault = dladdr((void*)at, &library) ? at - (uintptr_t)library.dli_fbase : 0;
  const char* what = signal == SIGILL   ? "undefined behaviour"
                     : signal == SIGFPE ? "division by zero"
                                        : "access outside of every argument";
  describe("%s, thread %d", what, current);
  fail();
}

static const int FAULTS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

// Shared memory holds anything at the start of a block: here NaN. The linker names the ends of the section.
extern "C" {
extern char __start_shared_memory[] __attribute__((weak));
extern char __stop_shared_memory[] __attribute__((weak));
}

static char* shared_start() { return __start_shared_memory; }
static char* shared_end() { return __stop_shared_memory; }

static void poison_shared_memory() {
  if (shared_start()) memset(shared_start(), 0xff, shared_end() - shared_start());
}

// Runs the given blocks in the given order; true where all went well, else `message` says what did not.
static bool run(void (*kernel)(void*), void* values, const unsigned* grid, const unsigned* block, const int64_t* order,
                int64_t blocks, unsigned seed) {
  body = kernel;
  arguments = values;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  count = block[0] * block[1] * block[2];
  message[0] = 0;
  fault = 0;
  ++launches;
  struct sigaction before[4], own = {};
  own.sa_sigaction = on_fault;
  own.sa_flags = SA_SIGINFO | SA_NODEFER;
  for (int n = 0; n < 4; ++n) sigaction(FAULTS[n], &own, &before[n]);
  running = true;
  unsigned random = seed * 2654435761u + 1u;
  bool well = true;
  for (int64_t n = 0; well && n < blocks; ++n) {
    blockIdx = {unsigned(order[n] % grid[0]), unsigned(order[n] / grid[0] % grid[1]), unsigned(order[n] / grid[0] / grid[1])};
    poison_shared_memory();
    well = run_block(seed, random);
  }
  running = false;
  for (int n = 0; n < 4; ++n) sigaction(FAULTS[n], &before[n], nullptr);
  // Fibers of a launch that failed stand in the middle of it.
  if (!well)
    for (Thread& thread : threads) thread.alive = false;
  return well;
}

}  // namespace emulation
