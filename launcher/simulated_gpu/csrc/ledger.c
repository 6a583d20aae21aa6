/* The file in which processes that share a card see each other. */
#define _GNU_SOURCE
#include "ledger.h"
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROWS = 64 };

struct row {
    _Atomic int pid;
    _Atomic size_t used[MAX_PARTS];
};

static struct ledger {
    _Atomic int holder; /* the process that is changing it */
    struct row rows[ROWS];
} *ledger;
static struct row *mine;

static int is_dead(int pid) { return kill(pid, 0) && errno == ESRCH; }

static void lock(void)
{
    int self = getpid(), holder = 0;
    while (!atomic_compare_exchange_strong(&ledger->holder, &holder, self)) {
        if (holder && is_dead(holder))
            atomic_compare_exchange_strong(&ledger->holder, &holder, 0);
        holder = 0;
        sched_yield();
    }
}

static void unlock(void) { atomic_store(&ledger->holder, 0); }

static void open_ledger(void)
{
    const char *path = getenv("SIMULATED_GPU_LEDGER");
    int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
    int shared = file >= 0 && !ftruncate(file, sizeof *ledger);
    int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, flags, shared ? file : -1, 0);
    if (file >= 0)
        close(file);
    if (ledger == MAP_FAILED)
        abort();
}

static struct row *own_row(void)
{
    int self = getpid();
    if (mine && mine->pid == self)
        return mine;
    mine = NULL;
    for (int n = 0; n < ROWS && !mine; n++)
        if (!ledger->rows[n].pid || is_dead(ledger->rows[n].pid)) {
            mine = &ledger->rows[n];
            memset(mine->used, 0, sizeof mine->used);
            mine->pid = self;
        }
    return mine;
}

size_t ledger_used(int part)
{
    size_t sum = 0;
    unsigned pid;
    for (int n = 0; n < ROWS; n++)
        sum += ledger_row(n, part, &pid);
    return sum;
}

size_t ledger_row(int number, int part, unsigned *pid)
{
    if (!ledger)
        open_ledger();
    struct row *row = &ledger->rows[number];
    *pid = (unsigned)row->pid;
    return *pid && !is_dead((int)*pid) ? row->used[part] : 0;
}

int ledger_rows(void) { return ROWS; }

int ledger_take(int part, size_t bytes, size_t capacity)
{
    if (!ledger)
        open_ledger();
    lock();
    struct row *row = own_row();
    int fits = row && ledger_used(part) + bytes <= capacity;
    if (fits)
        row->used[part] += bytes;
    unlock();
    return fits;
}

void ledger_give(int part, size_t bytes)
{
    lock();
    struct row *row = own_row();
    if (row)
        row->used[part] -= bytes;
    unlock();
}
