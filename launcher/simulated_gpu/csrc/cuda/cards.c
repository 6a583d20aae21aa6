/* The devices of this process: which parts of the machine it sees, and which one is current. */
#include "simulated.h"

static card cards[MAX_PARTS];
static int visible;
static __thread int current;

/* What a card of each compute capability can hold at once.
 * read: CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability". */
static const struct limits {
    int capability, shared_kib, shared_per_block_kib, threads, blocks;
} limits[] = {
    {60, 64, 48, 2048, 32},    {70, 96, 96, 2048, 32},    {75, 64, 64, 1024, 16},
    {80, 164, 163, 2048, 32},  {86, 100, 99, 1536, 16},   {89, 100, 99, 1536, 24},
    {90, 228, 227, 2048, 32},  {100, 228, 227, 2048, 32}, {103, 228, 227, 2048, 32},
    {120, 100, 99, 1536, 24},  {121, 100, 99, 1536, 24},
};

/* read: torch.cuda.get_arch_list() of torch 2.13.0+cu130. */
static const int codes[] = {75, 80, 86, 90, 100, 120};

static const part *whole(const part *of) { return of->parent ? of->parent : of; }

static int capability(const card *of) { return whole(of->part)->major * 10 + whole(of->part)->minor; }

static const struct limits *limits_of(const card *of)
{
    const struct limits *best = limits;
    for (size_t n = 0; n < sizeof limits / sizeof *limits; n++)
        if (limits[n].capability <= capability(of))
            best = &limits[n];
    return best;
}

int code_version(const card *of)
{
    int best = 0;
    for (size_t n = 0; n < sizeof codes / sizeof *codes; n++)
        if (codes[n] <= capability(of) && codes[n] / 10 == capability(of) / 10)
            best = codes[n];
    return best;
}

static void add_card(const part *seen)
{
    if (!seen)
        return;
    for (int slice = 0; seen->mig && slice < MAX_SLICES; slice++)
        if (seen->slices[slice]) { /* a process sees the first slice of a card that is cut */
            seen = seen->slices[slice];
            break;
        }
    cards[visible++] = (card){.part = seen, .context = (size_t)whole(seen)->context_mib << 20};
}

/* A number or the beginning of a UUID, as in CUDA_VISIBLE_DEVICES. */
static const part *part_named(const char *name, size_t length)
{
    char *end;
    long number = strtol(name, &end, 10);
    if (end == name + length && length)
        return number >= 0 && number < machine.num_gpus ? machine.gpus[number] : NULL;
    for (int n = 0; n < machine.num_parts && length; n++)
        if (!strncmp(machine.parts[n].uuid, name, length))
            return &machine.parts[n];
    return NULL;
}

/* Entries count up to the first that names no card. */
static void see_named(const char *list)
{
    while (*list) {
        size_t length = strcspn(list, ",");
        const part *named = part_named(list, length);
        if (!named)
            return;
        add_card(named);
        list += length + (list[length] == ',');
    }
}

__attribute__((constructor)) static void see_cards(void)
{
    const char *path = getenv("SIMULATED_GPU_MACHINE"), *list = getenv("CUDA_VISIBLE_DEVICES");
    if (!path || read_machine(path))
        return;
    if (list)
        see_named(list);
    else
        for (int n = 0; n < machine.num_gpus; n++)
            add_card(machine.gpus[n]);
}

/* Cards keep their places, and may have other sizes: called by programs that fork a process for each
 * of several machines. */
API void simulated_read_again(void) { read_machine(getenv("SIMULATED_GPU_MACHINE")); }

int num_cards(void) { return visible; }
card *card_at(int ordinal) { return &cards[ordinal]; }
int current_card(void) { return current; }

status set_current_card(int ordinal)
{
    if (ordinal < 0 || ordinal >= visible)
        return INVALID_DEVICE;
    current = ordinal;
    return OK;
}

int occupancy(int threads)
{
    const struct limits *most = limits_of(card_at(current));
    int blocks = threads > 0 ? most->threads / threads : 1;
    return blocks < 1 ? 1 : blocks > most->blocks ? most->blocks : blocks;
}

static int processor_attribute(int key, const card *of)
{
    const struct limits *most = limits_of(of);
    const part *gpu = whole(of->part);
    switch (key) {
    case SHARED_PER_BLOCK_OPTIN: return most->shared_per_block_kib << 10;
    case SHARED_PER_MULTIPROCESSOR: return most->shared_kib << 10;
    case THREADS_PER_MULTIPROCESSOR: return most->threads;
    case BLOCKS_PER_MULTIPROCESSOR: return most->blocks;
    case MULTIPROCESSORS: return of->part->multiprocessors;
    case L2_BYTES: return of->part->l2_kib << 10;
    case CAPABILITY_MAJOR: return gpu->major;
    case CAPABILITY_MINOR: return gpu->minor;
    case PCI_BUS: return FIRST_BUS + gpu->index;
    case CLUSTER_LAUNCH: return gpu->major >= 9;
    case CORE_KHZ: return gpu->core_mhz > 0 ? gpu->core_mhz * 1000 : 1500000;
    case MEMORY_KHZ: return gpu->memory_mhz > 0 ? gpu->memory_mhz * 1000 : 1500000;
    case MEMORY_BUS_BITS: return gpu->bus_bits > 0 ? gpu->bus_bits : 384;
    default: return 0;
    }
}

/* Those that are alike on all cards of today. */
int attribute_of(int key, int ordinal)
{
    switch (key) {
    case MAX_THREADS_PER_BLOCK: case MAX_BLOCK_X: case MAX_BLOCK_Y: return 1024;
    case MAX_BLOCK_Z: return 64;
    case MAX_GRID_X: return 2147483647;
    case MAX_GRID_Y: case MAX_GRID_Z: return 65535;
    case SHARED_PER_BLOCK: return 48 << 10;
    case RESERVED_SHARED_PER_BLOCK: return 1 << 10;
    case CONSTANT_BYTES: case REGISTERS_PER_BLOCK: case REGISTERS_PER_MULTIPROCESSOR: return 1 << 16;
    case WARP_SIZE: return 32;
    case TEXTURE_ALIGNMENT: return 512;
    case ASYNC_ENGINES: return 3;
    case CAN_MAP_HOST_MEMORY: case CONCURRENT_KERNELS: case UNIFIED_ADDRESSING:
    case STREAM_PRIORITIES: case MANAGED_MEMORY: case CONCURRENT_MANAGED: case COOPERATIVE_LAUNCH:
    case HOST_REGISTER: case VIRTUAL_MEMORY: case FILE_DESCRIPTOR_HANDLES: case MEMORY_POOLS:
        return 1;
    default: return processor_attribute(key, card_at(ordinal));
    }
}
