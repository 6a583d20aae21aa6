/* Virtual memory management, as expandable segments use it.
 *
 * Addresses cost nothing. A physical block is so many bytes of a card, held by its handle and by
 * every place where it is mapped, and given back when the last of them lets go.
 */
#define _GNU_SOURCE
#include "simulated.h"

#include <pthread.h>
#include <sys/mman.h>

typedef struct { size_t size; int card, holders; } block;
typedef struct { char *start; block *held; } mapping;

static pthread_mutex_t blocks = PTHREAD_MUTEX_INITIALIZER;
static mapping *mappings;
static size_t num_mappings, room;

static void let_go(block *held)
{
    if (--held->holders)
        return;
    give_back(held->card, held->size);
    free(held);
}

API status cuMemGetAllocationGranularity(size_t *grain, const physical_properties *of, int option)
{
    (void)of, (void)option;
    *grain = GRAIN;
    return OK;
}

API status cuMemAddressReserve(void **out, size_t size, size_t alignment, void *hint,
                               unsigned long long flags)
{
    (void)alignment, (void)hint, (void)flags;
    char *start = aligned_pages(ROUND_UP(size, GRAIN), PROT_NONE);
    if (!start)
        return OUT_OF_MEMORY;
    lock_ranges();
    add_range((range){start, ROUND_UP(size, GRAIN), 0, RESERVED, current_card()});
    unlock_ranges();
    *out = start;
    return OK;
}

API status cuMemAddressFree(void *start, size_t size)
{
    (void)size;
    return release(start);
}

API status cuMemCreate(block **out, size_t size, const physical_properties *of,
                       unsigned long long flags)
{
    (void)flags;
    int ordinal = of->location_type == LOCATION_DEVICE ? of->location : current_card();
    *out = NULL;
    if (loss() || !take(ordinal, size))
        return loss() ? loss() : OUT_OF_MEMORY;
    *out = malloc(sizeof **out);
    **out = (block){size, ordinal, 1};
    return OK;
}

API status cuMemRelease(block *held)
{
    pthread_mutex_lock(&blocks);
    let_go(held);
    pthread_mutex_unlock(&blocks);
    return OK;
}

static status change_pages(void *start, size_t size, int protection)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return mmap(start, size, protection, flags, -1, 0) == MAP_FAILED ? OUT_OF_MEMORY : OK;
}

API status cuMemMap(char *start, size_t size, size_t offset, block *held, unsigned long long flags)
{
    (void)offset, (void)flags;
    if (change_pages(start, size, PROT_READ | PROT_WRITE))
        return OUT_OF_MEMORY;
    pthread_mutex_lock(&blocks);
    if (num_mappings == room)
        mappings = realloc(mappings, (room = room * 2 + 64) * sizeof *mappings);
    mappings[num_mappings++] = (mapping){start, held};
    held->holders++;
    pthread_mutex_unlock(&blocks);
    return OK;
}

API status cuMemUnmap(char *start, size_t size)
{
    pthread_mutex_lock(&blocks);
    for (size_t n = num_mappings; n-- > 0;)
        if (mappings[n].start >= start && mappings[n].start < start + size) {
            let_go(mappings[n].held);
            mappings[n] = mappings[--num_mappings];
        }
    pthread_mutex_unlock(&blocks);
    return change_pages(start, size, PROT_NONE);
}
