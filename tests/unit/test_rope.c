/* test_rope.c: the frequencies of scaled rotary positions are those of transformers (tests/golden/rope.json). */
#include "base/json.h"
#include "base/rope.h"
#include "model_fixture.h"

static double number(const json_t *c, const char *key) {
    const json_t *value = json_object_get(c, key);
    if (!json_is_number(value)) fail_msg("golden %s is missing", key);
    return json_number_value(value);
}

static vm_rope_scaling scaling_of(const char *type) {
    static const char *const types[] = {
        [VM_ROPE_LINEAR] = "linear", [VM_ROPE_DYNAMIC] = "dynamic", [VM_ROPE_YARN] = "yarn"};
    for (int i = VM_ROPE_LINEAR; i <= VM_ROPE_YARN; i++)
        if (strcmp(type, types[i]) == 0) return (vm_rope_scaling)i;
    return VM_ROPE_NONE;
}

static void check_case(const json_t *c) {
    int head = (int)number(c, "head"), context = (int)number(c, "context");
    const char *type = json_string_value(json_object_get(c, "type"));
    vm_rope r = {.scaling = scaling_of(type),
                 .base = (float)number(c, "base"),
                 .factor = (float)number(c, "factor"),
                 .original = (int)number(c, "original"),
                 .beta_fast = (float)number(c, "beta_fast"),
                 .beta_slow = (float)number(c, "beta_slow"),
                 .whole = json_is_true(json_object_get(c, "whole")),
                 .attention = 1};
    /* transformers has the whole of what cos and sin are multiplied by, where it is given. */
    if (number(c, "attention") != 0)
        r.attention = (float)(number(c, "attention") / (1 + 0.1 * log(number(c, "factor"))));
    float frequencies[64], factors[64], scale;
    vm_rope_frequencies(&r, head, context, frequencies, &scale);
    if (strcmp(type, "llama3") == 0) {
        vm_rope_llama3_factors(r.base, head, r.factor, (float)number(c, "low"), (float)number(c, "high"), r.original,
                               factors);
        for (int i = 0; i < head / 2; i++) frequencies[i] /= factors[i];
    }
    assert_float_equal(scale, number(c, "scale"), 1e-6);
    const json_t *golden = json_object_get(c, "frequencies");
    assert_int_equal(json_array_size(golden), head / 2);
    for (int i = 0; i < head / 2; i++) {
        double expected = json_number_value(json_array_get(golden, (size_t)i));
        if (!(fabs((double)frequencies[i] - expected) <= 2e-6 * expected))
            fail_msg("%s, head %d, factor %g: frequency %d is %.9g, expected %.9g", type, head, (double)r.factor, i,
                     (double)frequencies[i], expected);
    }
}

static void test_golden(void **state) {
    (void)state;
    json_t *cases;
    OK(vm_json_load(golden_path("rope.json"), &cases));
    assert_int_equal(json_array_size(cases), 13);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
    json_decref(cases);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
