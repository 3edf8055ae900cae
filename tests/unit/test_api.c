/* test_api.c: what the jobs of src/api share, where it can be seen without a model. */
#include "api/internal.h"
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Settings as long as a file's record of them may be, and one byte more. */
static void test_training_text(void **state) {
    (void)state;
    static char value[VM_TRAINING_TEXT];
    char text[VM_TRAINING_TEXT];
    size_t frame = strlen("{\"tasks\":\"\"}");
    memset(value, 'a', VM_TRAINING_TEXT - 1 - frame);
    json_t *config = json_pack("{s:s}", "tasks", value);
    if (vm_api_training_text(config, text) != VMOER_OK) fail_msg("%s", vm_error_text());
    assert_int_equal(strlen(text), VM_TRAINING_TEXT - 1);
    json_t *back = json_loads(text, 0, NULL);
    assert_true(json_equal(config, back));
    json_decref(back);
    json_decref(config);
    value[VM_TRAINING_TEXT - 1 - frame] = 'a';
    config = json_pack("{s:s}", "tasks", value);
    assert_int_equal(vm_api_training_text(config, text), VMOER_ERROR_LIMIT);
    assert_non_null(strstr(vm_error_text(), "4096 bytes"));
    json_decref(config);
    assert_int_equal(vm_api_training_text(NULL, text), VMOER_ERROR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_training_text)};
    return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
