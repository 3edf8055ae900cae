/* model.c: the first two rungs of the public ladder: load, ask, free; and tokens. */
#include "api/internal.h"

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "base/utf8.h"
#include "infer/conversation.h"
#include "io/safetensors.h"
#include "report/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

vmoer_status vmoer_model_load(const char *path, const vmoer_model_params *params, vmoer_model **out) {
    vmoer_model *m = vm_calloc(1, sizeof *m);
    if (!m) return vm_error(VMOER_ERROR_MEMORY, "no memory for a model");
    vmoer_model_params defaults = vmoer_model_params_default();
    vmoer_status status = vm_api_session_open(path, params ? params : &defaults, &m->session);
    if (status != VMOER_OK)
        vm_free(m);
    else
        *out = m;
    return status;
}

void vmoer_model_free(vmoer_model *m) {
    if (!m) return;
    vm_generation_free(m->generation);
    vm_session_free(m->session);
    vm_free(m);
}

vmoer_status vmoer_ask(vmoer_model *m, const char *question, const char *const *choices, int n_choices,
                       vmoer_answer *out) {
    if (n_choices < 2 || n_choices > VMOER_MAX_CHOICES)
        return vm_error(VMOER_ERROR_ARGUMENT, "%d choices, must be 2 to %d", n_choices, VMOER_MAX_CHOICES);
    vm_item item = {.id = "question", .stem = question, .n_choices = n_choices};
    vm_prompt prompt;
    vm_answer a;
    for (int c = 0; c < n_choices; c++) item.choices[c] = choices[c];
    VM_TRY(vm_prompt_build(m->session->tokenizer, "question", &item, VM_FORMAT_CLOZE, &prompt));
    vm_question q = {&prompt, 0};
    vmoer_status status = vm_session_answer(m->session, &q, 1, VM_FORMAT_CLOZE, &a);
    vm_prompt_free(&prompt);
    VM_TRY(status);
    *out = (vmoer_answer){.n_choices = n_choices,
                          .choice_entropy = a.choice_entropy,
                          .expected_entropy = a.expected_entropy,
                          .mutual_information = a.mutual_information,
                          .vocabulary_entropy = a.vocabulary_entropy,
                          .gate_entropy = a.gate_entropy,
                          .logit_variance = a.logit_variance,
                          .logit_variance_projected = a.logit_variance_projected,
                          .routing_temperature = a.routing_temperature,
                          .question_tokens = a.length};
    for (int c = 0; c < n_choices; c++) {
        out->probability[c] = a.probability[c];
        if (a.probability[c] > a.probability[out->best]) out->best = c;
    }
    out->confidence = out->probability[out->best];
    return VMOER_OK;
}

/* ---- tokens ---- */

static vmoer_status open_model_tokenizer(const char *path, vm_gguf **g, vm_tokenizer **t) {
    if (!path) return vm_error(VMOER_ERROR_ARGUMENT, "no model given (-m FILE.gguf)");
    VM_TRY(vm_gguf_open(path, g));
    vmoer_status status = vm_tokenizer_open(*g, t);
    if (status == VMOER_OK) return VMOER_OK;
    vm_gguf_free(*g);
    return vm_error_in(status, "%s", path);
}

/* Of a model, or of a tokenizer.json. */
static vmoer_status open_tokenizer(const char *path, vm_tokenizer **t) {
    if (!path || !vm_ends_with(path, ".json")) {
        vm_gguf *g;
        VM_TRY(open_model_tokenizer(path, &g, t));
        vm_gguf_free(g);
        return VMOER_OK;
    }
    json_t *root;
    VM_TRY(vm_json_load(path, &root));
    vmoer_status status = vm_tokenizer_from_json(root, t);
    json_decref(root);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", path);
}

static json_t *pieces_of(const vm_tokenizer *t, const vm_ids *ids) {
    json_t *list = json_array(), *pieces = json_array();
    for (size_t i = 0; i < ids->count; i++) {
        json_array_append_new(list, json_integer(ids->ids[i]));
        json_array_append_new(pieces, json_string(vm_tokenizer_piece(t, ids->ids[i])));
    }
    return json_pack("{s:o, s:o}", "ids", list, "pieces", pieces);
}

vmoer_status vmoer_tokenize(const char *path, const char *text, size_t length, int parse_special, char **out_json) {
    vm_tokenizer *t;
    vm_ids ids = {NULL, 0, 0};
    VM_TRY(open_tokenizer(path, &t));
    vmoer_status status = vm_tokenizer_encode(t, text, length, parse_special, &ids);
    if (status == VMOER_OK) status = vm_api_return_json(pieces_of(t, &ids), out_json);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
    return status;
}

vmoer_status vmoer_tokenize_chat(const char *path, const char *messages_path, int add_generation_prompt,
                                 char **out_json) {
    vm_gguf *g;
    vm_tokenizer *t;
    vm_ids ids = {NULL, 0, 0};
    json_t *messages, *tokens;
    char *text;
    size_t length;
    VM_TRY(vm_json_load(messages_path, &messages));
    vmoer_status status = vm_conversation_check(messages);
    if (status != VMOER_OK) vm_error_in(status, "%s", messages_path);
    if (status == VMOER_OK) status = open_model_tokenizer(path, &g, &t);
    if (status == VMOER_OK) {
        status = vm_conversation_tokens(g, t, messages, add_generation_prompt != 0, &text, &length, &ids);
        if (status == VMOER_OK) {
            tokens = pieces_of(t, &ids);
            json_object_set_new(tokens, "text", json_stringn(text, length));
            status = vm_api_return_json(tokens, out_json);
            vm_free(text);
        } else {
            vm_error_in(status, "%s", path);
        }
        vm_tokenizer_free(t);
        vm_gguf_free(g);
    }
    vm_ids_free(&ids);
    json_decref(messages);
    return status;
}

vmoer_status vmoer_detokenize(const char *path, const int32_t *ids, size_t count, char **out_text) {
    vm_tokenizer *t;
    char *text;
    size_t length;
    VM_TRY(open_tokenizer(path, &t));
    vmoer_status status = vm_tokenizer_decode(t, ids, count, true, &text, &length);
    if (status == VMOER_OK) {
        *out_text = malloc(length + 1); /* the caller's vmoer_free is free() */
        if (*out_text)
            memcpy(*out_text, text, length + 1);
        else
            status = vm_error(VMOER_ERROR_MEMORY, "no memory for %zu bytes of text", length);
        vm_free(text);
    }
    vm_tokenizer_free(t);
    return status;
}

/* ---- logits for other engines to compare with ---- */

static vmoer_status last_logits(vmoer_model *m, const int32_t *ids, int length, float *logits) {
    vm_arena *arena = vm_arena_create();
    vm_batch b;
    if (!arena) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d tokens", length);
    vmoer_status status = vm_sequence_build(arena, ids, length, 0, &b);
    if (status == VMOER_OK) status = vm_pass_forward(m->session->pass, &b, &m->session->options, NULL, NULL, logits);
    vm_arena_free(arena);
    return status;
}

vmoer_status vmoer_dump_logits(vmoer_model *m, const int32_t *ids, const int32_t *offsets, int n,
                               const char *out_path) {
    size_t V = (size_t)m->session->model->config.n_vocab;
    if (n < 1) return vm_error(VMOER_ERROR_ARGUMENT, "%d prompts, must be 1 or more", n);
    float *logits = vm_malloc((size_t)n * V, sizeof *logits);
    vm_st_writer *w = vm_st_writer_create();
    vmoer_status status =
        logits && w ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for the logits of %d prompts", n);
    for (int i = 0; i < n && status == VMOER_OK; i++) {
        if (offsets[i + 1] <= offsets[i])
            status = vm_error(VMOER_ERROR_ARGUMENT, "prompt %d is empty", i);
        else
            status = last_logits(m, ids + offsets[i], offsets[i + 1] - offsets[i], logits + (size_t)i * V);
    }
    if (status == VMOER_OK) status = vm_st_writer_raw(w, "ids", "I32", 4, 1, (int64_t[]){offsets[n]}, ids);
    if (status == VMOER_OK) status = vm_st_writer_raw(w, "offsets", "I32", 4, 1, (int64_t[]){n + 1}, offsets);
    if (status == VMOER_OK) status = vm_st_writer_f32(w, "logits", "F32", 2, (int64_t[]){n, (int64_t)V}, logits);
    if (status == VMOER_OK) status = vm_st_writer_save(w, out_path);
    vm_st_writer_free(w);
    vm_free(logits);
    return status;
}

vmoer_status vmoer_report(const char *folder, const char *output_path, const char *title, const vmoer_hooks *hooks) {
    return vm_report_write(folder, output_path, title, hooks);
}
