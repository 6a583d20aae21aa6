/* The machine that all stand-ins simulate, read from a text file.
 *
 * SIMULATED_GPU_MACHINE names the file; machine_file.py says what it may hold. Prototypes and
 * structs are those of nvml.h as its clients call them: a call that the description does not cover
 * answers as a driver does for a device that cannot tell (NVML_ERROR_NOT_SUPPORTED).
 *
 * machine.c reads the file; nvml/ answers NVML's calls from it, and cuda/ CUDA's.
 */
#ifndef SIMULATED_MACHINE_H
#define SIMULATED_MACHINE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    ERROR_UNINITIALIZED = 1,
    ERROR_INVALID_ARGUMENT = 2,
    ERROR_NOT_SUPPORTED = 3,
    ERROR_NOT_FOUND = 6,
    ERROR_INSUFFICIENT_SIZE = 7,
    ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    ERROR_UNKNOWN = 999,
};
enum { P2P_OK = 0, P2P_NOT_SUPPORTED = 5, P2P_INDEX_READ = 0, P2P_INDEX_NVLINK = 2 };
enum { MAX_GPUS = 16, MAX_PARTS = 64, MAX_SLICES = 8, MAX_PROCESSES = 8, MAX_REFUSALS = 64 };
enum { MEMORY_V2 = 0x02000028, FIELD_NVLINK_MBPS = 90, CLOCK_SM = 1, CLOCK_MEMORY = 2 };
enum { REMOTE_GPU = 0, REMOTE_SWITCH = 2 };
enum { FIRST_BUS = 16 }; /* the PCI bus of GPU 0; the others follow */

typedef struct {
    unsigned pid;
    unsigned long long used; /* bytes; all ones where the driver does not tell */
    unsigned gpu_instance, compute_instance;
} process_info;

typedef struct {
    unsigned long long total, free, used;
} memory_v1;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type, result;
    union { double number; unsigned value; unsigned long long wide; } value;
} field_value;

/* A GPU or one of its MIG slices. */
typedef struct part {
    struct part *parent, *slices[MAX_SLICES];
    int index, handle_error, num_processes, num_graphics, mig;
    char name[96], uuid[96];
    unsigned long long total_mib, reserved_mib, free_mib;
    process_info processes[MAX_PROCESSES], graphics[MAX_PROCESSES];
    int major, minor, pcie_generation, pcie_lanes, power_watts, nvlinks;
    int card_generation, card_lanes, default_watts, card_nvlinks, link_mbps;
    int temperature_c, draw_watts;
    int cores, core_mhz, bus_bits, memory_mhz, numa, ecc;
    int cuda_mib, context_mib, multiprocessors, l2_kib; /* what CUDA reports; the context's price */
    unsigned long long uncorrected, reasons;
} part;

typedef struct {
    int ready, init_error, cuda, num_gpus, num_parts, num_refusals, all_linked, switched, p2p;
    int calls_left, break_error; /* all calls fail after so many; negative for never */
    int linked[MAX_GPUS][MAX_GPUS];
    char driver[80], program[96];
    part parts[MAX_PARTS], *gpus[MAX_GPUS];
    struct { char call[64]; int error, gpu; } refusals[MAX_REFUSALS];
} machine_description;

extern machine_description machine;

int read_machine(const char *path);
int part_number(const part *device);
int refusal(const char *call, const part *device);
int give(unsigned *to, int value);
int give_text(char *to, unsigned size, const char *text);

#define ANSWER_FOR_OR_RETURN(device)                                                              \
    do {                                                                                          \
        int refused = refusal(__func__, device);                                                  \
        if (refused)                                                                              \
            return refused;                                                                       \
    } while (0)

#define ANSWER_OR_RETURN ANSWER_FOR_OR_RETURN(NULL)

/* A slice does not answer what only a whole GPU can. */
#define WHOLE_GPU_OR_RETURN(device)                                                               \
    do {                                                                                          \
        ANSWER_FOR_OR_RETURN(device);                                                             \
        if ((device)->parent)                                                                     \
            return ERROR_NOT_SUPPORTED;                                                           \
    } while (0)

#endif
