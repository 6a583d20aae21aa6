/* Kernels whose result decides the size of a tensor.
 *
 * nonzero and a selection by a mask ask cub how many there are, and allocate so many. The count is
 * known where values.py computes the mask; otherwise everything is taken, which is the worst case.
 * cub counts in one kernel, or in blocks that a second kernel sums.
 * read: cub/device/dispatch/dispatch_reduce.cuh of CCCL 3.0; aten/src/ATen/native/cuda/Nonzero.cu
 * at 2.13.
 */
#include "simulated.h"

enum { NONE, COUNT_IN_BLOCKS, COUNT_AT_ONCE, SUM_OF_BLOCKS };

static __thread long long count_of_blocks = -1, next_count = -1;

int special_kernel(const char *name)
{
    if (!strstr(name, "DeviceReduce"))
        return NONE;
    int at_once = strstr(name, "SingleTileKernel") != NULL;
    if (strstr(name, "NonZeroOp"))
        return at_once ? COUNT_AT_ONCE : COUNT_IN_BLOCKS;
    return at_once ? SUM_OF_BLOCKS : NONE;
}

/* What the next count is: called by values.py. */
API void simulated_next_count(long long count) { next_count = count; }

static long long counted(unsigned items)
{
    long long count = next_count >= 0 ? next_count : items;
    next_count = -1;
    return count;
}

/* Arguments of cub's kernels: where to read, where to write, how many, ... */
void select_size(int special, void **arguments)
{
    int *out = *(int **)arguments[1];
    unsigned items = *(unsigned *)arguments[2];
    if (special == COUNT_IN_BLOCKS)
        count_of_blocks = counted(items);
    else if (special == COUNT_AT_ONCE)
        *out = (int)counted(items);
    else if (special == SUM_OF_BLOCKS && count_of_blocks >= 0) {
        *out = (int)count_of_blocks;
        count_of_blocks = -1;
    }
}
