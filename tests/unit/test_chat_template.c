/* test_chat_template.c: texts against jinja2's (tests/golden/chat.json, made by tools/golden_chat.py), what is refused
 * and how, and templates that would never end. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/chat_template.h"
#include "io/gguf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct tm now = {
    .tm_year = 125, .tm_mon = 2, .tm_mday = 7, .tm_hour = 9, .tm_min = 5, .tm_sec = 2, .tm_wday = 5, .tm_yday = 65};

static vmoer_status render(const char *template, size_t size, const json_t *variables, char **text, size_t *length) {
    vm_chat_template *t;
    vm_chat_text out = {NULL, NULL, 0};
    *text = NULL;
    VM_TRY(vm_chat_template_parse(template, size, &t));
    vmoer_status status = vm_chat_template_render(t, variables, &now, &out);
    vm_chat_template_free(t);
    vm_free(out.given);
    *text = out.text;
    *length = out.length;
    return status;
}

/* Jinja2 carries these out; chat_template.h says that we refuse them. */
static const char *const narrower[] = {"{{ d.items() }}", "{{ d.keys() }}", "{{ 1 is sameas true }}", "{{ {1: 2}[1] }}",
                                       NULL};

static bool is_narrower(const char *template) {
    for (size_t i = 0; narrower[i]; i++) {
        if (strcmp(narrower[i], template) == 0) return true;
    }
    return false;
}

static void test_golden(void **state) {
    (void)state;
    const char *root = getenv("VMOER_TESTS") ? getenv("VMOER_TESTS") : VMOER_TESTS_DIR;
    char path[4096];
    json_t *golden, *c;
    size_t i, same = 0, refused = 0;
    snprintf(path, sizeof path, "%s/golden/chat.json", root);
    assert_int_equal(vm_json_load(path, &golden), VMOER_OK);
    int wrong = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        const json_t *first = json_array_get(c, 0), *templates = json_object_get(golden, "templates");
        if (json_is_integer(first)) first = json_array_get(templates, (size_t)json_integer_value(first));
        const char *template = json_string_value(first);
        const json_t *want = json_array_get(c, 1), *own = json_array_get(c, 2);
        json_t *variables = json_copy(json_object_get(golden, "variables"));
        char *text;
        size_t length = 0;
        if (json_is_object(own)) json_object_update(variables, (json_t *)own);
        vmoer_status status = render(template, strlen(template), variables, &text, &length);
        if (is_narrower(template) ? status == VMOER_OK : (status == VMOER_OK) != json_is_string(want)) {
            print_error("case %zu: %s\n  %s\n", i, template, status == VMOER_OK ? "is not refused" : vm_error_text());
            wrong++;
        } else if (status == VMOER_OK &&
                   (length != json_string_length(want) || memcmp(text, json_string_value(want), length) != 0)) {
            print_error("case %zu: %s\n  gives  %s\n  wanted %s\n", i, template, text, json_string_value(want));
            wrong++;
        }
        if (status != VMOER_OK) assert_non_null(strstr(vm_error_text(), "line "));
        same += status == VMOER_OK;
        refused += status != VMOER_OK;
        vm_free(text);
        json_decref(variables);
    }
    json_decref(golden);
    assert_int_equal(wrong, 0);
    assert_true(same > 350 && refused > 60);
}

/* What is refused, and the line that says so. */
static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *template, *text;
        vmoer_status status;
    } cases[] = {
        {"a\n{% if x %}", "line 2: the template ends, elif else endif expected", VMOER_ERROR_FORMAT},
        {"\n\n{{ 'x }}", "line 3: a string without its end", VMOER_ERROR_FORMAT},
        {"{{ a b }}", "line 1: 'b', }} expected", VMOER_ERROR_FORMAT},
        {"{{ (1] }}", "line 1: a bracket that closes none", VMOER_ERROR_FORMAT},
        {"{% include 'x' %}", "line 1: the statement 'include' is not supported, or stands where none of that name can",
         VMOER_ERROR_UNSUPPORTED},
        {"x\n{{ x|nothing }}", "line 2: the filter 'nothing' is not supported", VMOER_ERROR_UNSUPPORTED},
        {"{{ x is nothing }}", "line 1: the test 'nothing' is not supported", VMOER_ERROR_UNSUPPORTED},
        {"{{ 'x'.encode() }}", "line 1: the method 'encode' of a string is not supported", VMOER_ERROR_UNSUPPORTED},
        {"{{ ''.__class__.__mro__ }}", "line 1: '__class__' is undefined: it has no '__mro__'", VMOER_ERROR_DATA},
        {"{{ [].append(1) }}", "line 1: the method 'append' of a list is not supported", VMOER_ERROR_UNSUPPORTED},
        {"{{ missing.x }}", "line 1: 'missing' is undefined: it has no 'x'", VMOER_ERROR_DATA},
        {"{{ 'a' + 1 }}", "line 1: a string + an integer is not possible", VMOER_ERROR_DATA},
        {"\n{{ raise_exception('no\nway') }}", "line 2: the template refuses: no?way", VMOER_ERROR_DATA},
        {"{{ 9223372036854775807 + 1 }}", "line 1: a number of more than 64 bits", VMOER_ERROR_LIMIT},
        {"{{ 9223372036854775808 }}", "line 1: 9223372036854775808 has more than 64 bits", VMOER_ERROR_LIMIT},
        {"{{ '\xc3\xa9'.upper() }}", "line 1: upper: '\xc3\xa9' is not ASCII", VMOER_ERROR_UNSUPPORTED},
        {"{{ strftime_now('%Q') }}", "line 1: strftime_now: '%Q' has a part that is not supported",
         VMOER_ERROR_UNSUPPORTED},
        {"{{ '\\ud800' }}", "line 1: an escape in a string that is no character", VMOER_ERROR_FORMAT},
        {"\xff", "byte 0 is not UTF-8", VMOER_ERROR_FORMAT},
        /* without an end, or too large */
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1: the template goes more than 400 levels deep",
         VMOER_ERROR_LIMIT},
        {"{% set x = 'x' * 10000000 %}{% for a in range(1000) %}{% if 'y' in x %}{% endif %}{% endfor %}",
         "the template takes more than 4000000 steps", VMOER_ERROR_LIMIT},
        {"{% set n = namespace(x='0123456789abcdef') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
         "line 1: the template's values take more than 128 MiB", VMOER_ERROR_LIMIT},
        {"{{ 'x' * 9223372036854775807 }}", "line 1: the template's values take more than 128 MiB", VMOER_ERROR_LIMIT},
        {"{% set x = 'x' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}",
         "line 1: the template's text takes more than 16 MiB", VMOER_ERROR_LIMIT},
        {"{% set n = namespace(x=[]) %}{% for a in range(1000) %}{% set n.x = [n.x] %}{% endfor %}",
         "line 1: a value more than 100 levels deep", VMOER_ERROR_LIMIT},
        {"{% set n = namespace(x=[1]) %}{% for a in range(90) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x == "
         "[n.x[0], n.x[1] + []] }}{{ n.x }}",
         "line 1: the template", VMOER_ERROR_LIMIT},
        {"{% set n = namespace() %}{% set n.x = n %}{{ n }}", "line 1: a namespace has no text",
         VMOER_ERROR_UNSUPPORTED},
    };
    json_t *variables = json_object();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        size_t length;
        vmoer_status status = render(cases[i].template, strlen(cases[i].template), variables, &text, &length);
        if (status != cases[i].status || !strstr(vm_error_text(), cases[i].text))
            fail_msg("%s: %d %s", cases[i].template, status, vm_error_text());
        assert_null(text);
    }
    json_decref(variables);
}

/* The same piece 100,000 times: brackets, signs, statements, operators. Refused or carried out, within the stack. */
static void test_deep(void **state) {
    (void)state;
    static const char *const pieces[] = {
        "(", "[", "-", "not ", "1+", "{'a':", "x.", "x[", "f(", "a if b else ", "x|", "1 is "};
    json_t *variables = json_object();
    char *template = malloc(3 << 20), *text;
    size_t length;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char *at = stpcpy(template, "{{ ");
        for (int n = 0; n < 60000; n++) at = stpcpy(at, pieces[i]);
        at = stpcpy(at, "1 }}");
        assert_int_not_equal(render(template, (size_t)(at - template), variables, &text, &length), VMOER_OK);
    }
    char *at = template;
    for (int n = 0; n < 50000; n++) at = stpcpy(at, "{% if x %}");
    assert_int_equal(render(template, (size_t)(at - template), variables, &text, &length), VMOER_ERROR_LIMIT);
    assert_string_equal(vm_error_text(), "line 1: more than 100 levels deep");
    at = template;
    for (int n = 0; n < 50000; n++) at = stpcpy(at, n ? "{% elif x %}y" : "{% if x %}");
    at = stpcpy(at, "{% else %}z{% endif %}"); /* as many branches as there may be bytes */
    assert_int_equal(render(template, (size_t)(at - template), variables, &text, &length), VMOER_OK);
    assert_string_equal(text, "z");
    vm_free(text);
    memset(template, ' ', (1 << 20) + 1);
    assert_int_equal(render(template, (1 << 20) + 1, variables, &text, &length), VMOER_ERROR_LIMIT);
    free(template);
    json_decref(variables);
}

/* The template of a real model, where there is one. */
static void test_model(void **state) {
    (void)state;
    const char *model = getenv("VMOER_MODEL"), *template;
    if (!model || !vm_file_exists(model)) skip();
    vm_gguf *g;
    size_t size, length;
    char *text;
    assert_int_equal(vm_gguf_open(model, &g), VMOER_OK);
    assert_int_equal(vm_gguf_get_string(g, "tokenizer.chat_template", &template, &size), VMOER_OK);
    json_t *variables =
        json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content", "Hi", "add_generation_prompt", 1);
    assert_int_equal(render(template, size, variables, &text, &length), VMOER_OK);
    assert_string_equal(
        text, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
              "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    vm_free(text);
    json_decref(variables);
    vm_gguf_free(g);
}

/* What came with the conversation is known wherever it goes: `want` has a # for each such byte, the template's
 * own bytes stand as they are. */
static void test_given(void **state) {
    (void)state;
    static const struct {
        const char *template, *want;
    } cases[] = {
        {"<a>{{ m.c }}</a>", "<a>#######</a>"}, /* " b<e>\n\"" */
        {"{{ '<' + m.role + '>' + m.c }}", "<user>#######"},
        {"{{ '<' ~ m.other ~ '>' }}", "<#####>"}, /* the text of a role, but not its name */
        {"{{ m.wild }}", "#####"},
        {"{{ bos_token }}{{ name }}", "<s>###"},
        {"{{ m.c|trim }}|{{ m.c.strip() }}|{{ m.c|upper }}", "######|######|#######"},
        {"{{ m.c[1:3] }}{{ m.c[1] }}{{ m.c[::-1]|length }}{{ m.c[::-1][:2] }}", "###7##"},
        {"{{ m.c|replace('b', '-') }}", "#-#####"},
        {"{{ 'a.b'|replace('.', m.role + m.c) }}", "auser#######b"},
        {"{{ 'x<e>y'.split('<e>')|join(m.c) }}", "x#######y"},
        {"{{ m.c.split('<')|join('-') }}", "##-####"},
        {"{{ m.c|tojson }}", "\"#####\\n\\\"\""},
        {"{{ m.l }}", "['##', '#', 3]"},
        {"{{ m.l|join(', ') }}{{ m.l|first }}{{ m.l|length }}", "##, #, 3##3"},
        {"{% for k, v in m.d.items() %}{{ k }}={{ v }};{% endfor %}", "#=##;"},
        {"{% for c in name %}[{{ c }}]{% endfor %}", "[#][#][#]"},
        {"{% set x = '<' ~ name %}{% set y %}{{ x }}>{% endset %}{{ y }}{{ y|length }}", "<###>5"},
        {"{% macro f(a) %}({{ a }}){% endmacro %}{{ f(name) }}{{ f('own') }}", "(###)(own)"},
        {"{{ name * 2 }}{{ 'ab' * 2 }}", "######abab"},
        {"{{ (name if m else '') ~ (nothing|default(name)) }}", "######"},
        {"{{ name|title }}{{ name|capitalize }}{{ name|string }}", "#########"},
        {"{{ [name, 'own']|last }}{{ {'k': name}.k }}{{ namespace(a=name).a }}", "own######"},
    };
    static const char variables[] =
        "{\"bos_token\": \"<s>\", \"name\": \"bob\", \"m\": {\"role\": \"user\", \"other\": \"user2\", \"c\": "
        "\" b<e>\\n\\\"\", \"wild\": \"<|e|>\", \"l\": [\"ab\", \"c\", 3], \"d\": {\"k\": \"vw\"}}}";
    json_t *all;
    assert_int_equal(vm_json_parse(variables, sizeof variables - 1, "variables", &all), VMOER_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vm_chat_template *t;
        vm_chat_text out;
        assert_int_equal(vm_chat_template_parse(cases[i].template, strlen(cases[i].template), &t), VMOER_OK);
        if (vm_chat_template_render(t, all, &now, &out) != VMOER_OK)
            fail_msg("%s: %s", cases[i].template, vm_error_text());
        for (size_t k = 0; k < out.length; k++) {
            assert_true(out.given[k] == 0 || out.given[k] == 1);
            if (out.given[k]) out.text[k] = '#';
        }
        if (strcmp(out.text, cases[i].want) != 0)
            fail_msg("%s: %s, not %s", cases[i].template, out.text, cases[i].want);
        vm_chat_text_free(&out);
        vm_chat_template_free(t);
    }
    json_decref(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_given), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_deep),   cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
