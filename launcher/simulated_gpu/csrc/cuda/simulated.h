/* What the files of the CUDA stand-in share. */
#ifndef SIMULATED_CUDA_H
#define SIMULATED_CUDA_H

#include "../ledger.h"
#include "../machine.h"
#include "api.h"

#define MIB (1ull << 20)
#define GRAIN (2 * MIB) /* what the driver hands out memory in */
#define PAGE 4096ull
#define ROUND_UP(n, grain) (((n) + (grain)-1) / (grain) * (grain))

/* cards.c: the devices that this process sees, by their ordinal. */
typedef struct {
    const part *part;
    int is_active; /* whether this process has a context there */
    size_t used, peak, context;
    unsigned long allocations;
} card;
int num_cards(void);
card *card_at(int ordinal);
int current_card(void);
status set_current_card(int ordinal);
int attribute_of(int key, int ordinal);
int occupancy(int threads);
int code_version(const card *of); /* the code in PyTorch's wheels that it runs; 0 where there is none */

/* errors.c: remembers what a call answered, as cudaGetLastError wants it. */
status answer(status error);

/* faults.c: what goes wrong from some moment on; 0 while nothing does. */
enum fault { NO_FAULT, FULL, LOST, COLLECTIVE, HANGING };
int fault_code(enum fault kind);
status loss(void); /* the answer to every call */
status failed_collective(void);

/* accounts.c: capacity. */
size_t capacity_of(const card *of);
void activate(int ordinal);
int take(int ordinal, size_t bytes);
void give_back(int ordinal, size_t bytes);

/* ranges.c: which address is whose. Calls are made between lock_ranges and unlock_ranges. */
enum kind { DEVICE, POOLED, PINNED, REGISTERED, MANAGED, RESERVED };
typedef struct {
    char *start;
    size_t size, counted;
    enum kind kind;
    int card;
} range;
void lock_ranges(void);
void unlock_ranges(void);
range *range_of(const void *address);
void add_range(range added);
void remove_range(range *removed);
void *pages(size_t size, int protection);
void *aligned_pages(size_t size, int protection);

/* memory.c: the one way to get and to lose memory. */
status allocate(void **out, size_t size, enum kind kind);
status release(void *address);

/* copies.c */
void copy(void *to, const void *from, size_t size);
void fill(void *to, int value, size_t size);

/* streams.c: an opaque object of CUDA's or of a library's. */
void *new_handle(void);
double now_ms(void);

/* tally.c: how often each kernel and each function of a library was called. */
typedef struct {
    const void *key;
    const char *name;
    unsigned long count;
    int special; /* see selection.c */
} tally;
void count_call(const void *key, const char *name);
void name_kernel(const void *key, const char *name, int special);
int special_of(const void *key);
int is_tracing(void);

/* selection.c: kernels whose result decides the size of a tensor. */
int special_kernel(const char *name);
void select_size(int special, void **arguments);

/* symbols.c */
void *symbol(const char *name);
long long number_from_environment(const char *name, long long fallback);

#endif
