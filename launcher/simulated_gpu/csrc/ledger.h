/* Bytes that each process has taken of each card, in a file that all of them map.
 *
 * SIMULATED_GPU_LEDGER names the file; without it a process sees only itself. A part is a GPU or a
 * MIG slice, by its number in the machine's description. Rows of dead processes count for nothing.
 */
#ifndef SIMULATED_LEDGER_H
#define SIMULATED_LEDGER_H

#include <stddef.h>

/* Takes bytes of a part that has so many; 0 where they do not fit. */
int ledger_take(int part, size_t bytes, size_t capacity);
void ledger_give(int part, size_t bytes);
/* What all living processes hold of a part. */
size_t ledger_used(int part);
/* Bytes that the process in a row holds, and its id; 0 for a row without one. There are
 * ledger_rows() rows. */
size_t ledger_row(int row, int part, unsigned *pid);
int ledger_rows(void);

#endif
