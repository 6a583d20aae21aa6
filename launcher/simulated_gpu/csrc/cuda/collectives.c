/* NCCL's collectives. Up to 1 MiB they are real: programs gather objects, counts and checksums.
 *
 * What is larger nobody looks at: it reads zero on every rank, since ranks that find different
 * leftovers take different ways.
 */
#include "nccl.h"

enum { SUM, PRODUCT, MAXIMUM, MINIMUM, AVERAGE };
enum { INT8, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 };

static size_t width(int type)
{
    static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return widths[type];
}

static double read_number(const char *from, int type, size_t n)
{
    uint32_t bits;
    float value;
    switch (type) {
    case INT8: return ((const int8_t *)from)[n];
    case UINT8: return ((const uint8_t *)from)[n];
    case INT32: return ((const int32_t *)from)[n];
    case UINT32: return ((const uint32_t *)from)[n];
    case FLOAT32: return ((const float *)from)[n];
    case FLOAT64: return ((const double *)from)[n];
    case BFLOAT16:
        bits = (uint32_t)((const uint16_t *)from)[n] << 16;
        memcpy(&value, &bits, sizeof value);
        return value;
    default: return 0; /* fp16 and fp8: not computed */
    }
}

static void write_number(char *to, int type, size_t n, double number)
{
    uint32_t bits;
    float value = (float)number;
    switch (type) {
    case INT8: ((int8_t *)to)[n] = (int8_t)number; break;
    case UINT8: ((uint8_t *)to)[n] = (uint8_t)number; break;
    case INT32: ((int32_t *)to)[n] = (int32_t)number; break;
    case UINT32: ((uint32_t *)to)[n] = (uint32_t)number; break;
    case FLOAT32: ((float *)to)[n] = value; break;
    case FLOAT64: ((double *)to)[n] = number; break;
    case BFLOAT16:
        memcpy(&bits, &value, sizeof bits);
        ((uint16_t *)to)[n] = (uint16_t)(bits >> 16);
        break;
    default: memset(to + n * width(type), 0, width(type));
    }
}

#define COMBINE(one, two, operation)                                                              \
    ((operation) == MAXIMUM   ? ((two) > (one) ? (two) : (one))                                   \
     : (operation) == MINIMUM ? ((two) < (one) ? (two) : (one))                                   \
     : (operation) == PRODUCT ? (one) * (two) : (one) + (two))

/* 64 bits are more than a double holds. */
static void reduce_wide(communicator *with, int64_t *to, size_t from, size_t count, int operation)
{
    for (size_t n = 0; n < count; n++) {
        int64_t all = ((int64_t *)slot_of_rank(with, 0))[from + n];
        for (int rank = 1; rank < with->ranks; rank++) {
            int64_t next = ((int64_t *)slot_of_rank(with, rank))[from + n];
            all = COMBINE(all, next, operation);
        }
        to[n] = operation == AVERAGE ? all / with->ranks : all;
    }
}

static void reduce(communicator *with, char *to, size_t from, size_t count, int type, int operation)
{
    if (type == INT64 || type == UINT64) {
        reduce_wide(with, (int64_t *)to, from, count, operation);
        return;
    }
    for (size_t n = 0; n < count; n++) {
        double all = read_number(slot_of_rank(with, 0), type, from + n);
        for (int rank = 1; rank < with->ranks; rank++) {
            double next = read_number(slot_of_rank(with, rank), type, from + n);
            all = COMBINE(all, next, operation);
        }
        write_number(to, type, n, operation == AVERAGE ? all / with->ranks : all);
    }
}

/* Lays this rank's part out for the others; 0 where nothing is exchanged. Ends with meet. */
static int exchange(communicator *with, const char *name, const void *in, void *out, size_t bytes,
                    size_t out_bytes)
{
    count_call(name, name);
    if (with->ranks == 1) {
        copy(out, in, bytes);
        return 0;
    }
    if (bytes > SLOT_BYTES) {
        fill(out, 0, out_bytes);
        return 0;
    }
    memcpy(slot_of_rank(with, with->rank), in, bytes);
    meet(with);
    return 1;
}

API status ncclAllGather(const void *in, char *out, size_t count, int type, communicator *with)
{
    size_t bytes = count * width(type);
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclAllGather", in, out, bytes, bytes * (size_t)with->ranks))
        return OK;
    for (int rank = 0; rank < with->ranks; rank++)
        memcpy(out + (size_t)rank * bytes, slot_of_rank(with, rank), bytes);
    meet(with);
    return OK;
}

API status ncclAllReduce(const void *in, void *out, size_t count, int type, int operation,
                         communicator *with)
{
    size_t bytes = count * width(type);
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclAllReduce", in, out, bytes, bytes))
        return OK;
    reduce(with, out, 0, count, type, operation);
    meet(with);
    return OK;
}

API status ncclReduce(const void *in, void *out, size_t count, int type, int operation, int root,
                      communicator *with)
{
    size_t bytes = count * width(type);
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclReduce", in, out, bytes, with->rank == root ? bytes : 0))
        return OK;
    if (with->rank == root)
        reduce(with, out, 0, count, type, operation);
    meet(with);
    return OK;
}

/* Every rank keeps its part of each: of ranks that share sequences, tokens for heads. */
API status ncclAlltoAll(const void *in, char *out, size_t count, int type, communicator *with)
{
    size_t bytes = count * width(type), whole = bytes * (size_t)with->ranks;
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclAlltoAll", in, out, whole, whole))
        return OK;
    for (int rank = 0; rank < with->ranks; rank++)
        memcpy(out + (size_t)rank * bytes,
               slot_of_rank(with, rank) + (size_t)with->rank * bytes, bytes);
    meet(with);
    return OK;
}

/* Every rank keeps its share of the sum. */
API status ncclReduceScatter(const void *in, void *out, size_t count, int type, int operation,
                             communicator *with)
{
    size_t bytes = count * width(type);
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclReduceScatter", in, out, bytes * (size_t)with->ranks, bytes))
        return OK;
    reduce(with, out, count * (size_t)with->rank, count, type, operation);
    meet(with);
    return OK;
}

API status ncclBroadcast(const void *in, void *out, size_t count, int type, int root,
                         communicator *with)
{
    size_t bytes = count * width(type);
    status error = failed_collective();
    if (error)
        return error;
    if (!exchange(with, "ncclBroadcast", in, out, bytes, with->rank == root ? 0 : bytes))
        return OK;
    memcpy(out, slot_of_rank(with, root), bytes);
    meet(with);
    return OK;
}

API status ncclBcast(void *buffer, size_t count, int type, int root, communicator *with)
{
    return ncclBroadcast(buffer, buffer, count, type, root, with);
}

/* A sum of scaled parts: DeepSpeed's averages. Scaling nobody looks at. */
API status ncclRedOpCreatePreMulSum(int *operation)
{
    *operation = SUM;
    return OK;
}
