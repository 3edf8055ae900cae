/* threads.h: the library's own thread pool. A job is a number of tasks; every task writes its own part of
 * the output, so results never depend on how many threads run them. */
#ifndef VM_BASE_THREADS_H
#define VM_BASE_THREADS_H

#include "vmoer/vmoer_errors.h"
#include <stddef.h>

typedef struct vm_pool vm_pool;

/* n_threads <= 0: one a CPU this process may run on. The caller's thread is one of them. */
vmoer_status vm_pool_create(int n_threads, vm_pool **out);
void vm_pool_free(vm_pool *pool); /* takes NULL */
int vm_pool_threads(const vm_pool *pool); /* NULL: 1 */

/* task in [0, n_tasks), worker in [0, vm_pool_threads). */
typedef void (*vm_task_fn)(void *context, int task, int worker);

/* Runs fn for every task and returns when all are done. Every thread has a share of neighbouring tasks, in order; who is done
 * takes over from others.
 * pool NULL or one thread: runs inline. Not re-entrant: a task must not call vm_pool_run on the same pool;
 * one caller at a time. */
void vm_pool_run(vm_pool *pool, int n_tasks, vm_task_fn fn, void *context);

/* The same over items [0, n), a task being `piece` of them (the last one what is left): items [begin, end). */
typedef void (*vm_range_fn)(void *context, size_t begin, size_t end, int worker);
void vm_pool_run_range(vm_pool *pool, size_t n, size_t piece, vm_range_fn fn, void *context);

#endif
