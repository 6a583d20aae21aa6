/* Functions by name, as programs look them up at run time, and what happens without one.
 *
 * A function that nobody wrote ends the run with its name when it is called. Looking one up by name
 * is no call: it is answered with a function that ends the run in the same way.
 */
#define _GNU_SOURCE
#include "simulated.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

enum { EXIT_SOFTWARE = 70, MAX_LOOKED_UP = 64, NEWEST_VERSION = 4 };

long long number_from_environment(const char *name, long long fallback)
{
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 0) : fallback;
}

/* Called by the functions that build.py generates. */
__attribute__((noreturn)) void simulated_unknown(const char *name)
{
    fprintf(stderr, "simulated GPU: %s is not simulated; the run ends here\n", name);
    fflush(NULL);
    _exit(EXIT_SOFTWARE);
}

void simulated_empty(const char *name) { count_call(name, name); }

static void *self(void)
{
    static void *library;
    Dl_info here;
    if (!library && dladdr((void *)simulated_unknown, &here))
        library = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    return library;
}

/* The newest form that is written: cuMemAlloc is cuMemAlloc_v2. */
void *symbol(const char *name)
{
    char versioned[128];
    for (int version = NEWEST_VERSION; version > 1; version--) {
        snprintf(versioned, sizeof versioned, "%s_v%d", name, version);
        void *found = dlsym(self(), versioned);
        if (found)
            return found;
    }
    return dlsym(self(), name);
}

/* As many functions as names may be looked up, each of which knows its own. */
static char *looked_up[MAX_LOOKED_UP];
#define SLOT(n) static void slot_##n(void) { simulated_unknown(looked_up[n]); }
#define EIGHT(m, t) m(t##0) m(t##1) m(t##2) m(t##3) m(t##4) m(t##5) m(t##6) m(t##7)
#define ALL(m) EIGHT(m, 0) EIGHT(m, 01) EIGHT(m, 02) EIGHT(m, 03) EIGHT(m, 04) EIGHT(m, 05) \
               EIGHT(m, 06) EIGHT(m, 07)
ALL(SLOT)
#define ADDRESS(n) slot_##n,
static void (*const slots[])(void) = {ALL(ADDRESS)};

static void *ending_function(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int used;
    pthread_mutex_lock(&lock);
    int at = 0;
    while (at < used && strcmp(looked_up[at], name))
        at++;
    if (at == MAX_LOOKED_UP)
        simulated_unknown(name);
    if (at == used)
        looked_up[used++] = strdup(name);
    pthread_mutex_unlock(&lock);
    return (void *)slots[at];
}

static void *function(const char *name)
{
    void *found = symbol(name);
    return found ? found : ending_function(name);
}

API status cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned version,
                                            unsigned long long flags, int *result)
{
    (void)version, (void)flags;
    *out = function(name);
    if (result)
        *result = 0;
    return OK;
}

API status cudaGetDriverEntryPoint(const char *name, void **out, unsigned long long flags,
                                   int *result)
{
    return cudaGetDriverEntryPointByVersion(name, out, 0, flags, result);
}

API status cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags,
                               int *result)
{
    return cudaGetDriverEntryPointByVersion(name, out, (unsigned)version, flags, result);
}
