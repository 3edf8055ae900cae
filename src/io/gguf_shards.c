/* gguf_shards.c: a model in several GGUF files, as llama.cpp's gguf-split writes them. NAME-00001-of-0000N.gguf has all
 * keys; each file has split.no (from 0), split.count and split.tensors.count (of all), and of other keys only such as
 * the first has, too. The other files' names follow from the first's: nothing leads elsewhere. */
#include "base/memory.h"
#include "base/status.h"
#include "io/gguf_internal.h"

#include <stdio.h>
#include <string.h>

static const char key_no[] = "split.no", key_count[] = "split.count", key_tensors[] = "split.tensors.count",
                  prefix[] = "split.";
enum { MAX_SHARDS = 10000 };

typedef struct shards {
    vm_arena *arena; /* the lists */
    vm_gguf **files; /* [n], owned; the first is another's */
    size_t n;
} shards;

static void release(void *owned) {
    shards *s = owned;
    for (size_t i = 1; i < s->n; i++) vm_gguf_free(s->files[i]);
    vm_arena_free(s->arena);
    vm_free(s);
}

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "out of memory"); }

/* That s, shard `no`, is of the model whose first file is g. */
static vmoer_status check_shard(const vm_gguf *g, const vm_gguf *s, uint32_t no, uint32_t count) {
    uint32_t own_no, own_count;
    VM_TRY(vm_gguf_get_u32(s, key_no, &own_no));
    VM_TRY(vm_gguf_get_u32(s, key_count, &own_count));
    if (own_no != no || own_count != count)
        return vm_error(VMOER_ERROR_MISMATCH, "%s: says it is shard %u of %u, not %u of %u", vm_gguf_path(s),
                        own_no + 1, own_count, no + 1, count);
    for (size_t i = 0; i < vm_gguf_key_count(s); i++) {
        const char *key = vm_gguf_key_at(s, i);
        vm_gguf_type type, first_type;
        size_t size, first_size;
        if (strcmp(key, key_no) == 0) continue;
        const uint8_t *value = vm_gguf_raw_value(s, key, &type, &size),
                      *first = vm_gguf_raw_value(g, key, &first_type, &first_size);
        if (!first || type != first_type || size != first_size || memcmp(value, first, size) != 0)
            return vm_error(VMOER_ERROR_MISMATCH, "%s: key \"%.80s\" is not as in the first shard: of another model",
                            vm_gguf_path(s), key);
    }
    return VMOER_OK;
}

static vmoer_status open_others(shards *s, uint32_t count) {
    char path[4096], end[32];
    const char *first = vm_gguf_path(s->files[0]);
    size_t length = strlen(first), end_length = (size_t)snprintf(end, sizeof end, "-00001-of-%05u.gguf", count);
    if (length < end_length || strcmp(first + length - end_length, end) != 0)
        return vm_error(VMOER_ERROR_FORMAT, "%s is %u, so the file's name must end with %s", key_count, count, end);
    for (uint32_t no = 1; no < count; no++) {
        int n = snprintf(path, sizeof path, "%.*s-%05u-of-%05u.gguf", (int)(length - end_length), first, no + 1, count);
        if (n < 0 || (size_t)n >= sizeof path) return vm_error(VMOER_ERROR_LIMIT, "the path is too long");
        VM_TRY_IN(vm_gguf_open_file(path, &s->files[no]), "shard %u of %u", no + 1, count);
        s->n++;
        VM_TRY(check_shard(s->files[0], s->files[no], no, count));
    }
    return VMOER_OK;
}

static vmoer_status join(shards *s, uint32_t count) {
    vm_gguf *g = s->files[0];
    uint32_t claimed;
    size_t n = 0, at = 0, left;
    VM_TRY(open_others(s, count));
    VM_TRY(vm_gguf_get_u32(g, key_tensors, &claimed));
    for (size_t i = 0; i < s->n; i++) n += vm_gguf_tensor_count(s->files[i]);
    if (n != claimed)
        return vm_error(VMOER_ERROR_FORMAT, "%s is %u, the %u shards have %zu", key_tensors, claimed, count, n);
    vm_gguf_tensor *tensors = vm_arena_alloc(s->arena, n, sizeof *tensors);
    vm_gguf_piece *pieces = vm_arena_alloc(s->arena, 2 * s->n, sizeof *pieces);
    if (!tensors || !pieces) return no_memory();
    vm_gguf_whole whole = {.tensors = tensors, .n_tensors = n, .pieces = pieces, .owned = s, .release = release};
    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < vm_gguf_tensor_count(s->files[i]); k++)
            tensors[at++] = *vm_gguf_tensor_at(s->files[i], k);
        for (size_t offset = 0; offset < vm_gguf_file_size(s->files[i]); offset += left) {
            vm_gguf_piece piece = {.data = vm_gguf_bytes(s->files[i], offset, &left)};
            piece.size = left;
            if (i == 0 && offset == 0)
                whole.header = piece;
            else
                pieces[whole.n_pieces++] = piece;
        }
    }
    return vm_gguf_make_whole(g, &whole, prefix);
}

vmoer_status vm_gguf_join_shards(vm_gguf *g) {
    uint32_t count = 0, no;
    if (vm_gguf_has_key(g, key_count)) VM_TRY(vm_gguf_get_u32(g, key_count, &count));
    if (count < 2) return VMOER_OK;
    if (count > MAX_SHARDS)
        return vm_error(VMOER_ERROR_LIMIT, "%s is %u, at most %d are allowed", key_count, count, (int)MAX_SHARDS);
    VM_TRY(vm_gguf_get_u32(g, key_no, &no));
    if (no)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "shard %u of %u; open the first, whose name ends with -00001-of-%05u.gguf", no + 1, count,
                        count);
    shards *s = vm_calloc(1, sizeof *s);
    vm_arena *arena = vm_arena_create();
    if (s && arena) s->files = vm_arena_alloc(arena, count, sizeof(vm_gguf *));
    if (!s || !arena || !s->files) {
        vm_free(s);
        vm_arena_free(arena);
        return no_memory();
    }
    s->arena = arena;
    s->files[0] = g;
    s->n = 1;
    vmoer_status status = join(s, count);
    if (status != VMOER_OK) release(s);
    return status;
}
