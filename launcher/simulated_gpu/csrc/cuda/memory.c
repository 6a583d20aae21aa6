/* Device, pinned, registered and managed memory, and questions about addresses.
 *
 * Device memory is counted against the card in the driver's grain. Managed memory moves between
 * host and card as it is touched, so none of it is counted; memory pools are in pools.c.
 */
#include "simulated.h"

#include <sys/mman.h>

status allocate(void **out, size_t size, enum kind kind)
{
    int on_card = kind == DEVICE || kind == POOLED;
    size_t bytes = ROUND_UP(size, on_card ? GRAIN : PAGE);
    int protection = PROT_READ | PROT_WRITE;
    *out = NULL;
    if (loss() || !size)
        return answer(loss());
    if (on_card && !take(current_card(), bytes))
        return answer(OUT_OF_MEMORY);
    char *made = on_card ? aligned_pages(bytes, protection) : pages(bytes, protection);
    if (!made) {
        give_back(current_card(), on_card ? bytes : 0);
        return answer(OUT_OF_MEMORY);
    }
    lock_ranges();
    add_range((range){made, bytes, on_card ? bytes : 0, kind, current_card()});
    unlock_ranges();
    *out = made;
    return OK;
}

status release(void *address)
{
    lock_ranges();
    range *known = address ? range_of(address) : NULL;
    range found = known && known->start == address ? *known : (range){0};
    if (found.start)
        remove_range(known);
    unlock_ranges();
    if (!found.start)
        return address ? answer(INVALID_VALUE) : OK;
    if (found.kind != REGISTERED)
        munmap(found.start, found.size);
    give_back(found.card, found.counted);
    return OK;
}

API status cudaMalloc(void **out, size_t size) { return allocate(out, size, DEVICE); }
API status cudaMallocHost(void **out, size_t size) { return allocate(out, size, PINNED); }

API status cudaHostAlloc(void **out, size_t size, unsigned flags)
{
    (void)flags;
    return allocate(out, size, PINNED);
}

API status cudaMallocManaged(void **out, size_t size, unsigned flags)
{
    (void)flags;
    return allocate(out, size, MANAGED);
}

API status cudaFree(void *address)
{
    activate(current_card()); /* cudaFree(0) is how programs make a context */
    return release(address);
}

API status cudaFreeHost(void *address) { return release(address); }

API status cudaHostRegister(void *address, size_t size, unsigned flags)
{
    (void)flags;
    lock_ranges();
    add_range((range){address, size, 0, REGISTERED, current_card()});
    unlock_ranges();
    return OK;
}

API status cudaHostUnregister(void *address) { return release(address); }

API status cudaHostGetDevicePointer(void **out, void *address, unsigned flags)
{
    (void)flags;
    *out = address;
    return OK;
}

static range find(const void *address)
{
    lock_ranges();
    range *known = range_of(address);
    range found = known ? *known : (range){0};
    unlock_ranges();
    return found;
}

static int is_host(enum kind kind) { return kind == PINNED || kind == REGISTERED; }

API status cudaPointerGetAttributes(pointer_attributes *to, void *address)
{
    range found = find(address);
    *to = (pointer_attributes){.device = -2};
    if (!found.start)
        return OK;
    to->kind = found.kind == MANAGED ? MEMORY_MANAGED
               : is_host(found.kind) ? MEMORY_HOST : MEMORY_DEVICE;
    to->device = found.card;
    to->device_pointer = address;
    to->host_pointer = to->kind == MEMORY_DEVICE ? NULL : address;
    return OK;
}

/* The driver's forms. */
API status cuMemAlloc_v2(void **out, size_t size) { return allocate(out, size, DEVICE); }
API status cuMemFree_v2(void *address) { return release(address); }
API status cuMemFreeHost(void *address) { return release(address); }

API status cuMemHostAlloc(void **out, size_t size, unsigned flags)
{
    return cudaHostAlloc(out, size, flags);
}

API status cuMemAllocManaged(void **out, size_t size, unsigned flags)
{
    return cudaMallocManaged(out, size, flags);
}

API status cuMemGetAddressRange_v2(void **start, size_t *size, void *address)
{
    range found = find(address);
    if (!found.start)
        return NOT_FOUND;
    if (start)
        *start = found.start;
    if (size)
        *size = found.size;
    return OK;
}

API status cuPointerGetAttribute(void *to, int key, void *address)
{
    enum { CONTEXT = 1, KIND = 2, ON_DEVICE = 3, ON_HOST = 4, BUFFER = 7, MANAGED_TOO = 8, ORDINAL = 9 };
    range found = find(address);
    if (!found.start)
        return INVALID_VALUE;
    switch (key) {
    case CONTEXT: *(void **)to = NULL; break;
    case KIND: *(unsigned *)to = is_host(found.kind) ? MEMORY_HOST : MEMORY_DEVICE; break;
    case ON_DEVICE: case ON_HOST: *(void **)to = address; break;
    case BUFFER: *(uint64_t *)to = (uintptr_t)found.start; break;
    case MANAGED_TOO: *(unsigned *)to = found.kind == MANAGED; break;
    case ORDINAL: *(int *)to = found.card; break;
    default: return NOT_SUPPORTED;
    }
    return OK;
}
