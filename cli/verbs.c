/* verbs.c: the list of verbs, and what several of them print. */
#include "verbs.h"

#include <stdlib.h>
#include <string.h>

const verb *const verbs[] = {
    &verb_info,    &verb_verify,    &verb_tokenize, &verb_run,       &verb_eval,  &verb_finetune,
    &verb_upcycle, &verb_quantize,  &verb_convert,  &verb_calibrate, &verb_ood,   &verb_stability,
    &verb_cost,    &verb_conformal, &verb_report,   &verb_reproduce, &verb_bench, NULL};

const char *const compute_words[] = {"auto", "f32", "bf16", NULL};
const char *const inference_words[] = {"auto", "mean", "closed", "sample", "tilted", "passes", NULL};
const char *const routing_words[] = {"learned", "random", "oracle", NULL};
const char *const split_words[] = {"test", "train", "heldout", NULL};
const char *const keep_words[] = {"last", "best", "both", NULL};

/* The words are indices into these enums. */
_Static_assert(VMOER_COMPUTE_AUTO == 0 && VMOER_COMPUTE_F32 == 1 && VMOER_COMPUTE_BF16 == 2, "compute_words");
_Static_assert(VMOER_INFERENCE_AUTO == 0 && VMOER_INFERENCE_MEAN == 1 && VMOER_INFERENCE_CLOSED == 2 &&
                   VMOER_INFERENCE_SAMPLE == 3 && VMOER_INFERENCE_TILTED == 4 && VMOER_INFERENCE_PASSES == 5,
               "inference_words");
_Static_assert(VMOER_ROUTING_LEARNED == 0 && VMOER_ROUTING_RANDOM == 1 && VMOER_ROUTING_ORACLE == 2, "routing_words");
_Static_assert(VMOER_SPLIT_TEST == 0 && VMOER_SPLIT_TRAIN == 1 && VMOER_SPLIT_HELDOUT == 2, "split_words");
_Static_assert(VMOER_KEEP_LAST == 0 && VMOER_KEEP_BEST == 1 && VMOER_KEEP_BOTH == 2, "keep_words");
_Static_assert(sizeof(vmoer_compute) == sizeof(int), "OPTION_ENUM writes an int");

static void add_rows(table *t, const char *prefix, const json_t *value) {
    const char *key;
    json_t *member;
    if (json_is_object(value) && json_object_size(value)) {
        json_object_foreach((json_t *)value, key, member) {
            char *name = NULL;
            if (asprintf(&name, "%s%s%s", prefix, *prefix ? "." : "", key) < 0) exit(session_fail(1, "out of memory"));
            add_rows(t, name, member);
            free(name);
        }
        return;
    }
    table_cell(t, "%s", prefix);
    if (json_is_real(value)) {
        table_cell(t, "%.12g", json_real_value(value));
    } else if (json_is_string(value) || json_is_null(value)) {
        table_cell(t, "%s", json_is_null(value) ? "-" : json_string_value(value));
    } else {
        char *text = json_dumps(value, JSON_ENCODE_ANY);
        table_cell(t, "%s", text ? text : "");
        free(text);
    }
}

void print_object(const json_t *root, output_format output) {
    table *t = table_new(output);
    table_column(t, "key");
    table_column(t, "value");
    add_rows(t, "", root);
    table_print(t);
}

/* What is trained, a row for each kind of tensor. */
static void print_trained(const json_t *root) {
    const char *kind;
    json_t *sums;
    json_int_t tensors = 0;
    table *t = table_new(OUTPUT_MD);
    table_column(t, "trained");
    table_column(t, "tensors");
    table_column(t, "parameters");
    json_object_foreach(json_object_get(root, "trainable"), kind, sums) {
        table_cell(t, "%s", kind);
        table_value(t, sums, "tensors", 0);
        table_value(t, sums, "parameters", 0);
        tensors += json_integer_value(json_object_get(sums, "tensors"));
    }
    table_cell(t, "all");
    table_cell(t, "%lld", (long long)tensors);
    table_value(t, root, "parameters", 0);
    table_print(t);
    printf("\n");
}

void print_training(const json_t *root, output_format output) {
    size_t i;
    json_t *row;
    if (output == OUTPUT_MD) print_trained(root);
    static const char *const step[] = {"step", "epoch", "loss", "ce", "kl", "lr", "grad_norm"};
    static const char *const heldout[] = {"acc", "nll", "ece"};
    enum { STEP = sizeof step / sizeof *step, HELDOUT = sizeof heldout / sizeof *heldout };
    table *t = table_new(output);
    for (size_t k = 0; k < STEP; k++) table_column(t, step[k]);
    for (size_t k = 0; k < HELDOUT; k++) {
        char name[32];
        snprintf(name, sizeof name, "heldout_%s", heldout[k]);
        table_column(t, name);
    }
    json_array_foreach(json_object_get(root, "history"), i, row) {
        const json_t *look = json_object_get(row, "heldout");
        if (output == OUTPUT_MD && !look) continue; /* the looks only: a line a step is for CSV */
        for (size_t k = 0; k < STEP; k++) table_value(t, row, step[k], !strcmp(step[k], "lr") ? 7 : 4);
        for (size_t k = 0; k < HELDOUT; k++) table_value(t, look, heldout[k], 4);
    }
    table_print(t);
}
