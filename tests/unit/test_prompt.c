/* test_prompt.c: the text of every format, lm-eval's split of context and continuation, and what is refused. The tiny
 * vocabulary has every byte, so decoding a prompt's ids gives its text back. */
#include "base/memory.h"
#include "base/status.h"
#include "io/prompt.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static vm_tokenizer *tokenizer;

static int open_tokenizer(void **state) {
    (void)state;
    char path[4096];
    vm_gguf *g;
    snprintf(path, sizeof path, "%s/golden/vocab_smollm.gguf",
             getenv("VMOER_TESTS") ? getenv("VMOER_TESTS") : VMOER_TESTS_DIR);
    if (vm_gguf_open(path, &g) != VMOER_OK || vm_tokenizer_open(g, &tokenizer) != VMOER_OK) return -1;
    vm_gguf_free(g);
    return 0;
}

static int close_tokenizer(void **state) {
    (void)state;
    vm_tokenizer_free(tokenizer);
    return 0;
}

static void assert_text(const int32_t *ids, int n, const char *expected) {
    char *text;
    size_t length;
    assert_int_equal(vm_tokenizer_decode(tokenizer, ids, (size_t)n, true, &text, &length), VMOER_OK);
    assert_string_equal(text, expected);
    vm_free(text);
}

/* The context and the continuations of the first two choices. */
static void assert_prompt(const char *task, const vm_item *item, vm_format format, const char *context,
                          const char *first, const char *second) {
    vm_prompt p;
    if (vm_prompt_build(tokenizer, task, item, format, &p) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_int_equal(p.n_choices, item->n_choices);
    assert_int_equal(p.start[0], p.n_context);
    assert_text(p.ids, p.n_context, context);
    assert_text(p.ids + p.start[0], p.start[1] - p.start[0], first);
    assert_text(p.ids + p.start[1], p.start[2] - p.start[1], second);
    for (int c = 0; c < p.n_choices; c++) assert_true(p.start[c + 1] > p.start[c]);
    vm_prompt_free(&p);
    assert_null(p.ids);
}

static const vm_item plants = {
    .id = "x", .stem = "What do plants need?", .n_choices = 4, .choices = {"light", "a café", "4 walls", "sleep"}};

static void test_our_formats(void **state) {
    (void)state;
    assert_prompt("openbookqa", &plants, VM_FORMAT_CLOZE, "Question: What do plants need?\nAnswer:", " light",
                  " a café");
    assert_prompt("any", &plants, VM_FORMAT_LETTER,
                  "Question: What do plants need?\nA. light\nB. a café\nC. 4 walls\nD. sleep\nAnswer:", " A", " B");
}

/* A to Z. */
static void test_letters(void **state) {
    (void)state;
    vm_item item = {.id = "x", .stem = "Which?", .n_choices = VM_MAX_CHOICES};
    for (int c = 0; c < VM_MAX_CHOICES; c++) item.choices[c] = "that";
    vm_prompt p;
    assert_int_equal(vm_prompt_build(tokenizer, "t", &item, VM_FORMAT_LETTER, &p), VMOER_OK);
    for (int c = 0; c < VM_MAX_CHOICES; c++) {
        const char expected[] = {' ', (char)('A' + c), '\0'};
        assert_text(p.ids + p.start[c], p.start[c + 1] - p.start[c], expected);
    }
    assert_text(p.ids + p.start[25], p.start[26] - p.start[25], " Z");
    vm_prompt_free(&p);
}

static void test_lm_eval_formats(void **state) {
    (void)state;
    assert_prompt("openbookqa", &plants, VM_FORMAT_LM_EVAL, "What do plants need?", " light", " a café");
    assert_prompt("arc_easy", &plants, VM_FORMAT_LM_EVAL, "Question: What do plants need?\nAnswer:", " light",
                  " a café");
    assert_prompt("arc_challenge", &plants, VM_FORMAT_LM_EVAL, "Question: What do plants need?\nAnswer:", " light",
                  " a café");
    assert_prompt("piqa", &plants, VM_FORMAT_LM_EVAL, "Question: What do plants need?\nAnswer:", " light", " a café");
    assert_prompt("social_iqa", &plants, VM_FORMAT_LM_EVAL, "Q: What do plants need?\nA:", " light", " a café");
    assert_prompt("medmcqa", &plants, VM_FORMAT_LM_EVAL,
                  "Question: What do plants need?\nChoices:\nA. light\nB. a café\nC. 4 walls\nD. sleep\nAnswer:", " A",
                  " B");
    vm_item wide = plants;
    wide.stem = "\n\x1c What do plants need?\xe3\x80\x80 ";
    assert_prompt("mmlu_professional_law", &wide, VM_FORMAT_LM_EVAL,
                  "The following are multiple choice questions (with answers) about professional law.\n\n"
                  "What do plants need?\nA. light\nB. a café\nC. 4 walls\nD. sleep\nAnswer:",
                  " A", " B");
}

/* lm-eval moves a context's trailing white space to the continuation. */
static void test_trailing_space(void **state) {
    (void)state;
    vm_item item = plants;
    item.stem = "Plants need \n";
    assert_prompt("openbookqa", &item, VM_FORMAT_LM_EVAL, "Plants need", " \n light", " \n a café");
}

/* The ids are those of the whole text, cut at the context's length; the context is the same for every choice. */
static void test_ids(void **state) {
    (void)state;
    vm_prompt p;
    vm_ids whole = {0};
    const char *text = "Question: What do plants need?\nAnswer: 4 walls";
    assert_int_equal(vm_prompt_build(tokenizer, "t", &plants, VM_FORMAT_CLOZE, &p), VMOER_OK);
    assert_int_equal(vm_tokenizer_encode(tokenizer, text, strlen(text), false, &whole), VMOER_OK);
    assert_int_equal(whole.count, p.n_context + p.start[3] - p.start[2]);
    assert_memory_equal(whole.ids, p.ids, (size_t)p.n_context * sizeof *p.ids);
    assert_memory_equal(whole.ids + p.n_context, p.ids + p.start[2], (size_t)(p.start[3] - p.start[2]) * sizeof *p.ids);
    const int chars[4] = {5, 6, 7, 5};
    assert_memory_equal(p.chars, chars, sizeof chars); /* characters, not bytes: acc_norm divides by Python's len() */
    vm_ids_free(&whole);
    vm_prompt_free(&p);
    assert_int_equal(vm_prompt_build(tokenizer, "t", &plants, VM_FORMAT_LETTER, &p), VMOER_OK);
    assert_int_equal(p.chars[2], 1);
    vm_prompt_free(&p);
}

/* Markup in a question is text, never a control token. */
static void test_no_injection(void **state) {
    (void)state;
    vm_item item = plants;
    vm_prompt p;
    item.stem = "What is <|im_end|>?";
    item.choices[0] = "<|im_start|>";
    assert_int_equal(vm_prompt_build(tokenizer, "t", &item, VM_FORMAT_CLOZE, &p), VMOER_OK);
    for (int i = 0; i < p.start[4]; i++) assert_false(vm_tokenizer_is_special(tokenizer, p.ids[i]));
    vm_prompt_free(&p);
}

static void test_refused(void **state) {
    (void)state;
    vm_prompt p;
    vm_item three = plants;
    three.n_choices = 3;
    assert_int_equal(vm_prompt_build(tokenizer, "medmcqa", &three, VM_FORMAT_LM_EVAL, &p), VMOER_ERROR_DATA);
    assert_int_equal(vm_prompt_build(tokenizer, "mmlu_virology", &three, VM_FORMAT_LM_EVAL, &p), VMOER_ERROR_DATA);
    assert_int_equal(vm_prompt_build(tokenizer, "arc_easy", &three, VM_FORMAT_LM_EVAL, &p), VMOER_OK);
    vm_prompt_free(&p);
    const char *const unknown[] = {"sciq", "file", "mmlu_", ""};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(vm_prompt_build(tokenizer, unknown[i], &plants, VM_FORMAT_LM_EVAL, &p),
                         VMOER_ERROR_UNSUPPORTED);
        assert_non_null(strstr(vm_error_text(), "lm-eval's prompt"));
        assert_null(p.ids);
    }
}

static void test_names(void **state) {
    (void)state;
    vm_format f;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(vm_format_parse(vm_format_name((vm_format)i), &f), VMOER_OK);
        assert_int_equal(f, i);
    }
    assert_string_equal(vm_format_name(VM_FORMAT_LM_EVAL), "lm-eval");
    assert_int_equal(vm_format_parse("lm_eval", &f), VMOER_ERROR_ARGUMENT);
    assert_non_null(strstr(vm_error_text(), "cloze"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_our_formats),    cmocka_unit_test(test_lm_eval_formats),
        cmocka_unit_test(test_trailing_space), cmocka_unit_test(test_ids),
        cmocka_unit_test(test_letters),        cmocka_unit_test(test_no_injection),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
