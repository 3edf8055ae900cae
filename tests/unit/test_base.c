/* test_base.c: errors, memory, threads, progress. */
#include "base/memory.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/threads.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* ---- status ---- */

static vmoer_status inner(void) { return vm_error(VMOER_ERROR_FORMAT, "byte %d: bad", 7); }

static vmoer_status outer(void) {
    VM_TRY_IN(inner(), "%s", "model.gguf");
    return VMOER_OK;
}

static void errors_travel_with_their_context(void **state) {
    (void)state;
    assert_int_equal(outer(), VMOER_ERROR_FORMAT);
    assert_string_equal(vm_error_text(), "model.gguf: byte 7: bad");
    assert_int_equal(vm_error(VMOER_ERROR_IO, "again: %s", vm_error_text()), VMOER_ERROR_IO);
    assert_string_equal(vm_error_text(), "again: model.gguf: byte 7: bad");
    vm_error_in(VMOER_ERROR_FORMAT, "again"); /* a context that is said already */
    assert_string_equal(vm_error_text(), "again: model.gguf: byte 7: bad");
    vm_error_in(VMOER_ERROR_FORMAT, "aga");
    assert_string_equal(vm_error_text(), "aga: again: model.gguf: byte 7: bad");
    assert_string_equal(vm_status_text(VMOER_ERROR_LIMIT), "limit exceeded");
    assert_string_equal(vm_status_text((vmoer_status)999), "unknown status");
}

static void error_text_is_one_line_of_bounded_length(void **state) {
    (void)state;
    vm_error(VMOER_ERROR_FORMAT, "key \"%s\"", "a\nb\x1b[31m\x7f");
    assert_string_equal(vm_error_text(), "key \"a?b?[31m?\"");
    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    vm_error(VMOER_ERROR_FORMAT, "%s", longer);
    assert_int_equal(strlen(vm_error_text()), 1023);
    vm_error_in(VMOER_ERROR_FORMAT, "%s", longer);
    assert_int_equal(strlen(vm_error_text()), 1023);
}

static void *fail_elsewhere(void *unused) {
    (void)unused;
    vm_error(VMOER_ERROR_IO, "of another thread");
    return NULL;
}

static void error_text_belongs_to_its_thread(void **state) {
    (void)state;
    vm_error(VMOER_ERROR_IO, "of this thread");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(vm_error_text(), "of this thread");
}

/* ---- memory ---- */

static void allocation_is_checked_and_aligned(void **state) {
    (void)state;
    assert_null(vm_malloc(SIZE_MAX / 2, 3));
    assert_null(vm_calloc(SIZE_MAX, SIZE_MAX));
    assert_null(vm_malloc(SIZE_MAX, 1));
    for (size_t n = 0; n < 300; n += 37) {
        unsigned char *p = vm_calloc(n, 3);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < 3 * n; i++) assert_int_equal(p[i], 0);
        vm_free(p);
    }
    vm_free(NULL);
    char *text = vm_strndup("abcdef", 3);
    assert_string_equal(text, "abc");
    vm_free(text);
}

static void grow_keeps_what_is_there(void **state) {
    (void)state;
    int *values = NULL;
    size_t capacity = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(vm_grow((void **)&values, &capacity, (size_t)i + 1, sizeof *values));
        values[i] = i;
    }
    assert_true(capacity >= 1000 && capacity < 2048);
    for (int i = 0; i < 1000; i++) assert_int_equal(values[i], i);
    int *before = values;
    size_t capacity_before = capacity;
    assert_false(vm_grow((void **)&values, &capacity, SIZE_MAX, sizeof *values));
    assert_false(vm_grow((void **)&values, &capacity, SIZE_MAX / 8, sizeof *values));
    assert_ptr_equal(values, before);
    assert_int_equal(capacity, capacity_before);
    vm_free(values);
}

static void arena_reuses_its_memory(void **state) {
    (void)state;
    vm_arena *arena = vm_arena_create();
    assert_non_null(arena);
    size_t held = 0;
    for (int round = 0; round < 3; round++) {
        unsigned char *blocks[200];
        for (size_t i = 0; i < 200; i++) {
            size_t size = 1 + (i * 7919) % 5000;
            blocks[i] = vm_arena_alloc(arena, size, 1);
            assert_non_null(blocks[i]);
            assert_int_equal((uintptr_t)blocks[i] % 64, 0);
            memset(blocks[i], (int)i, size);
        }
        for (size_t i = 0; i < 200; i++) {
            size_t size = 1 + (i * 7919) % 5000;
            for (size_t k = 0; k < size; k++) assert_int_equal(blocks[i][k], i & 255);
        }
        if (round == 0) held = vm_arena_bytes(arena);
        assert_int_equal(vm_arena_bytes(arena), held);
        vm_arena_reset(arena);
    }
    assert_null(vm_arena_alloc(arena, SIZE_MAX / 2, 3));
    assert_null(vm_arena_alloc(arena, SIZE_MAX - 70, 1));
    assert_non_null(vm_arena_alloc(arena, 0, 8));
    assert_string_equal(vm_arena_strndup(arena, "name", 2), "na");
    assert_non_null(vm_arena_alloc(arena, 10 << 20, 1)); /* larger than a chunk */
    assert_true(vm_arena_bytes(arena) >= held + (10 << 20));
    vm_arena_free(arena);
    vm_arena_free(NULL);
}

/* ---- threads ---- */

enum { MOST_TASKS = 1000, MOST_WORKERS = 64 };

typedef struct job {
    int done[MOST_TASKS]; /* each written by its own task */
    int workers;
    atomic_int bad_worker;
} job;

static void count_task(void *context, int task, int worker) {
    job *j = context;
    j->done[task]++;
    if (worker < 0 || worker >= j->workers) atomic_store(&j->bad_worker, 1);
}

static void every_task_runs_once(void **state) {
    (void)state;
    static const int sizes[] = {0, 1, 2, 3, 7, 64, MOST_TASKS};
    for (int n_threads = 1; n_threads <= 9;
         n_threads += 4) { /* 5 and 9 are more than most machines of a test farm have */
        vm_pool *pool;
        assert_int_equal(vm_pool_create(n_threads, &pool), VMOER_OK);
        assert_int_equal(vm_pool_threads(pool), n_threads);
        job j = {.workers = n_threads};
        int expected[MOST_TASKS] = {0};
        for (int round = 0; round < 700; round++) {
            int n_tasks = sizes[round % 7];
            vm_pool_run(pool, n_tasks, count_task, &j);
            for (int i = 0; i < n_tasks; i++) expected[i]++;
            /* Plain reads: the run is over, so all writes must be visible (the thread sanitizer looks on). */
            assert_memory_equal(j.done, expected, sizeof expected);
            if (round % 100 == 99) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* let the workers sleep */
        }
        assert_int_equal(atomic_load(&j.bad_worker), 0);
        vm_pool_free(pool);
    }
}

static void nap(void *context, int task, int worker) {
    (void)task;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_fetch_or((atomic_int *)context, 1 << worker);
}

static void tasks_are_shared_between_threads(void **state) {
    (void)state;
    vm_pool *pool;
    assert_int_equal(vm_pool_create(3, &pool), VMOER_OK);
    atomic_int seen = 0;
    vm_pool_run(pool, 60, nap, &seen); /* the caller ends last or first: it must sleep until the others are done */
    assert_int_equal(atomic_load(&seen), 7);
    vm_pool_free(pool);
}

static void record_order(void *context, int task, int worker) {
    int **next = context;
    assert_int_equal(worker, 0);
    *(*next)++ = task;
}

static void without_a_pool_tasks_run_in_order(void **state) {
    (void)state;
    int order[10], *next = order;
    vm_pool_run(NULL, 10, record_order, &next);
    for (int i = 0; i < 10; i++) assert_int_equal(order[i], i);
    assert_int_equal(vm_pool_threads(NULL), 1);
    vm_pool_free(NULL);
}

typedef struct pieces {
    size_t piece;
    int count[100];
} pieces;

static void count_items(void *context, size_t begin, size_t end, int worker) {
    pieces *p = context;
    assert_true(worker >= 0 && begin < end && end - begin <= p->piece && begin % p->piece == 0);
    for (size_t i = begin; i < end; i++) p->count[i]++;
}

static void ranges_cover_every_item_once(void **state) {
    (void)state;
    vm_pool *pool;
    assert_int_equal(vm_pool_create(2, &pool), VMOER_OK);
    for (size_t n = 0; n <= 100; n += 4) {
        pieces p = {.piece = n % 9 + 1};
        vm_pool_run_range(n % 8 ? pool : NULL, n, p.piece, count_items, &p);
        for (size_t i = 0; i < 100; i++) assert_int_equal(p.count[i], i < n);
    }
    vm_pool_free(pool);
}

static void pool_size_is_chosen_and_limited(void **state) {
    (void)state;
    vm_pool *pool;
    assert_int_equal(vm_pool_create(0, &pool), VMOER_OK);
    assert_true(vm_pool_threads(pool) >= 1);
    vm_pool_free(pool);
    assert_int_equal(vm_pool_create(1 << 20, &pool), VMOER_ERROR_LIMIT);
    assert_null(pool);
}

/* ---- progress ---- */

typedef struct heard {
    int calls, stop;
    uint64_t done, total;
    char text[2048];
} heard;

static int on_progress(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    heard *h = user;
    h->calls++;
    h->done = done;
    h->total = total;
    strcpy(h->text, stage);
    strcat(h->text, note ? note : "");
    return h->stop;
}

static void on_log(void *user, const char *line) { strcpy(((heard *)user)->text, line); }

static void hooks_are_called_and_may_stop(void **state) {
    (void)state;
    heard h = {0};
    vmoer_hooks hooks = {.progress = on_progress, .log = on_log, .user = &h};
    assert_int_equal(vm_progress(&hooks, "train", 3, 10, " x"), VMOER_OK);
    assert_int_equal(h.calls, 1);
    assert_int_equal(h.done, 3);
    assert_int_equal(h.total, 10);
    assert_string_equal(h.text, "train x");
    h.stop = 1;
    assert_int_equal(vm_progress(&hooks, "train", 4, 10, NULL), VMOER_ERROR_INTERRUPTED);
    assert_string_equal(vm_error_text(), "train: stopped on request at 4 of 10");
    vm_log(&hooks, "%d lines", 2);
    assert_string_equal(h.text, "2 lines");

    vmoer_hooks silent = {0};
    assert_int_equal(vm_progress(&silent, "train", 1, 2, NULL), VMOER_OK);
    assert_int_equal(vm_progress(NULL, "train", 1, 2, NULL), VMOER_OK);
    vm_log(&silent, "nobody");
    vm_log(NULL, "nobody");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_travel_with_their_context),
        cmocka_unit_test(error_text_is_one_line_of_bounded_length),
        cmocka_unit_test(error_text_belongs_to_its_thread),
        cmocka_unit_test(allocation_is_checked_and_aligned),
        cmocka_unit_test(grow_keeps_what_is_there),
        cmocka_unit_test(arena_reuses_its_memory),
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(tasks_are_shared_between_threads),
        cmocka_unit_test(without_a_pool_tasks_run_in_order),
        cmocka_unit_test(ranges_cover_every_item_once),
        cmocka_unit_test(pool_size_is_chosen_and_limited),
        cmocka_unit_test(hooks_are_called_and_may_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
