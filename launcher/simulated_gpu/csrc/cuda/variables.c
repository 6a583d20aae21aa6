/* Variables of device code, and the addresses that the host is given for them. */
#include "simulated.h"

#include <pthread.h>
#include <sys/mman.h>

typedef struct { const void *host; size_t size; void *memory; } variable;

static pthread_mutex_t variables_lock = PTHREAD_MUTEX_INITIALIZER;
static variable *variables;
static size_t num_variables, room;

API void __cudaRegisterVar(void **binary, const void *host, char *device, const char *name,
                           int is_external, size_t size, int is_constant, int is_global)
{
    (void)binary, (void)device, (void)name, (void)is_external, (void)is_constant, (void)is_global;
    pthread_mutex_lock(&variables_lock);
    if (num_variables == room)
        variables = realloc(variables, (room = room * 2 + 64) * sizeof *variables);
    variables[num_variables++] = (variable){host, size, NULL};
    pthread_mutex_unlock(&variables_lock);
}

static void *memory_of(const void *host)
{
    for (size_t n = 0; n < num_variables; n++)
        if (variables[n].host == host) {
            if (!variables[n].memory)
                variables[n].memory = pages(variables[n].size, PROT_READ | PROT_WRITE);
            return variables[n].memory;
        }
    return NULL;
}

API status cudaGetSymbolAddress(void **out, const void *host)
{
    pthread_mutex_lock(&variables_lock);
    *out = memory_of(host);
    pthread_mutex_unlock(&variables_lock);
    return *out ? OK : answer(INVALID_SYMBOL);
}

API status cudaMemcpyToSymbol(const void *host, const void *from, size_t size, size_t offset,
                              int direction)
{
    (void)direction;
    char *to;
    status error = cudaGetSymbolAddress((void **)&to, host);
    if (!error)
        memcpy(to + offset, from, size);
    return error;
}
