// Recorded lists (run.c), for threads that share their phases (threads.c).
#ifndef LOWBIT_RUN_H
#define LOWBIT_RUN_H

#include "part.h"

// A list for threads is a row of phases, each with an entry OP_PHASE at its head: its number of parts, and where the next one begins.
int32_t parts_at(const uint32_t *list, uint32_t at);
uint32_t phase_after(const uint32_t *list, uint32_t at);
// One part of all entries of the phase at `at`. Returns 0, or 1 + the position of the first entry that failed; it goes on to the end all the same,
// as other parts do.
uint32_t run_phase(const uint32_t *list, uint32_t at, Part part);

#endif
