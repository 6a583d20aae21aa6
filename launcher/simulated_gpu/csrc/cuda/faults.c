/* What goes wrong with a process's cards. SIMULATED_GPU_FAULT names a file, and what a process finds
 * there holds for it from then on:
 *
 *     full              no memory is left: other processes have taken what was free
 *     lost CODE         every call answers this code of CUDA's, as after an Xid
 *     collective CODE   every collective answers this code of NCCL's
 *     hang              no collective returns
 */
#include "simulated.h"

#include <unistd.h>

enum { HANG_SECONDS = 3600 };

static struct { enum fault kind; int code; } met;

static void read_fault(FILE *from)
{
    static const char *const names[] = {
        [FULL] = "full", [LOST] = "lost", [COLLECTIVE] = "collective", [HANGING] = "hang"};
    char name[16];
    int code = 1, count = fscanf(from, "%15s %d", name, &code);
    for (int kind = FULL; kind <= HANGING && count > 0; kind++)
        if (!strcmp(name, names[kind])) {
            met.code = code;
            met.kind = (enum fault)kind;
        }
}

int fault_code(enum fault kind)
{
    static const char *path;
    if (!path && !(path = getenv("SIMULATED_GPU_FAULT")))
        path = "";
    FILE *file = *path && !met.kind ? fopen(path, "r") : NULL;
    if (file) {
        read_fault(file);
        fclose(file);
    }
    return met.kind == kind ? met.code : 0;
}

status loss(void) { return fault_code(LOST); }

status failed_collective(void)
{
    if (fault_code(HANGING))
        sleep(HANG_SECONDS);
    return fault_code(COLLECTIVE);
}
