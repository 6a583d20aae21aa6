/* NCCL's communicators: the ranks of one map a file, in which they meet. */
#define _GNU_SOURCE
#include "nccl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NCCL_VERSION = 22907, SYSTEM_ERROR = 2, SPINS = 100, WAIT_MICROSECONDS = 100 };

char *slot_of_rank(communicator *with, int rank)
{
    return with->place->slots + (size_t)rank * SLOT_BYTES;
}

void meet(communicator *with)
{
    meeting *place = with->place;
    int round = place->round;
    if (++place->arrived == with->ranks) {
        place->arrived = 0;
        place->round++;
        return;
    }
    for (unsigned turns = 0; place->round == round && !place->aborted; turns++)
        if (turns > SPINS)
            usleep(WAIT_MICROSECONDS);
        else
            sched_yield();
}

static status join(communicator **out, int ranks, int rank, unique_id id)
{
    communicator *made = calloc(1, sizeof *made);
    *made = (communicator){ranks, rank, current_card(), 0, id, NULL};
    size_t size = sizeof *made->place + (size_t)ranks * SLOT_BYTES;
    int file = open(id.name, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, (off_t)size))
        return SYSTEM_ERROR;
    made->place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (made->place == MAP_FAILED)
        return SYSTEM_ERROR;
    meet(made);
    if (!rank)
        unlink(id.name);
    *out = made;
    return OK;
}

API status ncclGetVersion(int *version)
{
    *version = NCCL_VERSION;
    return OK;
}

API status ncclGetUniqueId(unique_id *out)
{
    static int made;
    memset(out, 0, sizeof *out);
    snprintf(out->name, 96, "/dev/shm/simulated-nccl-%d-%d-%lx", (int)getpid(), made++,
             (long)(now_ms() * 1e3));
    return OK;
}

API status ncclCommInitRank(communicator **out, int ranks, unique_id id, int rank)
{
    return join(out, ranks, rank, id);
}

API status ncclCommInitRankConfig(communicator **out, int ranks, unique_id id, int rank, void *how)
{
    (void)how;
    return join(out, ranks, rank, id);
}

API status ncclCommInitRankScalable(communicator **out, int ranks, int rank, int num_ids,
                                    unique_id *ids, void *how)
{
    (void)num_ids, (void)how;
    return join(out, ranks, rank, *ids);
}

/* Ranks of one color form a communicator, ordered by their key. */
API status ncclCommSplit(communicator *from, int color, int key, communicator **out, void *how)
{
    (void)how;
    int own[2] = {color, key}, ranks = 0, rank = 0;
    memcpy(slot_of_rank(from, from->rank), own, sizeof own);
    meet(from);
    for (int peer = 0; peer < from->ranks; peer++) {
        const int *theirs = (const int *)slot_of_rank(from, peer);
        if (theirs[0] != color)
            continue;
        ranks++;
        rank += theirs[1] < key || (theirs[1] == key && peer < from->rank);
    }
    meet(from);
    unique_id id = from->id;
    size_t end = strlen(id.name);
    snprintf(id.name + end, sizeof id.name - end, ".%d.%d", from->splits++, color);
    *out = NULL;
    return color < 0 ? OK : join(out, ranks, rank, id);
}

API status ncclCommCount(const communicator *of, int *count)
{
    *count = of->ranks;
    return OK;
}

API status ncclCommUserRank(const communicator *of, int *rank)
{
    *rank = of->rank;
    return OK;
}

API status ncclCommCuDevice(const communicator *of, int *ordinal)
{
    *ordinal = of->card;
    return OK;
}

API status ncclCommAbort(communicator *of)
{
    if (of && of->place)
        of->place->aborted = 1;
    return OK;
}

API status ncclCommGetAsyncError(communicator *of, int *error)
{
    (void)of;
    *error = OK;
    return OK;
}

/* read: nccl/src/init.cc at 2.29, ncclGetErrorString. */
API const char *ncclGetErrorString(int code)
{
    static const char *const texts[] = {
        "no error",
        "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
        "internal error - please report this issue to the NCCL developers",
        "invalid argument (run with NCCL_DEBUG=WARN for details)",
        "invalid usage (run with NCCL_DEBUG=WARN for details)",
        "remote process exited or there was a network error",
    };
    return code >= 0 && code < (int)(sizeof texts / sizeof *texts) ? texts[code] : "unknown result code";
}

/* What NCCL writes where a buffer of its own finds no memory on the card. */
API const char *ncclGetLastError(communicator *of)
{
    (void)of;
    return fault_code(COLLECTIVE) == 1 ? "Cuda failure 2 'out of memory'" : "";
}

API status ncclMemAlloc(void **out, size_t size) { return allocate(out, size, DEVICE) ? 1 : OK; }
API status ncclMemFree(void *address) { return release(address); }

API status ncclCommRegister(communicator *with, void *buffer, size_t size, void **handle)
{
    (void)with, (void)size;
    *handle = buffer;
    return OK;
}
