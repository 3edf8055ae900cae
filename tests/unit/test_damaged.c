/* test_damaged.c: a model's file cut off at every byte of its header, and with other values at every byte: what is
 * still accepted computes, what is refused is refused with a line that names the file; and neither takes more than 64
 * MiB beyond the file's size, which the kernel holds us to. Every byte is visited, of its 256 values every n-th; with
 * VMOER_TEST_EVERY=1 all (docs/HOSTILE.md has how long it takes). */
#include "base/file.h"
#include "io/tokenizer.h"
#include "model_fixture.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

enum { MEMORY = 64 << 20 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LIMITED = 0 }; /* the sanitizers' own memory is no address space to speak of */
#else
enum { LIMITED = 1 };
#endif

/* A copy of a model whose file `fd` is damaged again and again. */
typedef struct victim {
    char path[4096], file[4096]; /* of the model; of its file: the same, or in the folder */
    int fd;
    uint8_t *bytes; /* [size], as they were */
    size_t size, header;
    struct rlimit before;
    int accepted, refused;
    double longest; /* seconds of CPU for one load */
} victim;

static uint8_t *read_whole(const char *path, size_t *size) {
    vm_map map;
    OK(vm_map_open(path, &map));
    uint8_t *bytes = vm_malloc(map.size, 1);
    assert_non_null(bytes);
    memcpy(bytes, map.data, map.size);
    *size = map.size;
    vm_map_close(&map);
    return bytes;
}

static void limit_memory(victim *v) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_true(f && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    assert_int_equal(getrlimit(RLIMIT_AS, &v->before), 0);
    struct rlimit most = v->before;
    most.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + MEMORY + v->size;
    if (LIMITED) assert_int_equal(setrlimit(RLIMIT_AS, &most), 0);
}

/* `original`: the file that is copied. */
static void open_victim(victim *v, const char *original) {
    v->bytes = read_whole(original, &v->size);
    v->fd = open(v->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(v->fd >= 0);
    assert_int_equal(pwrite(v->fd, v->bytes, v->size, 0), (ssize_t)v->size);
    limit_memory(v);
}

static void close_victim(victim *v, const char *name) {
    setrlimit(RLIMIT_AS, &v->before);
    close(v->fd);
    unlink(v->file);
    vm_free(v->bytes);
    print_message("%s, header of %zu bytes: %d accepted, %d refused, at most %.1f ms\n", name, v->header, v->accepted,
                  v->refused, 1e3 * v->longest);
}

/* Everything a model is asked for: its tokens, its weights, a pass. */
static vmoer_status use(const char *path) {
    vm_gguf *g;
    vm_tokenizer *t = NULL;
    vm_ids ids = {0};
    vm_model *m;
    VM_TRY(vm_gguf_open(path, &g));
    vmoer_status status = vm_tokenizer_open(g, &t);
    if (status == VMOER_OK) status = vm_tokenizer_encode(t, "abab", 4, true, &ids);
    vm_ids_free(&ids);
    vm_tokenizer_free(t);
    vm_gguf_free(g);
    VM_TRY_IN(status, "%s", path);
    VM_TRY(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    vm_pass *pass = NULL;
    vm_batch b;
    vm_arena *arena = vm_arena_create();
    float *logits = vm_malloc(2 * (size_t)m->config.n_vocab, sizeof *logits);
    int last = m->config.n_vocab - 1;
    status = vm_sequence_build(arena, (int32_t[]){0, last}, 2, 0, &b);
    if (status == VMOER_OK) status = vm_pass_create(m, NULL, &pass);
    if (status == VMOER_OK) status = vm_pass_forward(pass, &b, &(vm_pass_options){.sign = 1}, NULL, NULL, logits);
    vm_pass_free(pass);
    vm_free(logits);
    vm_arena_free(arena);
    vm_model_free(m);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", path);
}

static vmoer_status visit(victim *v) {
    clock_t begin = clock();
    vmoer_status status = use(v->path);
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    if (seconds > v->longest) v->longest = seconds;
    if (status == VMOER_OK) {
        v->accepted++;
        return status;
    }
    v->refused++;
    size_t named = strlen(v->path);
    const char *text = vm_error_text();
    if (status == VMOER_ERROR_MEMORY || strstr(text, "memory")) fail_msg("more memory than there is: %s", text);
    if (strncmp(text, v->path, named) != 0 || strlen(text) < named + 10) fail_msg("not clear: %s", text);
    return status;
}

static void truncate_everywhere(victim *v) {
    for (size_t size = v->header + 1; size-- > 0;) {
        assert_int_equal(ftruncate(v->fd, (off_t)size), 0);
        if (visit(v) == VMOER_OK) fail_msg("accepted when cut to %zu of %zu bytes", size, v->size);
    }
    assert_int_equal(pwrite(v->fd, v->bytes, v->size, 0), (ssize_t)v->size);
    if (visit(v) != VMOER_OK) fail_msg("the whole file: %s", vm_error_text());
}

/* `every`: of the 256 values one in so many. */
static void change_everywhere(victim *v, size_t every) {
    if (getenv("VMOER_TEST_EVERY")) every = 1;
    for (size_t at = 0; at < v->header; at++) {
        for (size_t value = at % every; value < 256; value += every) {
            assert_int_equal(pwrite(v->fd, &(uint8_t){(uint8_t)value}, 1, (off_t)at), 1);
            visit(v);
        }
        assert_int_equal(pwrite(v->fd, v->bytes + at, 1, (off_t)at), 1);
    }
    assert_true(v->accepted > 0 && v->refused > v->accepted);
}

static void damage_gguf(const char *original, size_t every) {
    victim v = {.fd = -1};
    vm_gguf *g;
    OK(vm_gguf_open(original, &g));
    v.header = vm_gguf_header_size(g);
    vm_gguf_free(g);
    snprintf(v.file, sizeof v.file, "%s", scratch_path("damaged.gguf"));
    snprintf(v.path, sizeof v.path, "%s", v.file);
    open_victim(&v, original);
    truncate_everywhere(&v);
    change_everywhere(&v, every);
    close_victim(&v, strrchr(original, '/') + 1);
}

/* The smallest model: 1.5 KB of header and four tokens. */
static void test_smallest(void **state) {
    (void)state;
    damage_gguf(golden_path("../bad/gguf/good.gguf"), 4);
}

static void test_gguf(void **state) {
    (void)state;
    damage_gguf(golden_path("tiny-moe-neutral.gguf"), 64);
}

/* A folder of links to the golden one's files, but for the weights. */
static void test_folder(void **state) {
    (void)state;
    static const char *const files[] = {"config.json", "tokenizer.json", "generation_config.json"};
    victim v = {.fd = -1};
    char link_path[4200], original[4096];
    uint64_t header;
    snprintf(v.path, sizeof v.path, "%s", scratch_path("damaged-folder"));
    assert_int_equal(mkdir(v.path, 0700), 0);
    snprintf(v.file, sizeof v.file, "%.4000s/model.safetensors", v.path);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(link_path, sizeof link_path, "%s/%s", v.path, files[i]);
        snprintf(original, sizeof original, "%s/%s", golden_path("tiny-moe-noshared-folder"), files[i]);
        assert_int_equal(symlink(original, link_path), 0);
    }
    open_victim(&v, golden_path("tiny-moe-noshared-folder/model.safetensors"));
    memcpy(&header, v.bytes, 8);
    v.header = 8 + (size_t)header;
    truncate_everywhere(&v);
    change_everywhere(&v, 32);
    close_victim(&v, "tiny-moe-noshared-folder/model.safetensors");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(link_path, sizeof link_path, "%s/%s", v.path, files[i]);
        unlink(link_path);
    }
    rmdir(v.path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_smallest), cmocka_unit_test(test_gguf),
                                       cmocka_unit_test(test_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
