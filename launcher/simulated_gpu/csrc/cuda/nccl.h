/* What the two files of NCCL share. */
#ifndef SIMULATED_NCCL_H
#define SIMULATED_NCCL_H

#include "simulated.h"

#define SLOT_BYTES MIB /* what is larger is not exchanged */

typedef struct { char name[128]; } unique_id;

typedef struct {
    _Atomic int arrived, round, aborted;
    char room[PAGE - 3 * sizeof(int)];
    char slots[];
} meeting;

typedef struct {
    int ranks, rank, card, splits;
    unique_id id;
    meeting *place;
} communicator;

/* Returns when all ranks have come. */
void meet(communicator *with);
char *slot_of_rank(communicator *with, int rank);

#endif
