/* test_gguf_shards.c: a golden model cut into shards as gguf-split does it, read as the whole; and shards that are not
 * one model's. */
#include "model_fixture.h"

enum { SHARDS = 3 };

static const char *shard_path(int no) {
    char name[64];
    snprintf(name, sizeof name, "cut-%05d-of-%05d.gguf", no + 1, SHARDS);
    return scratch_path(name);
}

/* What is wrong with one shard; -1 and NULL: nothing. */
typedef struct wrong {
    int shard;
    uint32_t no, count; /* else its own */
    const char *key;    /* one more key */
    const char *text;   /* its value */
    bool fewer;         /* one tensor less */
    bool missing;
} wrong;

/* The tensors of tiny-llama in turn. */
static void cut(const wrong *w) {
    vm_gguf *g;
    OK(vm_gguf_open(golden_path("tiny-llama.gguf"), &g));
    uint32_t total = (uint32_t)vm_gguf_tensor_count(g);
    for (int no = 0; no < SHARDS; no++) {
        bool is = no == w->shard;
        vm_gguf_writer *out = vm_gguf_writer_create();
        unlink(shard_path(no));
        if (no == 0) OK(vm_gguf_writer_copy_keys(out, g, ""));
        OK(vm_gguf_writer_u32(out, "split.no", is && w->no ? w->no : (uint32_t)no));
        OK(vm_gguf_writer_u32(out, "split.count", is && w->count ? w->count : SHARDS));
        OK(vm_gguf_writer_u32(out, "split.tensors.count", total));
        if (is && w->key) OK(vm_gguf_writer_string(out, w->key, w->text));
        for (uint32_t i = (uint32_t)no; i < total; i += SHARDS)
            if (!(is && w->fewer && i == (uint32_t)no)) OK(vm_gguf_writer_copy(out, vm_gguf_tensor_at(g, i)));
        if (!(is && w->missing)) OK(vm_gguf_writer_save(out, shard_path(no)));
        vm_gguf_writer_free(out);
    }
    vm_gguf_free(g);
}

static void test_whole(void **state) {
    (void)state;
    vm_gguf *one, *cut_up;
    cut(&(wrong){.shard = -1});
    OK(vm_gguf_open(golden_path("tiny-llama.gguf"), &one));
    OK(vm_gguf_open(shard_path(0), &cut_up));
    assert_int_equal(vm_gguf_tensor_count(one), vm_gguf_tensor_count(cut_up));
    for (size_t i = 0; i < vm_gguf_tensor_count(one); i++) {
        const vm_gguf_tensor *a = vm_gguf_tensor_at(one, i), *b = vm_gguf_find_tensor(cut_up, a->name);
        assert_non_null(b);
        assert_int_equal(a->size, b->size);
        assert_memory_equal(a->data, b->data, a->size);
    }
    assert_int_equal(vm_gguf_key_count(one), vm_gguf_key_count(cut_up));
    assert_false(vm_gguf_has_key(cut_up, "split.count"));
    assert_true(vm_gguf_has_key(cut_up, "llama.block_count"));
    size_t n = 0, left;
    while (vm_gguf_bytes(cut_up, n, &left)) n += left;
    assert_int_equal(n, vm_gguf_file_size(cut_up));
    char fingerprints[2][65];
    vm_model_fingerprint(one, fingerprints[0]);
    vm_model_fingerprint(cut_up, fingerprints[1]);
    assert_string_not_equal(fingerprints[0], fingerprints[1]);
    vm_gguf_free(one);
    vm_gguf_free(cut_up);
    vm_model *m;
    OK(vm_model_load(shard_path(0), &(vm_model_options){.backward_from = -1}, NULL, &m));
    vm_model_free(m);
}

static void refused(int opened, vmoer_status code, const char *says) {
    vm_gguf *g;
    vmoer_status status = vm_gguf_open(shard_path(opened), &g);
    assert_null(g);
    if (status != code || !strstr(vm_error_text(), says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, status, vm_error_text());
}

static void test_refused(void **state) {
    (void)state;
    cut(&(wrong){.shard = -1});
    refused(1, VMOER_ERROR_ARGUMENT, "shard 2 of 3; open the first");
    static const struct {
        wrong w;
        vmoer_status code;
        const char *says;
    } all[] = {
        {{.shard = 1, .missing = true}, VMOER_ERROR_IO, "cut-00002-of-00003.gguf: cannot open"},
        {{.shard = 1, .no = 2}, VMOER_ERROR_MISMATCH, "cut-00002-of-00003.gguf: says it is shard 3 of 3, not 2 of 3"},
        {{.shard = 2, .count = 4}, VMOER_ERROR_MISMATCH, "says it is shard 3 of 4, not 3 of 3"},
        {{.shard = 0, .count = 4},
         VMOER_ERROR_FORMAT,
         "split.count is 4, so the file's name must end with -00001-of-00004.gguf"},
        {{.shard = 0, .count = 10001}, VMOER_ERROR_LIMIT, "split.count is 10001"},
        {{.shard = 1, .key = "general.name", .text = "another"},
         VMOER_ERROR_MISMATCH,
         "key \"general.name\" is not as in the first"},
        {{.shard = 1, .key = "llama.new", .text = "x"},
         VMOER_ERROR_MISMATCH,
         "key \"llama.new\" is not as in the first"},
        {{.shard = 1, .fewer = true}, VMOER_ERROR_FORMAT, "split.tensors.count is 29, the 3 shards have 28"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        cut(&all[i].w);
        refused(0, all[i].code, all[i].says);
    }
}

static int clean(void **state) {
    (void)state;
    for (int no = 0; no < SHARDS; no++) unlink(shard_path(no));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, clean);
}
