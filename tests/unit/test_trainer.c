/* test_trainer.c: short trainings of tiny-moe on made-up questions, LoRA and a variational router: the loss falls;
 * stopped, killed and resumed, on one thread or two, with or without a memory bound, with all, some or none of the
 * questions' states kept from step to step, the result has the same bytes; what cannot be trained is refused. */
#include "base/file.h"
#include "model_fixture.h"
#include "train/lora.h"
#include "train/trainer.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

enum { QUESTIONS = 22, BATCH = 6, STEPS_PER_EPOCH = 4, STEPS = 30, HELDOUT = 6 };

/* ---- questions ---- */

/* A question's letter decides which of four words is right: as easy for a model of any size as it is without sense. */
static const char *write_questions(void) {
    static const char *const words[] = {"red fox", "old sea", "tall oak", "blue"};
    const char *path = scratch_path("questions.jsonl");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < QUESTIONS; i++) {
        int right = (i * 7 + i / 4) % 4, letter = i % 4;
        fprintf(f, "{\"question\": \"%c%c no %d\", \"choices\": [", "abcd"[letter], "abcd"[letter], i);
        for (int c = 0; c < 4; c++) fprintf(f, "%s\"%s\"", c ? ", " : "", words[(letter - right + c + 4) % 4]);
        fprintf(f, "], \"answer\": %d}\n", right);
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

/* contrary: the held-out part says that the choice after the right one is right, so that what is learnt makes it worse.
 */
static void load_questions(const vm_model *m, bool contrary, vm_examples *train, vm_examples *heldout) {
    const char *path = write_questions();
    vm_tokenizer *tokenizer;
    *train = *heldout = (vm_examples){0};
    OK(vm_tokenizer_open(m->file, &tokenizer));
    for (int part = 0; part < 2; part++) {
        vm_dataset *d;
        OK(vm_dataset_load_file(path, &d));
        assert_int_equal(vm_dataset_count(d), QUESTIONS);
        if (part) vm_dataset_limit(d, HELDOUT);
        OK(vm_examples_add(part ? heldout : train, tokenizer, d, VM_FORMAT_CLOZE));
        vm_dataset_free(d);
    }
    for (size_t i = 0; contrary && i < heldout->n; i++) heldout->answers[i] = (heldout->answers[i] + 1) % 4;
    vm_tokenizer_free(tokenizer);
    unlink(path);
}

/* ---- a training ---- */

typedef struct training {
    /* How it runs. */
    bool router;      /* a router instead of LoRA */
    const char *kind; /* NULL: vglr-fc */
    int threads;
    size_t memory;
    bool states; /* with a router: kept, in at most `states_memory` bytes */
    size_t states_memory;
    vmoer_train_params params;
    int stop_at;   /* step at which the progress callback asks to stop; 0: never */
    bool killed;   /* by SIGKILL instead */
    bool contrary; /* see load_questions */
    int poison_at; /* step after which a parameter of layer 1 becomes NaN; 0: never */
    /* What came of it. */
    vm_model *m;
    vm_router *bayes;
    int saves;
    size_t states_bytes;
    vm_param *victim;
    int first_step; /* the first one done in this process */
    json_t *record;
} training;

static vmoer_status save(void *context, const char *folder, const json_t *record) {
    training *t = context;
    char path[4096];
    t->saves++;
    assert_string_equal(json_string_value(json_object_get(record, "kind")), "test");
    snprintf(path, sizeof path, "%s/training.json", folder);
    OK(vm_json_save(path, record));
    if (!t->router) return vm_lora_save(t->m, folder, "F32");
    snprintf(path, sizeof path, "%s/router.safetensors", folder);
    vm_router_file info = {.base_name = "tiny-moe", .training = "{}"};
    snprintf(info.base, sizeof info.base, "%s", t->m->fingerprint);
    return vm_router_save(t->bayes, &info, path);
}

static int progress(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    training *t = user;
    assert_string_equal(stage, "test");
    assert_true(done >= 1 && done <= total && strstr(note, "loss "));
    if (!t->first_step) t->first_step = (int)done;
    if (t->poison_at == (int)done) t->victim->value[0] = NAN;
    if (t->stop_at == 0 || done < (uint64_t)t->stop_at) return 0;
    if (t->killed) raise(SIGKILL);
    return 1;
}

static training plan(const char *folder) {
    return (training){.threads = 1,
                      .params = {.output_path = scratch_path(folder),
                                 .seed = 3,
                                 .steps = STEPS,
                                 .batch_size = BATCH,
                                 .learning_rate = 4e-3,
                                 .warmup = 0.1,
                                 .weight_decay = 0.01,
                                 .clip = 1,
                                 .evaluate_every = 5}};
}

static vmoer_status train(training *t) {
    vm_pool *pool;
    vm_examples examples, heldout;
    vm_states *states = NULL;
    OK(vm_pool_create(t->threads, &pool));
    OK(vm_model_load(golden_path("tiny-moe.gguf"), &(vm_model_options){.backward_from = 0}, pool, &t->m));
    load_questions(t->m, t->contrary, &examples, &heldout);
    vm_train_job job = {
        .params = &t->params,
        .stage = "test",
        .model = t->m,
        .pool = pool,
        .train = &examples,
        .heldout = &heldout,
        .save = save,
        .context = t,
        .objective = {.format = VM_FORMAT_CLOZE, .draws = 1, .seed = t->params.seed, .memory = t->memory}};
    OK(vm_pass_create(t->m, pool, &job.objective.pass));
    if (t->router) {
        vm_router_config config = {.kind = "vglr-fc",
                                   .n_layers = 2,
                                   .layers = {0, 1},
                                   .n_experts = 8,
                                   .dim = 32,
                                   .width = 8,
                                   .prior_scale = 1,
                                   .initial_scale = 0.3f,
                                   .seed = 4,
                                   .temperature = 1};
        if (t->kind) snprintf(config.kind, sizeof config.kind, "%s", t->kind);
        if (t->kind) config.members = 3;
        if (t->kind && strcmp(t->kind, "swag") == 0) config.rank = 2;
        OK(vm_router_create(&config, &t->bayes));
        for (int l = 0; l < 2 && vm_router_has_weights(t->bayes); l++) {
            float w[8 * 32];
            OK(vm_linear_matrix(&t->m->layers[l].ffn.router, pool, w));
            OK(vm_router_start_weights(t->bayes, l, w));
        }
        job.trained = vm_router_params(t->bayes);
        job.objective.router = job.predict.router = t->bayes;
        job.objective.beta = 0.05, job.objective.draws = 2;
        job.predict.inference = VM_INFERENCE_SAMPLE, job.predict.samples = 4;
        if (t->states) OK(vm_states_create(0, 32, t->states_memory, &states));
        job.objective.states = job.predict.states = states;
    } else {
        OK(vm_lora_attach(t->m, "attention,experts,router", 4, 8, t->params.seed, pool));
        OK(vm_model_params(t->m, &job.trained));
    }
    for (size_t i = 0; i < job.trained.count; i++)
        if (strstr(job.trained.items[i]->name, "layers.1.")) t->victim = job.trained.items[i];
    job.config = json_pack("{s:s, s:f, s:s}", "model", t->m->fingerprint, "learning_rate", t->params.learning_rate,
                           "keep", vm_train_keep_name(t->params.keep));
    vmoer_hooks hooks = {.progress = progress, .user = t};
    vmoer_status status = vm_train_run(&job, &hooks, &t->record);
    json_decref(job.config);
    if (!t->router) vm_free(job.trained.items);
    t->states_bytes = states ? vm_states_bytes(states) : 0;
    vm_states_free(states);
    vm_router_free(t->bayes);
    vm_pass_free(job.objective.pass);
    vm_examples_free(&examples);
    vm_examples_free(&heldout);
    vm_model_free(t->m);
    vm_pool_free(pool);
    return status;
}

static void remove_folder(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char name[8192];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') unlink(name);
    }
    if (dir) closedir(dir);
    rmdir(path);
}

/* SHA-256 of what a training wrote. */
static void result_of(const training *t, char hex[65]) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", t->params.output_path,
             t->router ? "router.safetensors" : "adapter_model.safetensors");
    OK(vm_sha256_file(path, hex));
}

/* The uninterrupted training, its result and record. */
static training reference(bool router, char hex[65]) {
    training t = plan("reference");
    t.router = router;
    OK(train(&t));
    result_of(&t, hex);
    remove_folder(t.params.output_path);
    return t;
}

static double look(const json_t *record, size_t i, const char *key) {
    const json_t *entry = json_array_get(json_object_get(record, "history"), i), *value = json_object_get(entry, key);
    if (!value) value = json_object_get(json_object_get(entry, "heldout"), key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* ---- tests ---- */

/* The record counts the trained tensors by their names, all layers and experts together: of LoRA of two layers and
 * eight experts, or a router of two layers, one kind is looked up. */
static void check_trainable(const json_t *record, bool router) {
    const char *name = router ? "layers.*.scale.weight"
                              : "model.layers.*.block_sparse_moe.experts.down_proj.*.lora_A.weight",
               *kind;
    json_t *kinds = json_object_get(record, "trainable"), *sums;
    json_int_t tensors = 0, parameters = 0;
    json_object_foreach(kinds, kind, sums) {
        tensors += json_integer_value(json_object_get(sums, "tensors"));
        parameters += json_integer_value(json_object_get(sums, "parameters"));
    }
    assert_int_equal(json_object_size(kinds), router ? 6 : 18);
    assert_int_equal(tensors, router ? 12 : 14 * 2 + 4 * 2 * 8);
    assert_int_equal(parameters, json_integer_value(json_object_get(record, "parameters")));
    sums = json_object_get(kinds, name);
    assert_int_equal(json_integer_value(json_object_get(sums, "tensors")), router ? 2 : 2 * 8);
    assert_int_equal(json_integer_value(json_object_get(sums, "parameters")), router ? 2 * 36 * 8 : 2 * 8 * 4 * 16);
}

static void test_learns(void **state) {
    (void)state;
    for (int router = 0; router < 2; router++) {
        char hex[65];
        training t = reference(router, hex);
        size_t looks = json_array_size(json_object_get(t.record, "history"));
        assert_int_equal(looks, STEPS / 5);
        assert_int_equal(t.saves, 1);
        double first = look(t.record, 0, "nll"), last = look(t.record, looks - 1, "nll");
        /* LoRA learns them by heart; a router can only choose among experts that never saw them. */
        if (!(last < (router ? 0.99 : 0.5) * first))
            fail_msg("router %d: held-out NLL %g, then %g", router, first, last);
        if (!router)
            assert_true(look(t.record, looks - 1, "ce") < 0.5 * look(t.record, 0, "ce") &&
                        look(t.record, looks - 1, "acc") == 1);
        for (size_t i = 0; i < looks; i++) {
            assert_float_equal(look(t.record, i, "step"), 5 * (double)(i + 1), 0);
            assert_float_equal(look(t.record, i, "epoch"), 5 * (double)(i + 1) / STEPS_PER_EPOCH, 1e-12);
            assert_float_equal(look(t.record, i, "loss"),
                               look(t.record, i, "ce") + (router ? 0.05 : 0) * look(t.record, i, "kl"), 1e-12);
            assert_true((look(t.record, i, "kl") > 0) == router);
        }
        check_trainable(t.record, router);
        json_decref(t.record);
    }
}

static void test_same_bytes(void **state) {
    (void)state;
    for (int router = 0; router < 2; router++) {
        char expected[65], hex[65];
        training first = reference(router, expected);
        size_t all_states = 0;
        /* Two threads; layers computed again; all states kept; some of them. */
        for (int way = 0; way < (router ? 4 : 2); way++) {
            training t = plan("other");
            t.router = router;
            t.threads = way == 0 ? 2 : 1;
            t.memory = way == 1;
            t.states = way >= 2;
            t.states_memory = all_states / 2;
            OK(train(&t));
            assert_true((t.states_bytes > 0) == (way >= 2));
            if (way == 3) assert_true(t.states_bytes <= all_states / 2);
            all_states = t.states_bytes;
            result_of(&t, hex);
            assert_string_equal(hex, expected);
            assert_true(json_equal(t.record, first.record));
            json_decref(t.record);
            remove_folder(t.params.output_path);
        }
        json_decref(first.record);
    }
}

/* Stopped on request after any step, and more than once; what it had done is not lost. */
static void test_stopped(void **state) {
    (void)state;
    for (int router = 0; router < 2; router++) {
        char expected[65], hex[65];
        training first = reference(router, expected);
        static const int stops[][3] = {{1, 2, 0}, {13, 27, 0}, {STEPS_PER_EPOCH, STEPS, 0}};
        for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
            training t = plan("stopped");
            t.router = t.states =
                router; /* what stopped had states, what goes on has none of them, the reference never had */
            for (int k = 0; k < 3; k++) {
                t.params.resume = k > 0;
                t.first_step = 0;
                t.stop_at = stops[i][k];
                vmoer_status status = train(&t);
                assert_int_equal(status, t.stop_at ? VMOER_ERROR_INTERRUPTED : VMOER_OK);
                int done = k ? stops[i][k - 1] : 0;
                assert_int_equal(t.first_step, done < STEPS ? done + 1 : 0); /* nothing is done twice */
            }
            result_of(&t, hex);
            assert_string_equal(hex, expected);
            assert_true(json_equal(t.record, first.record));
            json_decref(t.record);
            remove_folder(t.params.output_path);
        }
        json_decref(first.record);
    }
}

/* Killed between checkpoints, it goes on from the last one. */
static void test_killed(void **state) {
    (void)state;
    char expected[65], hex[65];
    training first = reference(false, expected), t = plan("killed");
    t.stop_at = 13, t.killed = true;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        train(&t);
        _exit(0); /* it was to be killed */
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    t.stop_at = 0, t.params.resume = true;
    OK(train(&t));
    assert_int_equal(t.first_step, 11); /* looks are checkpoints */
    result_of(&t, hex);
    assert_string_equal(hex, expected);
    assert_true(json_equal(t.record, first.record));
    json_decref(t.record);
    json_decref(first.record);
    remove_folder(t.params.output_path);
}

/* What swag gathers survives a kill before its second half, before its first collection and between two; the rate is
 * constant in that half. */
static void test_swag(void **state) {
    (void)state;
    char expected[65], hex[65];
    training first = plan("swag");
    first.router = true, first.kind = "swag";
    OK(train(&first));
    result_of(&first, hex);
    snprintf(expected, sizeof expected, "%s", hex);
    remove_folder(first.params.output_path);
    static const int stops[] = {8, 17, 23};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        training t = plan("swag");
        t.router = t.killed = true, t.kind = "swag";
        t.stop_at = stops[i];
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            train(&t);
            _exit(0); /* it was to be killed */
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        t.stop_at = 0, t.params.resume = true;
        OK(train(&t));
        assert_int_equal(t.first_step, stops[i] / 5 * 5 + 1);
        result_of(&t, hex);
        assert_string_equal(hex, expected);
        assert_true(json_equal(t.record, first.record));
        json_decref(t.record);
        remove_folder(t.params.output_path);
    }
    assert_true(look(first.record, 2, "lr") > look(first.record, 3, "lr")); /* of steps 14 and 19 */
    assert_true(look(first.record, 3, "lr") == look(first.record, 5, "lr") && look(first.record, 5, "lr") > 1e-3);
    /* Gathered, not trained: they are in the file, but no parameters. */
    json_t *kinds = json_object_get(first.record, "trainable");
    assert_int_equal(json_object_size(kinds), 1);
    assert_non_null(json_object_get(kinds, "layers.*.weight"));
    assert_int_equal(json_integer_value(json_object_get(first.record, "parameters")), 2 * 8 * 32);
    json_decref(first.record);
    /* Too short a training says so at its first step. */
    training t = plan("short");
    t.router = true, t.kind = "swag", t.params.steps = 6;
    assert_int_equal(train(&t), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "6 steps are too few for rank 2"));
    remove_folder(t.params.output_path);
}

/* Three members: three times the steps, a look every three times as many. */
static void test_ensemble(void **state) {
    (void)state;
    training t = plan("ensemble");
    t.router = true, t.kind = "ensemble", t.params.steps = 10;
    OK(train(&t));
    assert_int_equal(json_array_size(json_object_get(t.record, "history")), 2);
    for (size_t i = 0; i < 2; i++) assert_float_equal(look(t.record, i, "step"), 15 * (double)(i + 1), 0);
    assert_true(look(t.record, 1, "kl") == 0);
    assert_int_equal(json_integer_value(json_object_get(t.record, "parameters")), 2 * 3 * 8 * 32);
    json_decref(t.record);
    remove_folder(t.params.output_path);
}

/* A checkpoint is refused without --resume, which leaves it as it is, and with other settings. */
/* A number that is none stops the training: the error names step and layer, and the last checkpoint goes on to the
 * result of a training that nothing happened to. */
static void test_poisoned(void **state) {
    (void)state;
    for (int router = 0; router < 2; router++) {
        char expected[65], hex[65];
        training first = reference(router, expected), t = plan("poisoned");
        t.router = router;
        t.poison_at = 12;
        assert_int_equal(train(&t), VMOER_ERROR_NUMERIC);
        /* LoRA is packed after a step, so a value that turns NaN after it is met a step later. */
        assert_non_null(strstr(vm_error_text(), router ? "step 12: layer 1:" : "step 13: layer 1:"));
        t.poison_at = 0, t.first_step = 0, t.params.resume = true;
        OK(train(&t));
        assert_int_equal(t.first_step, 11);
        result_of(&t, hex);
        assert_string_equal(hex, expected);
        json_decref(t.record);
        json_decref(first.record);
        remove_folder(t.params.output_path);
    }
}

static void test_checkpoint_there(void **state) {
    (void)state;
    training t = plan("again");
    char checkpoint[4096], before[65], after[65];
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.safetensors", t.params.output_path);
    t.stop_at = 8;
    assert_int_equal(train(&t), VMOER_ERROR_INTERRUPTED);
    OK(vm_sha256_file(checkpoint, before));
    assert_int_equal(vm_train_check_folder(&t.params), VMOER_ERROR_ARGUMENT);
    t.stop_at = t.first_step = 0;
    assert_int_equal(train(&t), VMOER_ERROR_ARGUMENT);
    assert_int_equal(t.first_step, 0);
    assert_non_null(strstr(vm_error_text(), checkpoint));
    assert_non_null(strstr(vm_error_text(), "--resume"));
    OK(vm_sha256_file(checkpoint, after));
    assert_string_equal(after, before);
    t.params.resume = true;
    OK(vm_train_check_folder(&t.params));
    t.params.learning_rate *= 2;
    assert_int_equal(train(&t), VMOER_ERROR_MISMATCH);
    assert_non_null(strstr(vm_error_text(), "learning_rate"));
    remove_folder(t.params.output_path);
}

/* Keeping the best writes at every look that is the best so far, and what stands at the end is the best one's. */
static void test_keep_best(void **state) {
    (void)state;
    training t = plan("best");
    t.params.keep = VMOER_KEEP_BEST;
    t.contrary = true;
    t.params.evaluate_every = 1;
    OK(train(&t));
    size_t looks = json_array_size(json_object_get(t.record, "history"));
    double best = INFINITY;
    int better = 0;
    for (size_t i = 0; i < looks; i++)
        if (look(t.record, i, "nll") < best) best = look(t.record, i, "nll"), better++;
    assert_int_equal(t.saves, better);
    assert_true(better >= 1 && best < 0.8 * look(t.record, looks - 1, "nll"));
    json_decref(t.record);

    vm_adapter *adapter;
    vm_model *m;
    vm_examples train_part, heldout;
    json_t *again;
    OK(vm_adapter_open(t.params.output_path, &adapter));
    OK(vm_model_load(golden_path("tiny-moe.gguf"), &(vm_model_options){.backward_from = -1, .adapter = adapter}, NULL,
                     &m));
    load_questions(m, true, &train_part, &heldout);
    vm_train_job job = {.heldout = &heldout, .objective = {.format = VM_FORMAT_CLOZE}};
    OK(vm_pass_create(m, NULL, &job.objective.pass));
    OK(vm_train_look(&job, &again));
    assert_float_equal(json_number_value(json_object_get(again, "nll")), best, 1e-3 * best);
    json_decref(again);
    vm_pass_free(job.objective.pass);
    vm_examples_free(&train_part);
    vm_examples_free(&heldout);
    vm_model_free(m);
    vm_adapter_free(adapter);
    remove_folder(t.params.output_path);
}

/* What lies in the folder and below it, as one number. */
static void folder_hash(const char *folder, char hex[65]) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "training.json"};
    char all[3 * 64 + 1], path[8192];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        OK(vm_sha256_file(path, hex));
        memcpy(all + 64 * i, hex, 64);
    }
    vm_sha256(all, sizeof all - 1, hex);
}

static void contrary_run(const char *name, vmoer_keep keep, bool killed, char hex[65]) {
    training t = plan(name);
    t.params.keep = keep, t.params.evaluate_every = 1, t.params.steps = 12;
    t.contrary = true;
    if (killed) {
        t.stop_at = 9;
        t.killed = true;
        pid_t child = fork();
        if (child == 0) _exit(train(&t) != VMOER_OK);
        int ended;
        assert_true(waitpid(child, &ended, 0) == child && WIFSIGNALED(ended));
        t.stop_at = 0, t.params.resume = true;
    }
    OK(train(&t));
    json_decref(t.record);
    folder_hash(t.params.output_path, hex);
}

/* One run that keeps both leaves the files of two that keep one each, killed half-way or not. */
static void test_keep_both(void **state) {
    (void)state;
    char last[65], best[65], hex[65], below[8192];
    contrary_run("last", VMOER_KEEP_LAST, false, last);
    contrary_run("best", VMOER_KEEP_BEST, false, best);
    assert_string_not_equal(last, best);
    for (int killed = 0; killed < 2; killed++) {
        contrary_run("both", VMOER_KEEP_BOTH, killed, hex);
        assert_string_equal(hex, last);
        snprintf(below, sizeof below, "%s/best", scratch_path("both"));
        folder_hash(below, hex);
        assert_string_equal(hex, best);
        remove_folder(below);
        remove_folder(scratch_path("both"));
    }
    remove_folder(scratch_path("last"));
    remove_folder(scratch_path("best"));
}

/* Epochs are counted in whole rounds of the questions, the last batch of each smaller. */
static void test_epochs(void **state) {
    (void)state;
    training t = plan("epochs");
    t.params.steps = 0, t.params.epochs = 3, t.params.evaluate_every = 0;
    OK(train(&t));
    assert_int_equal(json_array_size(json_object_get(t.record, "history")), 3);
    for (size_t i = 0; i < 3; i++) assert_float_equal(look(t.record, i, "step"), STEPS_PER_EPOCH * (double)(i + 1), 0);
    json_decref(t.record);
    remove_folder(t.params.output_path);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        int batch_size, epochs, steps;
        const char *says;
    } cases[] = {
        {0, 1, 0, "batch size 0"},   {5000, 1, 0, "batch size 5000"}, {4, 0, 0, "epochs and steps are 0"},
        {4, -1, 0, "nothing to do"}, {4, 0, -5, "nothing to do"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        training t = plan("refused");
        t.params.batch_size = cases[i].batch_size, t.params.epochs = cases[i].epochs, t.params.steps = cases[i].steps;
        assert_int_equal(train(&t), VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), cases[i].says));
    }
    const double rates[][2] = {{-1e-3, 0.1}, {NAN, 0.1}, {INFINITY, 0.1}, {1e-3, -0.1}, {1e-3, 1.5}, {1e-3, NAN}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        vmoer_train_params p = plan("refused").params;
        assert_int_equal(vm_train_check(&p), VMOER_OK);
        p.learning_rate = rates[i][0], p.warmup = rates[i][1];
        assert_int_equal(vm_train_check(&p), VMOER_ERROR_ARGUMENT);
        assert_non_null(strstr(vm_error_text(), i < 3 ? "learning rate" : "warmup"));
    }
    vmoer_train_params params = plan("refused").params;
    vm_examples none = {NULL, NULL, 0};
    vm_train_job job = {.params = &params, .train = &none, .heldout = &none};
    json_t *record;
    assert_int_equal(vm_train_run(&job, NULL, &record), VMOER_ERROR_DATA);
    /* A step that ends in no number stops the training and says which. */
    training t = plan("diverges");
    t.params.learning_rate = 1e30, t.params.clip = 0;
    assert_int_equal(train(&t), VMOER_ERROR_NUMERIC);
    assert_non_null(strstr(vm_error_text(), "step "));
    remove_folder(t.params.output_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),           cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_killed),           cmocka_unit_test(test_swag),       cmocka_unit_test(test_ensemble),
        cmocka_unit_test(test_checkpoint_there), cmocka_unit_test(test_poisoned),   cmocka_unit_test(test_keep_best),
        cmocka_unit_test(test_keep_both),        cmocka_unit_test(test_epochs),     cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
