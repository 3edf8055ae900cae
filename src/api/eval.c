/* eval.c: tasks -> metrics, with every answered question on disk the moment it is done. A killed run goes on after its
 * last whole line. */
#include "api/internal.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/status.h"
#include "eval/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FACT_QUESTIONS = 64, FLOOR_DRAWS = 1000 };

vmoer_eval_params vmoer_eval_params_default(void) {
    return (vmoer_eval_params){.load = vmoer_model_params_default(), .format = "cloze", .bootstrap = 1000};
}

typedef struct evaluation {
    const vmoer_eval_params *p;
    const vmoer_hooks *hooks;
    vm_session *session;
    vm_format format;
    char samples_path[4096];
    int samples;           /* file descriptor, appended to */
    vm_hidden_rows hidden; /* of the task at hand, with p->hidden */
    json_t *done;          /* {task: [sample, ...]} of an earlier run, in the order of the file; NULL: there was none */
    json_t *results;       /* {task: ...} */
    json_t *seconds;       /* {task: seconds} */
} evaluation;

/* Facts of the routing, summed over the first FACT_QUESTIONS questions of a task in their order. */
typedef struct routing_facts {
    size_t n;     /* questions so far */
    double *sums; /* [n_layers, 3 + N]: tokens, logit spread, margin, times each expert was chosen; NULL: no routing */
} routing_facts;

/* ---- samples.jsonl ---- */

static void put_signal(json_t *signals, const char *name, double value) {
    if (!isnan(value)) json_object_set_new(signals, name, json_real(value));
}

static void hash_text(const vm_item *item, char out[17]) {
    snprintf(out, 17, "%016llx", (unsigned long long)item->hash);
}

/* chars: length of each choice in characters, for the formats that divide by it; else NULL. */
static json_t *sample_of(const char *task, const vm_item *item, const vm_answer *a, const int *chars) {
    char hash[17];
    json_t *probabilities = json_array(), *scores = json_array(), *signals = json_object();
    hash_text(item, hash);
    for (int c = 0; c < a->n_choices; c++) {
        json_array_append_new(probabilities, json_real(a->probability[c]));
        json_array_append_new(scores, json_real(a->score[c]));
    }
    put_signal(signals, "choice_entropy", a->choice_entropy);
    put_signal(signals, "vocabulary_entropy", a->vocabulary_entropy);
    put_signal(signals, "gate_entropy", a->gate_entropy);
    put_signal(signals, "gate_entropy_last", a->gate_entropy_last);
    put_signal(signals, "logit_variance", a->logit_variance);
    put_signal(signals, "logit_variance_last", a->logit_variance_last);
    put_signal(signals, "logit_variance_projected", a->logit_variance_projected);
    put_signal(signals, "logit_variance_projected_last", a->logit_variance_projected_last);
    put_signal(signals, "total_entropy", a->total_entropy);
    put_signal(signals, "expected_entropy", a->expected_entropy);
    put_signal(signals, "mutual_information", a->mutual_information);
    put_signal(signals, "routing_temperature", a->routing_temperature);
    put_signal(signals, "routing_temperature_last", a->routing_temperature_last);
    put_signal(signals, "length", a->length);
    json_t *lengths = chars ? json_array() : NULL;
    for (int c = 0; chars && c < a->n_choices; c++) json_array_append_new(lengths, json_integer(chars[c]));
    return json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:o*}", "task", task, "id", item->id, "hash", hash, "label",
                     item->answer, "probabilities", probabilities, "scores", scores, "signals", signals, "chars",
                     lengths);
}

static vmoer_status append_line(evaluation *e, const json_t *sample) {
    char *line = vm_json_line(sample);
    if (!line) return vm_error(VMOER_ERROR_MEMORY, "no memory for a sample");
    size_t n = strlen(line);
    line[n] = '\n'; /* in place of the NUL: a line is written in one call */
    vmoer_status status = vm_write_all(e->samples, e->samples_path, line, n + 1);
    free(line);
    return status;
}

/* Reads the whole lines of an earlier run and cuts off a torn one. The settings must be the same: run.json says which
 * they were. */
static vmoer_status read_done(evaluation *e, const json_t *identity) {
    char path[4096];
    VM_TRY(vm_path_join(path, sizeof path, e->p->output_path, "run.json"));
    if (!vm_file_exists(path)) {
        if (vm_file_exists(e->samples_path))
            return vm_error(VMOER_ERROR_MISMATCH,
                            "%s exists without run.json: another program's? Choose another --output_path",
                            e->samples_path);
        return vm_json_save(path, identity);
    }
    json_t *before;
    VM_TRY(vm_json_load(path, &before));
    bool same = json_equal(before, identity);
    json_decref(before);
    if (!same)
        return vm_error(
            VMOER_ERROR_MISMATCH,
            "%s: holds a run with another model, router or settings (run.json); choose another --output_path",
            e->p->output_path);
    if (!vm_file_exists(e->samples_path)) return VMOER_OK;
    size_t whole;
    VM_TRY(vm_api_samples(e->samples_path, &whole, &e->done));
    return truncate(e->samples_path, (off_t)whole) == 0
               ? VMOER_OK
               : vm_error(VMOER_ERROR_IO, "%s: %s", e->samples_path, strerror(errno));
}

/* ---- one task ---- */

/* What was answered, as arrays for the metrics. */
typedef struct answered {
    size_t n;
    double *p;      /* [n, VM_MAX_CHOICES] */
    double *normed; /* the same of the scores a character, lm-eval's acc_norm; NULL where the format has none */
    int *k, *label;
} answered;

static vmoer_status answered_alloc(answered *a, size_t n, vm_format format) {
    *a = (answered){.p = vm_calloc(n * VM_MAX_CHOICES, sizeof *a->p),
                    .k = vm_calloc(n, sizeof *a->k),
                    .label = vm_calloc(n, sizeof *a->label)};
    bool normed = format == VM_FORMAT_LM_EVAL;
    if (normed) a->normed = vm_calloc(n * VM_MAX_CHOICES, sizeof *a->normed);
    return a->p && a->k && a->label && (a->normed || !normed)
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", n);
}

static void answered_clear(answered *a) {
    vm_free(a->p);
    vm_free(a->normed);
    vm_free(a->k);
    vm_free(a->label);
}

/* The item's part of a->normed. */
static vmoer_status take_normed(answered *a, const json_t *sample, const vm_item *item) {
    const json_t *scores = json_object_get(sample, "scores"), *chars = json_object_get(sample, "chars");
    double score[VM_MAX_CHOICES];
    if (json_array_size(scores) != (size_t)item->n_choices || json_array_size(chars) != (size_t)item->n_choices)
        return vm_error(VMOER_ERROR_FORMAT, "samples.jsonl: '%s' lacks scores or chars of its %d choices", item->id,
                        item->n_choices);
    for (int c = 0; c < item->n_choices; c++)
        score[c] = json_number_value(json_array_get(scores, (size_t)c)) /
                   fmax(1, json_number_value(json_array_get(chars, (size_t)c)));
    vm_choice_softmax(score, item->n_choices, 1.0, a->normed + a->n * VM_MAX_CHOICES);
    return VMOER_OK;
}

static vmoer_status take_sample(answered *a, const json_t *sample, const vm_item *item) {
    const json_t *p = json_object_get(sample, "probabilities");
    const char *id = json_string_value(json_object_get(sample, "id")),
               *hash = json_string_value(json_object_get(sample, "hash"));
    char own[17];
    hash_text(item, own);
    if (!id || strcmp(id, item->id) != 0)
        return vm_error(VMOER_ERROR_MISMATCH, "samples.jsonl: '%s' where '%s' was expected: made from other data?",
                        id ? id : "?", item->id);
    if (!hash || strcmp(hash, own) != 0 || json_array_size(p) != (size_t)item->n_choices)
        return vm_error(VMOER_ERROR_MISMATCH,
                        "samples.jsonl: '%s' was another question than it is now; choose another --output_path", id);
    for (int c = 0; c < item->n_choices; c++)
        a->p[a->n * VM_MAX_CHOICES + (size_t)c] = json_number_value(json_array_get(p, (size_t)c));
    if (a->normed) VM_TRY(take_normed(a, sample, item));
    a->k[a->n] = item->n_choices;
    a->label[a->n++] = item->answer;
    return VMOER_OK;
}

/* What the pass says of question i of the task, tokens [first, first + T) of a batch of `all` tokens. */
static void add_facts(const evaluation *e, routing_facts *r, size_t i, size_t first, size_t T, size_t all) {
    const vm_config *c = &e->session->model->config;
    size_t N = (size_t)c->n_experts, K = (size_t)c->top_k;
    if (!r->sums || i != r->n || i >= FACT_QUESTIONS) return;
    vm_facts facts = vm_pass_facts(e->session->pass);
    for (size_t l = (size_t)c->dense_layers; l < (size_t)c->n_layers; l++)
        for (size_t t = l * all + first; t < l * all + first + T; t++) {
            double *s = r->sums + l * (N + 3);
            s[0] += 1, s[1] += (double)facts.spread[t], s[2] += (double)facts.margin[t];
            for (size_t k = 0; k < K; k++) s[3 + facts.chosen[t * K + k]] += 1;
        }
    r->n++;
}

static vmoer_status facts_to_json(const evaluation *e, const routing_facts *r, json_t **out) {
    const vm_config *c = &e->session->model->config;
    size_t N = (size_t)c->n_experts;
    json_t *layers = json_array();
    for (size_t l = (size_t)c->dense_layers; l < (size_t)c->n_layers; l++) {
        const double *s = r->sums + l * (N + 3);
        double entropy = 0, total = s[0] * c->top_k;
        for (size_t x = 0; x < N; x++)
            if (s[3 + x] > 0) entropy -= s[3 + x] / total * log(s[3 + x] / total);
        json_array_append_new(layers, json_pack("{s:i, s:f, s:f, s:f}", "layer", (int)l, "logit_spread", s[1] / s[0],
                                                "margin", s[2] / s[0], "load_entropy", entropy));
    }
    *out = json_pack("{s:o, s:I}", "layers", layers, "questions", (json_int_t)r->n);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for routing facts");
}

/* Questions of one pass. */
enum { MOST = 256 };
typedef struct answered_batch {
    int n;
    vm_prompt prompts[MOST];
    vm_answer answers[MOST];
} answered_batch;

static void batch_clear(answered_batch *b) {
    for (int i = 0; i < b->n; i++) vm_prompt_free(&b->prompts[i]);
    b->n = 0;
}

/* Answers questions from `first` on, as many as go into one pass and none from `end` on, and takes their facts. b is to
 * be cleared after an error too. */
static vmoer_status answer_batch(evaluation *e, const char *task, const vm_dataset *d, size_t first, size_t end,
                                 routing_facts *facts, answered_batch *b) {
    vm_question questions[MOST];
    int most = e->p->batch_size > 0 && e->p->batch_size < MOST ? e->p->batch_size : MOST, tokens = 0;
    b->n = 0;
    while (b->n < most && first + (size_t)b->n < end &&
           (b->n == 0 || e->p->batch_size > 0 || tokens < VM_API_PASS_TOKENS)) {
        const vm_item *item = vm_dataset_at(d, first + (size_t)b->n);
        vm_prompt *prompt = &b->prompts[b->n];
        VM_TRY_IN(vm_prompt_build(e->session->tokenizer, task, item, e->format, prompt), "%s", item->id);
        tokens += vm_prompt_inputs(prompt);
        questions[b->n] = (vm_question){prompt, (uint32_t)(first + (size_t)b->n)};
        b->n++;
    }
    VM_TRY(vm_session_answer(e->session, questions, b->n, e->format, b->answers));
    size_t at = 0;
    for (int i = 0; i < b->n; i++) {
        size_t T = (size_t)vm_prompt_inputs(&b->prompts[i]);
        add_facts(e, facts, first + (size_t)i, at, T, (size_t)tokens);
        at += T;
    }
    return VMOER_OK;
}

/* The facts of questions an earlier run answered: they are not in its samples. */
static vmoer_status facts_again(evaluation *e, const char *task, const vm_dataset *d, size_t done,
                                routing_facts *facts) {
    size_t end = done < FACT_QUESTIONS ? done : FACT_QUESTIONS;
    while (facts->sums && facts->n < end) {
        answered_batch b;
        vmoer_status status = answer_batch(e, task, d, facts->n, end, facts, &b);
        batch_clear(&b);
        VM_TRY(status);
    }
    return VMOER_OK;
}

static vmoer_status answer_rest(evaluation *e, const char *task, const vm_dataset *d, routing_facts *facts,
                                answered *a) {
    size_t n = vm_dataset_count(d);
    while (a->n < n) {
        answered_batch b;
        vmoer_status status = answer_batch(e, task, d, a->n, n, facts, &b);
        if (status == VMOER_OK && e->p->hidden) /* before the lines that say these items are done */
            status = vm_hidden_append(&e->hidden, e->session->hidden, (size_t)b.n);
        for (int i = 0; i < b.n && status == VMOER_OK; i++) {
            const vm_item *item = vm_dataset_at(d, a->n);
            json_t *sample = sample_of(task, item, &b.answers[i], a->normed ? b.prompts[i].chars : NULL);
            status = sample ? append_line(e, sample) : vm_error(VMOER_ERROR_MEMORY, "no memory for a sample");
            if (status == VMOER_OK) status = take_sample(a, sample, item);
            json_decref(sample);
        }
        batch_clear(&b);
        VM_TRY(status);
        if (fsync(e->samples) != 0) return vm_error(VMOER_ERROR_IO, "%s: %s", e->samples_path, strerror(errno));
        VM_TRY(vm_progress(e->hooks, task, a->n, n, NULL));
    }
    return VMOER_OK;
}

/* acc_norm and its interval into the result: accuracy is a matter of the largest entry alone. */
static vmoer_status add_acc_norm(const vmoer_eval_params *p, const answered *a, json_t *result) {
    vm_predictions d = {.n = a->n, .stride = VM_MAX_CHOICES, .p = a->normed, .k = a->k, .label = a->label};
    vm_metrics m;
    vm_metrics_ci ci;
    VM_TRY(vm_metrics_compute(&d, &m));
    VM_TRY(vm_metrics_bootstrap(&d, p->bootstrap, p->load.seed, &ci));
    json_object_set_new(result, "acc_norm", json_real(m.acc));
    json_object_set_new(json_object_get(result, "ci95"), "acc_norm", vm_api_interval(ci.acc));
    return VMOER_OK;
}

static vmoer_status summarise(const vmoer_eval_params *p, const answered *a, json_t **out) {
    vm_predictions d = {.n = a->n, .stride = VM_MAX_CHOICES, .p = a->p, .k = a->k, .label = a->label};
    vm_metrics m;
    vm_metrics_ci ci;
    vm_ece_floor floor;
    double *risk = vm_calloc(a->n, sizeof *risk), aurc;
    if (!risk) return vm_error(VMOER_ERROR_MEMORY, "no memory for the metrics");
    vmoer_status status = vm_metrics_compute(&d, &m);
    if (status == VMOER_OK) status = vm_metrics_bootstrap(&d, p->bootstrap, p->load.seed, &ci);
    if (status == VMOER_OK) status = vm_ece_floor_compute(&d, FLOOR_DRAWS, p->load.seed, &floor);
    if (status == VMOER_OK) status = vm_risk_coverage(&d, risk, &aurc);
    vm_free(risk);
    VM_TRY(status);
    json_t *ci95 = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "acc", vm_api_interval(ci.acc), "nll",
                             vm_api_interval(ci.nll), "ece", vm_api_interval(ci.ece), "mce", vm_api_interval(ci.mce),
                             "brier", vm_api_interval(ci.brier), "ece_mass", vm_api_interval(ci.ece_mass));
    *out = json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:{s:f, s:f}, s:o, s:f}", "n", (json_int_t)a->n,
                     "acc", m.acc, "nll", m.nll, "ece", m.ece, "mce", m.mce, "brier", m.brier, "ece_mass", m.ece_mass,
                     "excess_ece", m.ece - floor.mean, "ci95", ci95, "ece_floor", "mean", floor.mean, "p95", floor.p95,
                     "reliability", vm_api_reliability(&d), "aurc", aurc);
    if (!*out) return vm_error(VMOER_ERROR_MEMORY, "no memory for the metrics");
    return a->normed ? add_acc_norm(p, a, *out) : VMOER_OK;
}

static vmoer_status run_task(void *context, const char *name) {
    evaluation *e = context;
    vm_dataset *d;
    VM_TRY(vm_api_dataset(&e->p->questions, name, e->p->questions.split, &d));
    const char *task = vm_dataset_task(d);
    size_t n = vm_dataset_count(d);
    const vm_config *c = &e->session->model->config;
    answered a;
    routing_facts facts = {0};
    json_t *result = NULL, *routing;
    vmoer_status status = answered_alloc(&a, n, e->format);
    if (status == VMOER_OK && c->n_experts &&
        !(facts.sums = vm_calloc((size_t)c->n_layers * (size_t)(c->n_experts + 3), sizeof *facts.sums)))
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for routing facts");
    /* Its answers would stand in samples.jsonl twice. */
    if (status == VMOER_OK && json_object_get(e->results, task))
        status = vm_error(VMOER_ERROR_ARGUMENT, "--tasks '%s': %s stands there twice", e->p->questions.tasks, task);
    const json_t *before = json_object_get(e->done, task);
    double start = vm_api_seconds();
    if (status == VMOER_OK && json_array_size(before) > n)
        status = vm_error(VMOER_ERROR_MISMATCH, "samples.jsonl has %zu items of %s, the task has %zu",
                          json_array_size(before), task, n);
    for (size_t i = 0; status == VMOER_OK && i < json_array_size(before); i++)
        status = take_sample(&a, json_array_get(before, i), vm_dataset_at(d, i));
    if (status == VMOER_OK && e->p->hidden) status = vm_hidden_open(e->p->output_path, task, c->dim, a.n, &e->hidden);
    if (status == VMOER_OK) status = facts_again(e, task, d, a.n, &facts);
    if (status == VMOER_OK) status = answer_rest(e, task, d, &facts, &a);
    if (status == VMOER_OK) status = summarise(e->p, &a, &result);
    if (status == VMOER_OK && facts.sums) {
        status = facts_to_json(e, &facts, &routing);
        if (status == VMOER_OK && json_object_set_new(result, "routing", routing) != 0)
            status = vm_error(VMOER_ERROR_MEMORY, "no memory for the results");
    }
    if (status == VMOER_OK && (json_object_set(e->results, task, result) != 0 ||
                               json_object_set_new(e->seconds, task, json_real(vm_api_seconds() - start)) != 0))
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for the results");
    json_decref(result);
    vm_hidden_close(&e->hidden);
    answered_clear(&a);
    vm_free(facts.sums);
    vm_dataset_free(d);
    return status;
}

/* ---- the run ---- */

/* Everything that decides the samples: the head of results.json and what run.json holds. */
static json_t *identity_of(const evaluation *e) {
    static const char *const routings[] = {"learned", "random", "oracle"};
    const vmoer_eval_params *p = e->p;
    json_t *config = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i}", "format", vm_format_name(e->format), "split",
                               vm_api_split_name(p->questions.split), "routing", routings[p->load.routing], "bootstrap",
                               p->bootstrap, "n_choices", p->questions.n_choices, "limit", p->questions.limit, "sample",
                               p->questions.sample);
    if (config) vm_api_put_load(config, e->session, &p->load);
    if (p->hidden) json_object_set_new(config, "hidden", json_true());
    return vm_api_head("eval", e->session, config);
}

static vmoer_status evaluate(evaluation *e, char **out_json) {
    const vmoer_eval_params *p = e->p;
    VM_TRY(vm_format_parse(p->format, &e->format));
    VM_TRY(vm_make_dirs(p->output_path));
    VM_TRY(vm_path_join(e->samples_path, sizeof e->samples_path, p->output_path, "samples.jsonl"));
    VM_TRY(vm_api_session_open(p->model, &p->load, &e->session));
    json_t *head = identity_of(e);
    if (!head) return vm_error(VMOER_ERROR_MEMORY, "no memory for the results, or a name in them is not UTF-8");
    vmoer_status status = read_done(e, head);
    if (status == VMOER_OK) {
        e->samples = open(e->samples_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        status = e->samples >= 0 ? VMOER_OK : vm_error(VMOER_ERROR_IO, "%s: %s", e->samples_path, strerror(errno));
    }
    if (status == VMOER_OK) status = vm_api_each_task(&p->questions, run_task, e);
    if (status == VMOER_OK && p->hidden)
        status = vm_hidden_finish(p->output_path, e->results, e->session->model->config.dim);
    if (status == VMOER_OK) {
        json_object_set_new(head, "label", json_string(vm_api_label(p->label, e->session)));
        json_object_set(head, "results", e->results);
        status =
            vm_api_write(p->output_path, head,
                         json_pack("{s:O, s:i}", "seconds", e->seconds, "threads", vm_pool_threads(e->session->pool)));
    }
    if (status == VMOER_OK) return vm_api_return_json(head, out_json);
    json_decref(head);
    return status;
}

vmoer_status vmoer_eval(const vmoer_eval_params *p, const vmoer_hooks *hooks, char **out_json) {
    if (!p->output_path) return vm_error(VMOER_ERROR_ARGUMENT, "no output folder given (--output_path DIR)");
    if (p->bootstrap < 1) return vm_error(VMOER_ERROR_ARGUMENT, "bootstrap %d, must be at least 1", p->bootstrap);
    VM_TRY(vm_api_check_label(p->label));
    VM_TRY(vm_api_check_questions(&p->questions));
    evaluation e = {
        .p = p, .hooks = hooks, .samples = -1, .hidden.file = -1, .results = json_object(), .seconds = json_object()};
    vmoer_status status = evaluate(&e, out_json);
    if (e.samples >= 0) close(e.samples);
    vm_session_free(e.session);
    json_decref(e.done);
    json_decref(e.results);
    json_decref(e.seconds);
    return status;
}
