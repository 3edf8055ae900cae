/* test_checkpoint.c: a run that stops and goes on gives the bytes of one that does not; wrong checkpoints are refused
 * and change nothing; a process killed while it saves leaves a whole checkpoint. */
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "train/checkpoint.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { TRAINED = 3, N = 4 }; /* the last one is carried along */
static const struct {
    const char *name;
    int rows, cols;
} shapes[N] = {{"a.lora_A.weight", 8, 37}, {"a.lora_B.weight", 19, 8}, {"norm", 1, 5}, {"mean", 2, 7}};

static char scratch[1024], path[1200];

static int make_scratch(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%.900s/vmoer-checkpoint-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(scratch)) return -1;
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", scratch);
    return 0;
}

/* A killed writer leaves its temporary file. */
static int remove_scratch(void **state) {
    (void)state;
    DIR *dir = opendir(scratch);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char name[1400];
        snprintf(name, sizeof name, "%s/%s", scratch, entry->d_name);
        if (entry->d_name[0] != '.') unlink(name);
    }
    if (dir) closedir(dir);
    return rmdir(scratch);
}

/* ---- a small run ---- */

typedef struct run {
    vm_param params[N];
    vm_param *items[N];
    vm_optimizer *o;
} run;

static void run_start(run *r) {
    for (int i = 0; i < N; i++) {
        vm_param *p = &r->params[i];
        *p = (vm_param){.rows = shapes[i].rows, .cols = shapes[i].cols, .decay = i < 2};
        snprintf(p->name, sizeof p->name, "%s", shapes[i].name);
        p->value = vm_calloc(vm_param_size(p), sizeof(float));
        p->grad = i < TRAINED ? vm_calloc(vm_param_size(p), sizeof(float)) : NULL;
        assert_true(p->value && (p->grad || i >= TRAINED));
        r->items[i] = p;
        vm_rng rng = vm_rng_start(1, VM_RNG_INIT, (uint32_t)i);
        for (size_t k = 0; k < vm_param_size(p); k++) p->value[k] = vm_rng_normal(&rng);
    }
    vm_optimizer_options options = vm_optimizer_options_default();
    options.weight_decay = 0.01;
    options.clip = 5;
    assert_int_equal(vm_optimizer_create(&(vm_param_list){r->items, N}, &options, NULL, &r->o), VMOER_OK);
}

static void run_step(run *r) {
    for (int i = 0; i < TRAINED; i++) {
        vm_rng rng = vm_rng_start(r->o->step, VM_RNG_SHUFFLE, (uint32_t)i);
        for (size_t k = 0; k < vm_param_size(r->items[i]); k++) r->items[i]->grad[k] = vm_rng_normal(&rng);
    }
    float before = r->items[TRAINED]->value[0];
    assert_int_equal(vm_optimizer_step(r->o, NULL, 1e-2, NULL), VMOER_OK);
    assert_true(r->items[TRAINED]->value[0] == before);
    r->items[TRAINED]->value[0] += r->items[0]->value[0]; /* as its owner does */
}

static void run_end(run *r) {
    for (int i = 0; i < N; i++) {
        vm_free(r->params[i].value);
        vm_free(r->params[i].grad);
    }
    vm_optimizer_free(r->o);
}

static void assert_same(const run *a, const run *b) {
    assert_int_equal(a->o->step, b->o->step);
    for (int i = 0; i < N; i++) {
        size_t bytes = vm_param_size(a->items[i]) * sizeof(float);
        assert_memory_equal(a->items[i]->value, b->items[i]->value, bytes);
        if (i >= TRAINED) continue;
        assert_memory_equal(a->o->m[i], b->o->m[i], bytes);
        assert_memory_equal(a->o->v[i], b->o->v[i], bytes);
    }
}

static json_t *make_config(double learning_rate) {
    return json_pack("{s:f, s:i, s:{s:s}}", "learning_rate", learning_rate, "seed", 3, "questions", "tasks",
                     "openbookqa");
}

static json_t *make_meta(int step) {
    return json_pack("{s:o, s:i, s:[f, f], s:f}", "config", make_config(1e-4), "step", step, "history", 0.1, 1.0 / 3,
                     "best_nll", 1.2345678901234567);
}

static vmoer_status save(const run *r) {
    json_t *meta = make_meta((int)r->o->step);
    vmoer_status status = vm_checkpoint_save(path, r->o, meta);
    json_decref(meta);
    return status;
}

static vmoer_status load(run *r, double learning_rate, json_t **meta) {
    json_t *config = make_config(learning_rate);
    vmoer_status status = vm_checkpoint_load(path, r->o, config, meta);
    json_decref(config);
    return status;
}

/* ---- tests ---- */

static void test_resume(void **state) {
    (void)state;
    run whole, first, second;
    run_start(&whole);
    run_start(&first);
    run_start(&second);
    for (int i = 0; i < 7; i++) run_step(&whole);
    for (int i = 0; i < 4; i++) run_step(&first);
    if (save(&first) != VMOER_OK) fail_msg("%s", vm_error_text());
    json_t *meta, *saved = make_meta(4);
    if (load(&second, 1e-4, &meta) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_same(&first, &second);
    assert_true(json_equal(meta, saved)); /* doubles to the last bit */
    for (int i = 0; i < 3; i++) run_step(&second);
    assert_same(&whole, &second);
    json_decref(meta);
    json_decref(saved);
    /* Equal runs give equal bytes. */
    char before[65], after[65];
    assert_int_equal(vm_sha256_file(path, before), VMOER_OK);
    assert_int_equal(save(&first), VMOER_OK);
    assert_int_equal(vm_sha256_file(path, after), VMOER_OK);
    assert_string_equal(before, after);
    run_end(&whole);
    run_end(&first);
    run_end(&second);
}

/* Loading fails with the code and the text, and nothing has changed. */
static void expect(run *r, vmoer_status code, const char *part) {
    run untouched;
    json_t *meta;
    run_start(&untouched);
    vmoer_status status = load(r, 1e-4, &meta);
    if (status != code || !strstr(vm_error_text(), part))
        fail_msg("wanted %d and \"%s\", got %d and \"%s\"", (int)code, part, (int)status, vm_error_text());
    assert_null(meta);
    assert_same(r, &untouched);
    run_end(&untouched);
}

static void test_other_config(void **state) {
    (void)state;
    run r, other;
    json_t *meta, *config;
    run_start(&r);
    run_start(&other);
    run_step(&other);
    assert_int_equal(save(&other), VMOER_OK);
    assert_int_equal(load(&r, 5e-4, &meta), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "resume: --learning_rate differs from the checkpoint's: 0.0005"));
    assert_null(meta);
    assert_int_equal(r.o->step, 0);
    static const struct {
        const char *config, *part;
    } cases[] = {
        {"{\"learning_rate\": 0.0001, \"seed\": 3, \"questions\": {\"tasks\": \"sciq\"}}", "--tasks differs"},
        {"{\"learning_rate\": 0.0001, \"questions\": {\"tasks\": \"openbookqa\"}}",
         "--seed differs from the checkpoint's: absent now, 3 then"},
        {"{\"learning_rate\": 0.0001, \"seed\": 3, \"clip\": 1, \"questions\": {\"tasks\": \"openbookqa\"}}",
         "--clip differs"},
        {"{\"learning_rate\": 0.0001, \"seed\": 3, \"questions\": 1}", "--questions differs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(vm_json_parse(cases[i].config, strlen(cases[i].config), "config", &config), VMOER_OK);
        assert_int_equal(vm_checkpoint_load(path, r.o, config, &meta), VMOER_ERROR_MISMATCH);
        if (!strstr(vm_error_text(), cases[i].part))
            fail_msg("\"%s\" is not in \"%s\"", cases[i].part, vm_error_text());
        json_decref(config);
    }
    run_end(&r);
    run_end(&other);
}

typedef enum spoil {
    NOTHING,
    NO_META,
    BAD_META,
    NO_CONFIG,
    BAD_STEP,
    MISSING,
    EXTRA,
    SHAPE,
    TYPE,
    NOT_FINITE,
    NEGATIVE
} spoil;

/* The checkpoint of a fresh run with one thing wrong. */
static void write_spoiled(const run *r, spoil what) {
    vm_st_writer *w = vm_st_writer_create();
    json_t *meta = make_meta(0);
    if (what == NO_CONFIG) json_object_del(meta, "config");
    json_t *record =
        json_pack("{s:o, s:o}", "optimizer_step", what == BAD_STEP ? json_string("0") : json_integer(0), "meta", meta);
    char *line = vm_json_line(record);
    if (what != NO_META)
        assert_int_equal(vm_st_writer_metadata(w, "vmoer.checkpoint", what == BAD_META ? "{\"meta\"" : line), VMOER_OK);
    for (int i = 0; i < N; i++)
        for (int part = 0; part < (i < TRAINED ? 3 : 1); part++) {
            char name[160];
            float values[8 * 37] = {0};
            bool last = i == TRAINED - 1 && part == 2;
            int64_t shape[] = {shapes[i].rows, shapes[i].cols};
            if (part == 0) memcpy(values, r->items[i]->value, vm_param_size(r->items[i]) * sizeof *values);
            if (last && what == MISSING) continue;
            if (last && what == NOT_FINITE) values[4] = NAN;
            if (last && what == NEGATIVE) values[3] = -1e-9f;
            if (i == 0 && what == SHAPE) shape[0] = shapes[i].cols, shape[1] = shapes[i].rows;
            snprintf(name, sizeof name, "%s/%s", part == 0 ? "value" : part == 1 ? "m" : "v", shapes[i].name);
            assert_int_equal(vm_st_writer_f32(w, name, i == 1 && what == TYPE ? "F16" : "F32", 2, shape, values),
                             VMOER_OK);
        }
    if (what == EXTRA)
        assert_int_equal(vm_st_writer_f32(w, "value/b", "F32", 1, (const int64_t[]){1}, &(float){1}), VMOER_OK);
    assert_int_equal(vm_st_writer_save(w, path), VMOER_OK);
    vm_st_writer_free(w);
    json_decref(record);
    free(line);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        spoil what;
        vmoer_status code;
        const char *part;
    } cases[] = {
        {NO_META, VMOER_ERROR_FORMAT, "not a checkpoint"},
        {BAD_META, VMOER_ERROR_FORMAT, "vmoer.checkpoint: line 1"},
        {NO_CONFIG, VMOER_ERROR_FORMAT, "config"},
        {BAD_STEP, VMOER_ERROR_FORMAT, "optimizer_step"},
        {MISSING, VMOER_ERROR_MISMATCH, "v/norm"},
        {EXTRA, VMOER_ERROR_MISMATCH, "11 tensors"},
        {SHAPE, VMOER_ERROR_MISMATCH, "value/a.lora_A.weight"},
        {TYPE, VMOER_ERROR_MISMATCH, "value/a.lora_B.weight"},
        {NOT_FINITE, VMOER_ERROR_NUMERIC, "v/norm\": element 4"},
        {NEGATIVE, VMOER_ERROR_NUMERIC, "v/norm\": element 3"},
    };
    run r;
    json_t *meta;
    run_start(&r);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_spoiled(&r, cases[i].what);
        expect(&r, cases[i].code, cases[i].part);
    }
    write_spoiled(&r, NOTHING);
    assert_int_equal(load(&r, 1e-4, &meta), VMOER_OK); /* so each case above failed for its own reason */
    json_decref(meta);
    /* Cut off anywhere. */
    vm_map map;
    assert_int_equal(vm_map_open(path, &map), VMOER_OK);
    uint8_t *copy = vm_malloc(map.size, 1);
    size_t size = map.size;
    memcpy(copy, map.data, size);
    vm_map_close(&map);
    for (size_t n = 0; n < size; n += 331) {
        assert_int_equal(vm_write_file(path, copy, n), VMOER_OK);
        expect(&r, VMOER_ERROR_FORMAT, "checkpoint.safetensors");
    }
    vm_free(copy);
    unlink(path);
    expect(&r, VMOER_ERROR_IO, "checkpoint.safetensors");
    run_end(&r);
}

/* A child trains and saves without end; whenever it is killed, the checkpoint is that of some whole step. */
static void test_killed(void **state) {
    (void)state;
    run r, at;
    json_t *meta;
    run_start(&r);
    assert_int_equal(save(&r), VMOER_OK);
    uint64_t furthest = 0;
    /* More rounds, each longer, where the disk is so slow that no save was completed yet. */
    for (int round = 0; round < 12 || (furthest == 0 && round < 200); round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            run_start(&at);
            if (load(&at, 1e-4, &meta) != VMOER_OK) _exit(1);
            for (;;) {
                run_step(&at);
                if (save(&at) != VMOER_OK) _exit(1);
            }
        }
        int status;
        usleep(3000 + 1700 * (useconds_t)round);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status)); /* not ended by itself */
        run_start(&at);
        if (load(&at, 1e-4, &meta) != VMOER_OK) fail_msg("%s", vm_error_text());
        assert_int_equal(json_integer_value(json_object_get(meta, "step")), at.o->step);
        json_decref(meta);
        assert_true(at.o->step >= furthest);
        furthest = at.o->step;
        run_end(&at);
    }
    assert_true(furthest > 0);
    while (r.o->step < furthest) run_step(&r);
    run_start(&at);
    assert_int_equal(load(&at, 1e-4, &meta), VMOER_OK);
    assert_same(&at, &r);
    json_decref(meta);
    run_end(&at);
    run_end(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_other_config),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, make_scratch, remove_scratch);
}
