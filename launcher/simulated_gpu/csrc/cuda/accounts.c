/* Capacity: what this process has taken of each card, and whether there is room for more. */
#include "simulated.h"

#include <pthread.h>

static pthread_mutex_t accounts = PTHREAD_MUTEX_INITIALIZER;

size_t capacity_of(const card *of)
{
    int mib = of->part->cuda_mib;
    return mib ? (size_t)mib << 20 : (of->part->total_mib - of->part->reserved_mib) << 20;
}

/* What the description's own processes leave to CUDA. */
static size_t room_of(const card *of)
{
    const part *part = of->part;
    unsigned long long held = part->total_mib - part->reserved_mib - part->free_mib;
    return capacity_of(of) - (held << 20);
}

static int add(card *to, size_t bytes)
{
    if (fault_code(FULL) || !ledger_take(part_number(to->part), bytes, room_of(to)))
        return 0;
    to->used += bytes;
    if (to->used > to->peak)
        to->peak = to->used;
    return 1;
}

static void make_context(card *on)
{
    if (!on->is_active && add(on, on->context))
        on->is_active = 1;
}

void activate(int ordinal)
{
    pthread_mutex_lock(&accounts);
    make_context(card_at(ordinal));
    pthread_mutex_unlock(&accounts);
}

int take(int ordinal, size_t bytes)
{
    card *from = card_at(ordinal);
    pthread_mutex_lock(&accounts);
    make_context(from);
    int fits = from->is_active && add(from, bytes);
    from->allocations += fits;
    pthread_mutex_unlock(&accounts);
    return fits;
}

void give_back(int ordinal, size_t bytes)
{
    card *to = card_at(ordinal);
    if (!bytes)
        return;
    pthread_mutex_lock(&accounts);
    to->used -= bytes;
    ledger_give(part_number(to->part), bytes);
    pthread_mutex_unlock(&accounts);
}

API status cudaMemGetInfo(size_t *free, size_t *total)
{
    card *of = card_at(current_card());
    activate(current_card());
    size_t used = ledger_used(part_number(of->part)), room = room_of(of);
    *total = capacity_of(of);
    *free = used < room && !fault_code(FULL) ? room - used : 0;
    return answer(loss());
}

API status cuMemGetInfo_v2(size_t *free, size_t *total) { return cudaMemGetInfo(free, total); }
