/* A sorted table of all addresses that were given out, and the pages behind them. */
#define _GNU_SOURCE
#include "simulated.h"

#include <pthread.h>
#include <sys/mman.h>

static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;
static range *ranges;
static size_t num_ranges, room;

void lock_ranges(void) { pthread_mutex_lock(&ranges_lock); }
void unlock_ranges(void) { pthread_mutex_unlock(&ranges_lock); }

/* How many ranges start at or before the address. */
static size_t place_of(const char *address)
{
    size_t low = 0, high = num_ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

range *range_of(const void *address)
{
    size_t place = place_of(address);
    if (!place)
        return NULL;
    range *before = &ranges[place - 1];
    return (const char *)address < before->start + before->size ? before : NULL;
}

void add_range(range added)
{
    if (num_ranges == room)
        ranges = realloc(ranges, (room = room * 2 + 64) * sizeof *ranges);
    size_t place = place_of(added.start);
    memmove(ranges + place + 1, ranges + place, (num_ranges - place) * sizeof *ranges);
    ranges[place] = added;
    num_ranges++;
}

void remove_range(range *removed)
{
    size_t behind = (size_t)(ranges + num_ranges - removed - 1);
    memmove(removed, removed + 1, behind * sizeof *ranges);
    num_ranges--;
}

/* Nothing is taken of the host before a page is written to. */
void *pages(size_t size, int protection)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *made = mmap(NULL, size, protection, flags, -1, 0);
    return made == MAP_FAILED ? NULL : made;
}

/* At a multiple of the driver's grain, as device memory is. */
void *aligned_pages(size_t size, int protection)
{
    char *made = pages(size + GRAIN, protection);
    if (!made)
        return NULL;
    char *start = (char *)ROUND_UP((uintptr_t)made, GRAIN), *end = made + size + GRAIN;
    if (start > made)
        munmap(made, (size_t)(start - made));
    if (end > start + size)
        munmap(start + size, (size_t)(end - start) - size);
    return start;
}
