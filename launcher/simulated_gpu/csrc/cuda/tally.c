/* How often each kernel and each library function was called; a line of JSON when a process ends.
 *
 * SIMULATED_GPU_REPORT names the file that lines are added to. Without it nothing is counted but
 * the kernels that select (selection.c).
 */
#include "simulated.h"

#include <pthread.h>
#include <unistd.h>

static pthread_mutex_t tallies_lock = PTHREAD_MUTEX_INITIALIZER;
static tally *tallies; /* open addressing, by key */
static size_t room, held;
static const char *report_path;

static tally *slot_of(const void *key)
{
    size_t at = ((uintptr_t)key >> 4) * 11400714819323198485ull % room;
    while (tallies[at].key && tallies[at].key != key)
        at = (at + 1) % room;
    return &tallies[at];
}

static void make_room(void)
{
    tally *old = tallies;
    size_t old_room = room;
    room = room ? room * 2 : 1 << 14;
    tallies = calloc(room, sizeof *tallies);
    for (size_t n = 0; n < old_room; n++)
        if (old[n].key)
            *slot_of(old[n].key) = old[n];
    free(old);
}

/* With the lock held. */
static tally *tally_of(const void *key)
{
    if (held * 2 >= room)
        make_room();
    tally *slot = slot_of(key);
    held += !slot->key;
    slot->key = key;
    return slot;
}

int is_tracing(void) { return report_path != NULL; }

void count_call(const void *key, const char *name)
{
    if (!is_tracing())
        return;
    pthread_mutex_lock(&tallies_lock);
    tally *of = tally_of(key);
    of->count++;
    if (name)
        of->name = name;
    pthread_mutex_unlock(&tallies_lock);
}

void name_kernel(const void *key, const char *name, int special)
{
    pthread_mutex_lock(&tallies_lock);
    tally *of = tally_of(key);
    of->name = name;
    of->special = special;
    pthread_mutex_unlock(&tallies_lock);
}

int special_of(const void *key)
{
    pthread_mutex_lock(&tallies_lock);
    int special = room ? slot_of(key)->special : 0;
    pthread_mutex_unlock(&tallies_lock);
    return special;
}

static void report(void)
{
    FILE *to = fopen(report_path, "a");
    if (!to)
        return;
    fprintf(to, "{\"pid\": %d, \"cards\": [", (int)getpid());
    for (int n = 0; n < num_cards(); n++) {
        const card *of = card_at(n);
        fprintf(to, "%s{\"name\": \"%s\", \"used\": %zu, \"peak\": %zu, \"allocations\": %lu}",
                n ? ", " : "", of->part->name, of->used, of->peak, of->allocations);
    }
    fprintf(to, "], \"calls\": {");
    const char *comma = "";
    for (size_t n = 0; n < room; n++)
        if (tallies[n].count) {
            const char *name = tallies[n].name ? tallies[n].name : "?";
            fprintf(to, "%s\"%s\": %lu", comma, name, tallies[n].count);
            comma = ", ";
        }
    fprintf(to, "}}\n");
    fclose(to);
}

__attribute__((constructor)) static void begin(void)
{
    report_path = getenv("SIMULATED_GPU_REPORT");
    if (report_path)
        atexit(report);
}
