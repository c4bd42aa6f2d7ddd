// Threads that do the phases of a list together. Compiled for builds with shared memory only.
//
// No thread is waited for: whoever runs takes the next part of the current phase, and whoever finishes the phase's last part opens the next one.
// A thread that the system has put aside thus holds up at most the one part that it is in the middle of.
#include "linear.h"
#include "run.h"

// In shared memory; src/threads.ts writes `stops` and reads `failed`, by words.
typedef struct {
  uint64_t claim;     // pass (24 bits), phase (16), parts of the phase (12), parts taken (12), from the highest bits down
  Address list;
  uint32_t words;
  int32_t turns;      // rises whenever there is a new phase: what sleeping threads wait for
  int32_t sleepers;
  int32_t finished;   // parts of the phase
  int32_t spins;      // turns of a waiting loop before a thread sleeps
  int32_t stops;      // 1: threads are to return
  uint32_t failed;    // 1 + the position of an entry that failed, else 0
} Team;

static int32_t get(const int32_t *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
static uint64_t get_claim(const Team *team) { return __atomic_load_n(&team->claim, __ATOMIC_SEQ_CST); }

static uint32_t pass_of(uint64_t claim) { return (uint32_t)(claim >> 40); }
static uint32_t phase_of(uint64_t claim) { return (uint32_t)(claim >> 24) & 0xffff; }
static int32_t parts_of(uint64_t claim) { return (int32_t)(claim >> 12) & 0xfff; }
static int32_t taken_of(uint64_t claim) { return (int32_t)claim & 0xfff; }

// Opens a phase of the list; past its end there are no parts.
static void open(Team *team, uint32_t pass, uint32_t phase, uint32_t at) {
  uint64_t parts = at < team->words ? parts_at(AT(const uint32_t *, team->list), at) : 0;
  __atomic_store_n(&team->finished, 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&team->claim, (uint64_t)pass << 40 | (uint64_t)phase << 24 | parts << 12, __ATOMIC_SEQ_CST);
  __atomic_add_fetch(&team->turns, 1, __ATOMIC_SEQ_CST);
  if (get(&team->sleepers) > 0 && parts > 0) __builtin_wasm_memory_atomic_notify(&team->turns, (uint32_t)parts);
}

// The host has put a list in place; the pass before is over.
EXPORT(begin_pass) void begin_pass(Address address, Address list, uint32_t words) {
  Team *team = AT(Team *, address);
  team->list = list;
  team->words = words;
  team->failed = 0;
  open(team, (pass_of(get_claim(team)) + 1) & 0xffffff, 0, 0);
}

// Until there is a part to take. Most waits are shorter than falling asleep takes, but threads that spin keep others from their processor.
static void wait_for_parts(Team *team) {
  int32_t turns = get(&team->turns);
  for (int32_t i = 0; i < team->spins; i++) {
    uint64_t claim = get_claim(team);
    if (taken_of(claim) < parts_of(claim) || get(&team->stops)) return;
  }
  uint64_t claim = get_claim(team);
  if (taken_of(claim) < parts_of(claim)) return;
  __atomic_add_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
  // A phase that was opened since `turns` was read ends the wait at once.
  if (!get(&team->stops)) __builtin_wasm_memory_atomic_wait32(&team->turns, turns, -1);
  __atomic_sub_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
}

// The work of one thread. Returns 1 when it has finished a pass, for its host to tell, and 0 when threads are to stop.
EXPORT(work) int32_t work(Address address, int32_t thread) {
  Team *team = AT(Team *, address);
  // Where the phases that this thread has seen begin.
  uint32_t pass = 0, phase = 0, at = 0;
  while (!get(&team->stops)) {
    uint64_t claim = get_claim(team);
    if (taken_of(claim) >= parts_of(claim)) {
      wait_for_parts(team);
      continue;
    }
    if (!__atomic_compare_exchange_n(&team->claim, &claim, claim + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    // From here to the end of this part the pass cannot end, and its list stays.
    if (pass_of(claim) != pass) pass = pass_of(claim), phase = 0, at = 0;
    const uint32_t *list = AT(const uint32_t *, team->list);
    for (; phase < phase_of(claim); phase++) at = phase_after(list, at);
    uint32_t failed = run_phase(list, at, (Part){taken_of(claim), parts_of(claim), thread});
    if (failed) __atomic_store_n(&team->failed, failed, __ATOMIC_SEQ_CST);
    if (__atomic_add_fetch(&team->finished, 1, __ATOMIC_SEQ_CST) < parts_of(claim)) continue;
    uint32_t next = phase_after(list, at);
    int32_t ends = next >= team->words;
    open(team, pass, phase + 1, next);
    if (ends) return 1;
  }
  return 0;
}
