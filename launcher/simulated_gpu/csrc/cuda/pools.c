/* Memory pools: allocations in the order of a stream, and the statistics that PyTorch reads. */
#include "simulated.h"

enum { RESERVED_NOW = 5, RESERVED_HIGH = 6, USED_NOW = 7, USED_HIGH = 8 };

typedef struct { uint64_t used, high; } pool;
static pool pools[MAX_PARTS]; /* the default pool of each card, the only one */

static void grow(int ordinal, long long bytes)
{
    pool *of = &pools[ordinal];
    of->used += (uint64_t)bytes;
    if (of->used > of->high)
        of->high = of->used;
}

API status cudaMallocAsync(void **out, size_t size, stream on)
{
    (void)on;
    status error = allocate(out, size, POOLED);
    if (!error)
        grow(current_card(), (long long)ROUND_UP(size, GRAIN));
    return error;
}

API status cudaMallocFromPoolAsync(void **out, size_t size, pool *from, stream on)
{
    (void)from;
    return cudaMallocAsync(out, size, on);
}

API status cudaFreeAsync(void *address, stream on)
{
    (void)on;
    lock_ranges();
    range *known = range_of(address);
    if (known && known->kind == POOLED)
        grow(known->card, -(long long)known->size);
    unlock_ranges();
    return release(address);
}

API status cudaDeviceGetDefaultMemPool(pool **out, int ordinal)
{
    *out = &pools[ordinal];
    return OK;
}

/* What is free goes back to the card at once, so a pool reserves what is used. */
API status cudaMemPoolGetAttribute(pool *of, int key, uint64_t *to)
{
    *to = key == RESERVED_NOW || key == USED_NOW     ? of->used
          : key == RESERVED_HIGH || key == USED_HIGH ? of->high : 0;
    return OK;
}
