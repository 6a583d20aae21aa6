/* Copies and fills. What comes to a card is copied up to 1 MiB: positions, masks, labels, norms.
 *
 * Weights and activations are not looked at by anybody, and pages that are never written cost the
 * host nothing. SIMULATED_GPU_COPY_BYTES is another limit.
 */
#define _GNU_SOURCE
#include "simulated.h"

#include <sys/mman.h>

static size_t limit(void)
{
    static size_t read;
    if (!read)
        read = (size_t)number_from_environment("SIMULATED_GPU_COPY_BYTES", MIB);
    return read;
}

static int is_on_card(const void *address)
{
    lock_ranges();
    range *known = range_of(address);
    int is = known && (known->kind == DEVICE || known->kind == POOLED || known->kind == RESERVED);
    unlock_ranges();
    return is;
}

void copy(void *to, const void *from, size_t size)
{
    if (size && to != from && (size <= limit() || !is_on_card(to)))
        memmove(to, from, size);
}

/* Whole pages that become zero go back to the system. */
void fill(void *to, int value, size_t size)
{
    char *start = to, *end = start + size;
    if (size <= limit() || !is_on_card(to)) {
        memset(to, value, size);
        return;
    }
    if (value)
        return;
    char *first = (char *)ROUND_UP((uintptr_t)start, PAGE);
    char *last = (char *)((uintptr_t)end / PAGE * PAGE);
    memset(start, 0, (size_t)(first - start));
    memset(last, 0, (size_t)(end - last));
    madvise(first, (size_t)(last - first), MADV_DONTNEED);
}

API status cudaMemcpy(void *to, const void *from, size_t size, int direction)
{
    (void)direction;
    if (!loss())
        copy(to, from, size);
    return answer(loss());
}

API status cudaMemcpyAsync(void *to, const void *from, size_t size, int direction, stream on)
{
    (void)on;
    return cudaMemcpy(to, from, size, direction);
}

API status cudaMemcpyPeerAsync(void *to, int to_card, const void *from, int from_card, size_t size,
                               stream on)
{
    (void)to_card, (void)from_card;
    return cudaMemcpyAsync(to, from, size, 0, on);
}

API status cudaMemcpy2DAsync(char *to, size_t to_pitch, const char *from, size_t from_pitch,
                             size_t width, size_t height, int direction, stream on)
{
    (void)direction, (void)on;
    for (size_t row = 0; row < height; row++)
        copy(to + row * to_pitch, from + row * from_pitch, width);
    return OK;
}

API status cudaMemset(void *to, int value, size_t size)
{
    if (!loss())
        fill(to, value, size);
    return answer(loss());
}

API status cudaMemsetAsync(void *to, int value, size_t size, stream on)
{
    (void)on;
    return cudaMemset(to, value, size);
}

API status cuMemcpyHtoD_v2(void *to, const void *from, size_t size)
{
    return cudaMemcpy(to, from, size, 0);
}

API status cuMemcpyDtoH_v2(void *to, const void *from, size_t size)
{
    return cudaMemcpy(to, from, size, 0);
}

API status cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, stream on)
{
    return cudaMemcpyAsync(to, from, size, 0, on);
}

API status cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, stream on)
{
    return cudaMemcpyAsync(to, from, size, 0, on);
}

API status cuMemsetD8_v2(void *to, unsigned char value, size_t size)
{
    return cudaMemset(to, value, size);
}

API status cuMemsetD8Async(void *to, unsigned char value, size_t size, stream on)
{
    return cudaMemsetAsync(to, value, size, on);
}
