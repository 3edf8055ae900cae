/* hf_folder.c: the files of a folder, and the tensors in them under GGUF's names. Every tensor of the folder must be
 * one that the model's table knows: what would be left over would be left out of the arithmetic. */
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/utf8.h"
#include "io/halves.h"
#include "io/hf_internal.h"
#include "io/safetensors.h"
#include "io/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SHARDS = 10000,
    MAX_JSON = 256 << 20, /* of a file; a vocabulary of 200,000 tokens takes 28 MB */
    MAX_MODEL_NAME = 127
};

/* A tensor of the folder, and whether the table had use for it. */
typedef struct stored {
    const char *name; /* the tensor's */
    const vm_st_tensor *tensor;
    const char *file;
    bool used;
} stored;

struct vm_hf_folder {
    vm_arena *arena; /* all of the lists below */
    const char *path;
    const vm_hf_file *memory; /* [n_memory] instead of files on disk; NULL: on disk */
    size_t n_memory;
    vm_map *maps; /* [n_maps], owned: files that stay open */
    size_t n_maps, map_capacity;
    vm_safetensors **shards; /* [n_shards], owned */
    vm_gguf_piece *pieces;   /* [n_shards] their bytes */
    size_t n_shards;
    uint8_t *keys; /* owned: a GGUF without tensors */
    size_t keys_size;
    stored *tensors; /* [n_tensors] by name */
    size_t n_tensors;
    /* While it is opened: */
    const vm_hf_arch *arch;
    json_t *config; /* owned */
    vm_gguf *g;
    vm_gguf_tensor *made; /* owned, [n_made] */
    size_t n_made, made_capacity;
};

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "out of memory"); }

static void release(void *owned) {
    vm_hf_folder *f = owned;
    for (size_t i = 0; i < f->n_shards; i++) vm_safetensors_free(f->shards[i]);
    for (size_t i = 0; i < f->n_maps; i++) vm_map_close(&f->maps[i]);
    vm_free(f->maps);
    vm_free(f->keys);
    vm_free(f->made);
    json_decref(f->config);
    vm_arena_free(f->arena);
    vm_free(f);
}

const vm_hf_folder *vm_hf_folder_of(const vm_gguf *g) { return vm_gguf_owned(g, release); }

/* ---- files ---- */

/* map: to close in any case. out->data NULL, without an error: there is no such file. */
static vmoer_status open_file(const vm_hf_folder *f, const char *name, vm_map *map, vm_gguf_piece *out) {
    char path[4096];
    *map = (vm_map){0};
    *out = (vm_gguf_piece){0};
    for (size_t i = 0; f->memory && i < f->n_memory; i++)
        if (strcmp(f->memory[i].name, name) == 0) *out = (vm_gguf_piece){f->memory[i].data, f->memory[i].size};
    if (f->memory) return VMOER_OK;
    VM_TRY(vm_path_join(path, sizeof path, f->path, name));
    if (!vm_file_exists(path)) return VMOER_OK;
    VM_TRY(vm_map_open(path, map));
    *out = (vm_gguf_piece){map->size ? map->data : (const uint8_t *)"", map->size};
    return VMOER_OK;
}

/* The same, open as long as the folder. */
static vmoer_status keep_file(vm_hf_folder *f, const char *name, vm_gguf_piece *out) {
    if (!vm_grow((void **)&f->maps, &f->map_capacity, f->n_maps + 1, sizeof *f->maps)) return no_memory();
    return open_file(f, name, &f->maps[f->n_maps++], out);
}

typedef vmoer_status json_parser(const char *text, size_t size, const char *where, json_t **out);

static vmoer_status parse(const char *name, vm_gguf_piece file, json_parser *parser, json_t **out) {
    if (file.size > MAX_JSON)
        return vm_error(VMOER_ERROR_LIMIT, "%s: %zu bytes, at most %d are allowed", name, file.size, (int)MAX_JSON);
    VM_TRY(parser((const char *)file.data, file.size, name, out));
    if (json_is_object(*out)) return VMOER_OK;
    json_decref(*out);
    *out = NULL;
    return vm_error(VMOER_ERROR_FORMAT, "%s: not an object", name);
}

static vmoer_status load(const vm_hf_folder *f, const char *name, json_parser *parser, json_t **out) {
    vm_map map;
    vm_gguf_piece file;
    *out = NULL;
    VM_TRY(open_file(f, name, &map, &file));
    vmoer_status status = file.data ? parse(name, file, parser, out) : VMOER_OK;
    vm_map_close(&map);
    return status;
}

vmoer_status vm_hf_json(const vm_hf_folder *f, const char *name, json_t **out) {
    return load(f, name, vm_json_parse, out);
}

vmoer_status vm_hf_tokenizer_config(const vm_hf_folder *f, json_t **out) {
    return load(f, "tokenizer_config.json", vm_json_parse_reals, out);
}

/* ---- shards ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const stored *)a)->name, ((const stored *)b)->name);
}

static stored *find_stored(const vm_hf_folder *f, const char *name) {
    stored wanted = {.name = name};
    return bsearch(&wanted, f->tensors, f->n_tensors, sizeof wanted, by_name);
}

static vmoer_status add_shard(vm_hf_folder *f, const char *name) {
    vm_gguf_piece file;
    VM_TRY(keep_file(f, name, &file));
    if (!file.data) return vm_error(VMOER_ERROR_IO, "%s: there is no such file", name);
    VM_TRY(vm_safetensors_open_memory(file.data, file.size, name, &f->shards[f->n_shards]));
    f->pieces[f->n_shards++] = file;
    return VMOER_OK;
}

/* names[n]: of the shards, in the order in which they are opened. */
static vmoer_status add_shards(vm_hf_folder *f, const char *const *names, size_t n) {
    f->shards = vm_arena_alloc(f->arena, n, sizeof(vm_safetensors *));
    f->pieces = vm_arena_alloc(f->arena, n, sizeof *f->pieces);
    if (!f->shards || !f->pieces) return no_memory();
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        VM_TRY(add_shard(f, names[i]));
        total += vm_safetensors_count(f->shards[i]);
    }
    f->tensors = vm_arena_alloc(f->arena, total, sizeof *f->tensors);
    if (!f->tensors) return no_memory();
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < vm_safetensors_count(f->shards[i]); k++) {
            const vm_st_tensor *t = vm_safetensors_at(f->shards[i], k);
            f->tensors[at++] = (stored){.name = t->name, .tensor = t, .file = names[i]};
        }
    }
    f->n_tensors = total;
    qsort(f->tensors, total, sizeof *f->tensors, by_name);
    for (size_t i = 1; i < total; i++) {
        if (by_name(&f->tensors[i - 1], &f->tensors[i]) == 0)
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%.80s\" stands in %s and in %s", f->tensors[i].name,
                            f->tensors[i - 1].file, f->tensors[i].file);
    }
    return VMOER_OK;
}

/* A plain name that ends in .safetensors: nothing leads out of the folder. */
static bool shard_name_ok(const char *name) {
    return strlen(name) < 256 && vm_ends_with(name, ".safetensors") && !strchr(name, '/') && !strchr(name, '\\');
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The different files of a weight_map, sorted: names[*n]. */
static vmoer_status list_shards(vm_hf_folder *f, const json_t *map, const char ***names, size_t *n) {
    const char *tensor, **list = vm_arena_alloc(f->arena, json_object_size(map), sizeof(char *));
    json_t *value;
    if (!list) return no_memory();
    *n = 0;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const char *file = json_string_value(value);
        if (!file || !shard_name_ok(file))
            return vm_error(VMOER_ERROR_FORMAT,
                            "weight_map: \"%.80s\" is in \"%.80s\", which is no plain name of a .safetensors file",
                            tensor, file ? file : "?");
        list[*n] = vm_arena_strndup(f->arena, file, strlen(file));
        if (!list[(*n)++]) return no_memory();
    }
    qsort(list, *n, sizeof(char *), by_text);
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (i == 0 || strcmp(list[i], list[i - 1]) != 0) list[kept++] = list[i];
    if (kept > MAX_SHARDS)
        return vm_error(VMOER_ERROR_LIMIT, "weight_map: %zu files, at most %d are allowed", kept, (int)MAX_SHARDS);
    *names = list;
    *n = kept;
    return VMOER_OK;
}

/* Each tensor is where the index says, and the index says it of each. */
static vmoer_status check_index(const vm_hf_folder *f, const json_t *map) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        const stored *s = find_stored(f, name);
        if (!s || strcmp(s->file, json_string_value(value)) != 0)
            return vm_error(VMOER_ERROR_FORMAT, "weight_map: tensor \"%.80s\" is not in %s", name,
                            json_string_value(value));
    }
    for (size_t i = 0; i < f->n_tensors; i++) {
        if (!json_object_get(map, f->tensors[i].name))
            return vm_error(VMOER_ERROR_FORMAT, "weight_map: tensor \"%.80s\" of %s is missing", f->tensors[i].name,
                            f->tensors[i].file);
    }
    return VMOER_OK;
}

static vmoer_status open_indexed(vm_hf_folder *f, const json_t *index) {
    const json_t *map = json_object_get(index, "weight_map");
    const char **names;
    size_t n;
    if (!json_is_object(map)) return vm_error(VMOER_ERROR_FORMAT, "weight_map: missing, or no object");
    VM_TRY(list_shards(f, map, &names, &n));
    VM_TRY(add_shards(f, names, n));
    return check_index(f, map);
}

static vmoer_status open_shards(vm_hf_folder *f) {
    static const char *const one[] = {"model.safetensors"}, *const index_name = "model.safetensors.index.json";
    vm_map map;
    vm_gguf_piece file;
    json_t *index;
    VM_TRY(open_file(f, one[0], &map, &file));
    vm_map_close(&map);
    if (file.data) return add_shards(f, one, 1);
    VM_TRY(vm_hf_json(f, index_name, &index));
    if (!index)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "there is neither %s nor %s; other weights are not read", one[0],
                        index_name);
    vmoer_status status = open_indexed(f, index);
    json_decref(index);
    return status == VMOER_OK ? status : vm_error_in(status, "%s", index_name);
}

/* ---- tensors ---- */

static vmoer_status type_of(const stored *s, uint32_t *out) {
    vm_dtype type;
    if (vm_st_float_type(s->tensor->dtype, &type)) return *out = type, VMOER_OK;
    return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: tensor \"%.80s\" is %s; F32, F16 and BF16 are supported", s->file,
                    s->name, s->tensor->dtype);
}

/* What the tensor stored there becomes: all its rows, or the row's share of them. */
static vmoer_status shape_of(const vm_hf_tensor *row, const stored *s, vm_gguf_tensor *t) {
    const vm_st_tensor *st = s->tensor;
    int dims = st->n_dims;
    if (dims < 1 || dims > 3)
        return vm_error(VMOER_ERROR_FORMAT, "%s: tensor \"%.80s\" has %d dimensions", s->file, s->name, dims);
    t->n_dims = row->form == VM_HF_ONE_ROW && dims == 2 && st->shape[0] == 1 ? 1 : dims;
    for (int i = 0; i < 4; i++) t->ne[i] = i < dims ? st->shape[dims - 1 - i] : 1;
    VM_TRY(type_of(s, &t->type));
    if (row->parts && row->form != VM_HF_TURNS) {
        if (dims < 2 || t->ne[1] % row->parts)
            return vm_error(VMOER_ERROR_FORMAT, "%s: the rows of tensor \"%.80s\" are no %d equal parts", s->file,
                            s->name, row->parts);
        t->ne[1] /= row->parts;
    }
    VM_TRY_IN(vm_gguf_tensor_size(t->type, t->n_dims, t->ne, &t->size), "%s: tensor \"%.80s\"", s->file, s->name);
    return VMOER_OK;
}

/* A bias is one row: a copy of it has its elements where a GGUF has them. */
static vmoer_status interleave(vm_hf_folder *f, int heads, vm_gguf_tensor *t) {
    size_t n = (size_t)t->ne[0], bytes = t->size / n;
    uint8_t *copy = vm_arena_alloc(f->arena, n, bytes);
    if (!copy) return no_memory();
    for (size_t i = 0; i < n; i++) memcpy(copy + i * bytes, t->data + vm_to_halves(i, n, heads) * bytes, bytes);
    t->data = copy;
    return VMOER_OK;
}

static vmoer_status set_halves(vm_hf_folder *f, const vm_hf_tensor *row, const stored *s, vm_gguf_tensor *t) {
    uint32_t heads;
    if (row->form != VM_HF_Q_HEADS && row->form != VM_HF_KV_HEADS) return VMOER_OK;
    VM_TRY(vm_hf_need_u32(
        f->g, f->arch, row->form == VM_HF_Q_HEADS ? "attention.head_count" : "attention.head_count_kv", 1024, &heads));
    int64_t rows = t->ne[t->n_dims - 1];
    if (heads < 1 || t->n_dims > 2 || rows % (2 * (int64_t)heads))
        return vm_error(VMOER_ERROR_FORMAT, "%s: the rows of tensor \"%.80s\" are not those of %u heads", s->file,
                        s->name, heads);
    if (t->n_dims == 1) return interleave(f, (int)heads, t);
    t->halves = (int)heads;
    return VMOER_OK;
}

/* Where each of the n matrices begins. first: as stored, and whose shape the others must have. */
static vmoer_status set_matrices(vm_hf_folder *f, const vm_hf_tensor *row, int layer, const stored *first, size_t n,
                                 vm_gguf_tensor *t) {
    const uint8_t **matrices = vm_arena_alloc(f->arena, n, sizeof(uint8_t *));
    bool one_each = vm_hf_per_expert(row);
    size_t bytes = t->size / (one_each ? 1 : n); /* of a matrix of t */
    char name[VM_HF_MAX_NAME];
    if (!matrices) return no_memory();
    for (size_t e = 0; e < n; e++) {
        const stored *s = first;
        if (one_each) {
            vm_hf_expand(name, row->name, layer, (int)e);
            stored *found = find_stored(f, name);
            if (!found) return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" is missing", name);
            found->used = true;
            s = found;
            if (s->tensor->n_dims != 2 || memcmp(s->tensor->shape, first->tensor->shape, 2 * sizeof(int64_t)) != 0 ||
                strcmp(s->tensor->dtype, first->tensor->dtype) != 0)
                return vm_error(VMOER_ERROR_FORMAT, "%s: tensor \"%.80s\" is not of the shape and type of the others",
                                s->file, s->name);
        }
        size_t parts = row->parts ? (size_t)row->parts : 1, before = one_each ? 0 : e * parts;
        matrices[e] = s->tensor->data + (before + (size_t)row->part) * bytes;
    }
    t->matrices = matrices;
    if (!one_each) return VMOER_OK;
    t->n_dims = 3;
    t->ne[2] = (int64_t)n;
    return vm_mul(t->size, n, &t->size) ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "\"%s\" is too large", first->name);
}

/* ---- GPT-OSS's experts ---- */

/* Biases are few: a copy has each part's elements of an expert together. */
static vmoer_status copy_turns(vm_hf_folder *f, const vm_hf_tensor *row, const stored *s, vm_gguf_tensor *t) {
    size_t n = (size_t)t->ne[0], parts = (size_t)row->parts, element = t->size / (n * (size_t)t->ne[1]);
    if (t->n_dims != 2 || n % parts)
        return vm_error(VMOER_ERROR_FORMAT, "%s: tensor \"%.80s\" is not of %zu parts' biases, an expert a row",
                        s->file, s->name, parts);
    size_t all = n / parts * (size_t)t->ne[1];
    uint8_t *copy = vm_arena_alloc(f->arena, all, element);
    if (!copy) return no_memory();
    for (size_t i = 0; i < all; i++)
        memcpy(copy + i * element, t->data + (i * parts + (size_t)row->part) * element, element);
    t->ne[0] = (int64_t)(n / parts);
    t->size = all * element;
    t->data = copy;
    return VMOER_OK;
}

static bool is_u8(const vm_st_tensor *t, int dims) { return strcmp(t->dtype, "U8") == 0 && t->n_dims == dims; }

/* Shape and type of what is stored as blocks beside their scales, or (scales NULL) by columns. */
static vmoer_status turns_shape(const vm_hf_tensor *row, const stored *s, const stored *scales, vm_gguf_tensor *t) {
    const vm_st_tensor *st = s->tensor;
    bool good = scales ? is_u8(st, 4) && st->shape[3] == 16 && is_u8(scales->tensor, 3) &&
                             memcmp(st->shape, scales->tensor->shape, 3 * sizeof *st->shape) == 0
                       : st->n_dims == 3;
    int64_t rows = good ? st->shape[scales ? 1 : 2] : 0, cols = good ? st->shape[scales ? 2 : 1] : 0;
    if (!good || rows % row->parts || cols > INT32_MAX || st->shape[0] > VM_HF_MAX_EXPERTS)
        return vm_error(VMOER_ERROR_FORMAT, "%s: tensor \"%.80s\" is not of %d parts' experts, at most %d, %s", s->file,
                        s->name, row->parts, (int)VM_HF_MAX_EXPERTS, scales ? "in MXFP4" : "by columns");
    t->type = VM_MXFP4;
    if (!scales) VM_TRY(type_of(s, &t->type));
    t->n_dims = 3;
    t->ne[0] = scales ? 32 * cols : cols;
    t->ne[1] = rows / row->parts;
    t->ne[2] = st->shape[0];
    t->ne[3] = 1;
    VM_TRY_IN(vm_gguf_tensor_size(t->type, 3, t->ne, &t->size), "%s: tensor \"%.80s\"", s->file, s->name);
    return VMOER_OK;
}

/* The matrices of a tensor, one an expert. */
static const uint8_t **matrices_of(vm_hf_folder *f, const vm_st_tensor *t) {
    size_t n = (size_t)t->shape[0];
    const uint8_t **list = vm_arena_alloc(f->arena, n, sizeof(uint8_t *));
    for (size_t e = 0; list && e < n; e++) list[e] = t->data + e * (t->size / n);
    return list;
}

/* name: without the ends. Its tensors, marked as used; *scales NULL: by columns. */
static vmoer_status find_turns(const vm_hf_folder *f, const char *name, stored **s, stored **scales) {
    char full[VM_HF_MAX_NAME];
    *scales = NULL;
    *s = find_stored(f, name);
    if (!*s) {
        snprintf(full, sizeof full, "%.*s_blocks", (int)(sizeof full - 16), name);
        *s = find_stored(f, full);
        snprintf(full, sizeof full, "%.*s_scales", (int)(sizeof full - 16), name);
        *scales = find_stored(f, full);
        if (!*s) return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" is missing, and so is its MXFP4", name);
        if (!*scales) return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" is missing", full);
        (*scales)->used = true;
    }
    (*s)->used = true;
    return VMOER_OK;
}

static vmoer_status take_turns(vm_hf_folder *f, const vm_hf_tensor *row, const char *name, vm_gguf_tensor *t) {
    stored *s, *scales;
    VM_TRY(find_turns(f, name, &s, &scales));
    VM_TRY(turns_shape(row, s, scales, t));
    vm_gguf_turns *turns = vm_arena_alloc(f->arena, 1, sizeof *turns);
    t->matrices = matrices_of(f, s->tensor);
    if (!turns || !t->matrices) return no_memory();
    *turns = (vm_gguf_turns){.turn = row->part, .count = row->parts};
    t->turns = turns;
    if (!scales) return VMOER_OK;
    turns->scales = matrices_of(f, scales->tensor);
    return turns->scales ? VMOER_OK : no_memory();
}

static vmoer_status append(vm_hf_folder *f, vm_gguf_tensor t) {
    if (!vm_grow((void **)&f->made, &f->made_capacity, f->n_made + 1, sizeof *f->made)) return no_memory();
    f->made[f->n_made++] = t;
    return VMOER_OK;
}

static vmoer_status add_tensor(vm_hf_folder *f, const vm_hf_tensor *row, int layer) {
    char name[VM_HF_MAX_NAME], own[VM_HF_MAX_NAME];
    vm_gguf_tensor t = {0};
    uint32_t experts;
    vm_hf_expand(name, row->name, layer, 0);
    vm_hf_expand(own, row->gguf, layer, 0);
    if (row->when && *row->when && !json_is_true(json_object_get(f->config, row->when))) return VMOER_OK;
    t.name = vm_arena_strndup(f->arena, own, strlen(own));
    if (!t.name) return no_memory();
    if (row->form == VM_HF_COLUMNS) {
        VM_TRY(take_turns(f, row, name, &t));
        return append(f, t);
    }
    stored *s = find_stored(f, name);
    if (!s && row->when && !*row->when) return VMOER_OK;
    if (!s) return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" is missing", name);
    s->used = true;
    VM_TRY(shape_of(row, s, &t));
    t.data = s->tensor->data;
    VM_TRY(set_halves(f, row, s, &t));
    if (row->form == VM_HF_TURNS) {
        VM_TRY(copy_turns(f, row, s, &t));
    } else if (vm_hf_per_expert(row)) {
        VM_TRY(vm_hf_need_u32(f->g, f->arch, "expert_count", VM_HF_MAX_EXPERTS, &experts));
        if (experts < 1) return vm_error(VMOER_ERROR_FORMAT, "the number of experts is 0");
        VM_TRY(set_matrices(f, row, layer, s, experts, &t));
    } else if (row->parts && t.n_dims == 3) {
        if (t.ne[2] > VM_HF_MAX_EXPERTS)
            return vm_error(VMOER_ERROR_LIMIT, "%s: tensor \"%.80s\" is of %lld experts, at most %d are allowed",
                            s->file, s->name, (long long)t.ne[2], (int)VM_HF_MAX_EXPERTS);
        VM_TRY(set_matrices(f, row, layer, s, (size_t)t.ne[2], &t));
    } else {
        t.data += (size_t)row->part * t.size;
    }
    return append(f, t);
}

/* With a tied head the embedding is the head: lm_head.weight may be there, and is not asked. */
static vmoer_status check_head(const vm_hf_folder *f) {
    const json_t *tied = json_object_get(f->config, "tie_word_embeddings");
    stored *head = find_stored(f, "lm_head.weight");
    if (json_is_false(tied) && !head)
        return vm_error(VMOER_ERROR_FORMAT, "tensor \"lm_head.weight\" is missing, and tie_word_embeddings is false");
    if (json_is_true(tied) && head) head->used = true;
    return VMOER_OK;
}

static bool is_head(const vm_hf_tensor *row) { return strcmp(row->name, "lm_head.weight") == 0; }

/* Old checkpoints keep the frequencies of RoPE, which config.json says. */
static bool is_needless(const char *name) { return vm_ends_with(name, ".rotary_emb.inv_freq"); }

/* The one tensor that no file has. */
static vmoer_status add_rope(vm_hf_folder *f) {
    uint32_t head_dim;
    bool has;
    VM_TRY(vm_hf_need_u32(f->g, f->arch, "rope.dimension_count", VM_HF_MAX_HEAD, &head_dim));
    float *factors = vm_arena_alloc(f->arena, head_dim / 2 + 1, sizeof *factors);
    if (!factors) return no_memory();
    VM_TRY_IN(vm_hf_rope_factors(f->config, head_dim, factors, &has), "config.json");
    if (!has || head_dim < 2) return VMOER_OK;
    vm_gguf_tensor t = {.name = "rope_freqs.weight",
                        .type = VM_F32,
                        .n_dims = 1,
                        .ne = {head_dim / 2, 1, 1, 1},
                        .data = (const uint8_t *)factors,
                        .size = head_dim / 2 * sizeof *factors};
    return append(f, t);
}

static vmoer_status make_tensors(vm_hf_folder *f) {
    uint32_t layers;
    bool tied = json_is_true(json_object_get(f->config, "tie_word_embeddings"));
    VM_TRY(vm_hf_need_u32(f->g, f->arch, "block_count", VM_HF_MAX_LAYERS, &layers));
    VM_TRY(check_head(f));
    VM_TRY(add_rope(f));
    for (const vm_hf_tensor *row = f->arch->tensors; row->gguf; row++)
        if (!strchr(row->gguf, '#') && !(tied && is_head(row))) VM_TRY(add_tensor(f, row, 0));
    for (int layer = 0; layer < (int)layers; layer++)
        for (const vm_hf_tensor *row = f->arch->tensors; row->gguf; row++)
            if (strchr(row->gguf, '#')) VM_TRY(add_tensor(f, row, layer));
    for (size_t i = 0; i < f->n_tensors; i++) {
        const stored *s = &f->tensors[i];
        if (!s->used && !is_needless(s->name))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: tensor \"%.80s\" is none that models of the type \"%s\" have",
                            s->file, s->name, f->arch->model_type);
    }
    return VMOER_OK;
}

/* ---- keys beside config.json's ---- */

/* The last part of the path, where it can be a name. */
static vmoer_status put_name(const vm_hf_folder *f, vm_gguf_writer *w) {
    char *full = f->memory ? NULL : realpath(f->path, NULL);
    const char *slash = full ? strrchr(full, '/') : NULL, *name = slash ? slash + 1 : f->path;
    size_t bad;
    bool ok = *name && strlen(name) <= MAX_MODEL_NAME && vm_utf8_valid(name, strlen(name), &bad);
    vmoer_status status = ok ? vm_gguf_writer_string(w, "general.name", name) : VMOER_OK;
    free(full);
    return status;
}

/* The chat template: a file of its own, or in tokenizer_config.json as a text, or there as one of several by name. */
static vmoer_status put_template(const vm_hf_folder *f, vm_gguf_writer *w) {
    static const char key[] = "tokenizer.chat_template";
    vm_map map;
    vm_gguf_piece file;
    json_t *config, *one;
    VM_TRY(open_file(f, "chat_template.jinja", &map, &file));
    if (file.data) {
        char *text = vm_strndup((const char *)file.data, file.size);
        vmoer_status status = !text ? no_memory()
                              : memchr(text, '\0', file.size)
                                  ? vm_error(VMOER_ERROR_FORMAT, "chat_template.jinja: a byte 0 in a text")
                                  : vm_gguf_writer_string(w, key, text);
        vm_free(text);
        vm_map_close(&map);
        return status;
    }
    VM_TRY(vm_hf_tokenizer_config(f, &config));
    const json_t *template = json_object_get(config, "chat_template"), *list = template;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0) template = json_object_get(one, "template");
    }
    vmoer_status status =
        json_is_string(template) ? vm_gguf_writer_string(w, key, json_string_value(template)) : VMOER_OK;
    json_decref(config);
    return status;
}

/* An id of generation_config.json, else of config.json; of a list the one at `at`. */
static vmoer_status put_id(const vm_hf_folder *f, const json_t *generation, const char *name, size_t at,
                           const char *key, vm_gguf_writer *w) {
    const json_t *places[] = {generation, f->config};
    for (size_t i = 0; i < 2; i++) {
        const json_t *id = json_object_get(places[i], name);
        if (!id || json_is_null(id)) continue;
        if (json_is_array(id)) id = json_array_get(id, at);
        if (!id || (at && !json_is_array(json_object_get(places[i], name)))) return VMOER_OK;
        json_int_t n = json_is_integer(id) ? json_integer_value(id) : -1;
        if (n < 0 || n > INT32_MAX)
            return vm_error(VMOER_ERROR_FORMAT, "%s: %s is no token's id", i ? "config.json" : "generation_config.json",
                            name);
        return vm_gguf_writer_u32(w, key, (uint32_t)n);
    }
    return VMOER_OK;
}

static vmoer_status put_ids(const vm_hf_folder *f, vm_gguf_writer *w) {
    static const struct {
        const char *name;
        size_t at;
        const char *key;
    } ids[] = {{"bos_token_id", 0, "tokenizer.ggml.bos_token_id"},
               {"eos_token_id", 0, "tokenizer.ggml.eos_token_id"},
               {"eos_token_id", 1, "tokenizer.ggml.eot_token_id"}, /* what ends an answer, too */
               {"eos_token_id", 2, "tokenizer.ggml.eom_token_id"},
               {"pad_token_id", 0, "tokenizer.ggml.padding_token_id"}};
    json_t *generation;
    VM_TRY(vm_hf_json(f, "generation_config.json", &generation));
    vmoer_status status = VMOER_OK;
    for (size_t i = 0; i < sizeof ids / sizeof *ids && status == VMOER_OK; i++)
        status = put_id(f, generation, ids[i].name, ids[i].at, ids[i].key, w);
    json_decref(generation);
    return status;
}

/* ---- opening ---- */

static vmoer_status put_all_keys(vm_hf_folder *f, vm_gguf_writer *w) {
    const json_t *type = json_object_get(f->config, "model_type");
    if (!json_is_string(type)) return vm_error(VMOER_ERROR_FORMAT, "config.json: no model_type");
    VM_TRY_IN(vm_hf_arch_find(json_string_value(type), &f->arch), "config.json");
    VM_TRY_IN(vm_hf_put_keys(f->arch, f->config, w), "config.json");
    VM_TRY(put_name(f, w));
    VM_TRY(put_ids(f, w));
    VM_TRY(put_template(f, w));
    return vm_gguf_writer_header(w, &f->keys, &f->keys_size);
}

static vmoer_status open_folder(vm_hf_folder *f) {
    vm_gguf_piece config;
    VM_TRY(keep_file(f, "config.json", &config));
    if (!config.data)
        return vm_error(VMOER_ERROR_IO, "a folder without config.json: not a model of Hugging Face's layout");
    VM_TRY(parse("config.json", config, vm_json_parse, &f->config));
    vm_gguf_writer *w = vm_gguf_writer_create();
    if (!w) return no_memory();
    vmoer_status status = put_all_keys(f, w);
    vm_gguf_writer_free(w);
    VM_TRY(status);
    VM_TRY(open_shards(f));
    VM_TRY(vm_gguf_open_memory(f->keys, f->keys_size, f->path, &f->g));
    VM_TRY(make_tensors(f));
    vm_gguf_whole whole = {.tensors = f->made,
                           .n_tensors = f->n_made,
                           .header = config,
                           .pieces = f->pieces,
                           .n_pieces = f->n_shards,
                           .owned = f,
                           .release = release};
    return vm_gguf_make_whole(f->g, &whole, NULL);
}

static vmoer_status open_any(const char *path, const vm_hf_file *files, size_t n_files, vm_gguf **out) {
    *out = NULL;
    vm_hf_folder *f = vm_calloc(1, sizeof *f);
    vm_arena *arena = vm_arena_create();
    if (!f || !arena) {
        vm_free(f);
        vm_arena_free(arena);
        return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    }
    f->arena = arena;
    f->path = vm_arena_strndup(arena, path, strlen(path));
    f->memory = files;
    f->n_memory = n_files;
    vmoer_status status = f->path ? open_folder(f) : no_memory();
    if (status != VMOER_OK) {
        vm_gguf_free(f->g);
        release(f);
        return vm_error_in(status, "%s", path);
    }
    *out = f->g;
    return VMOER_OK;
}

vmoer_status vm_hf_open(const char *path, vm_gguf **out) { return open_any(path, NULL, 0, out); }

vmoer_status vm_hf_open_memory(const vm_hf_file *files, size_t n_files, const char *where, vm_gguf **out) {
    return open_any(where, files, n_files, out);
}
