/* hf_write.c: a model as a folder of Hugging Face's layout, by the tables that read one. The folder is filled under
 * another name and renamed when all is there; config.json, without which nobody takes it for a model, comes last. */
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "io/halves.h"
#include "io/hf_internal.h"
#include "io/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { MAX_PARTS = 2 };

/* How a tensor of the folder is made: rows below each other; or as vm_hf_form says; or one of MXFP4's two. */
typedef enum making { MAKE_ROWS, MAKE_TURNS, MAKE_COLUMNS, MAKE_BLOCKS, MAKE_SCALES } making;

/* A tensor of the folder and the GGUF's that make it. */
typedef struct target {
    const struct plan *plan;
    making making;
    const char *name, *dtype;
    const vm_gguf_tensor *parts[MAX_PARTS]; /* [n_parts] shares of its rows, alike in shape and type */
    int n_parts, expert;                    /* expert: the one it is of; -1: all, or none */
    int heads;                              /* whose rows the GGUF has interleaved; 0: none */
    int n_dims;
    int64_t shape[4];
    size_t bytes;
    int shard;
} target;

typedef struct plan {
    const vm_gguf *g;
    const vm_hf_arch *arch;
    const char *folder; /* where the files are written */
    const vm_hf_saving *how;
    vm_arena *arena;
    bool *used;      /* [tensors of g] */
    target *targets; /* owned: [n] */
    size_t n, capacity;
    int n_shards;
    uint64_t bytes; /* of all targets */
    uint64_t *done; /* of them written */
} plan;

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "out of memory"); }

/* ---- what is to be written ---- */

static const char *dtype_of(uint32_t type) {
    return type == VM_F32 ? "F32" : type == VM_F16 ? "F16" : type == VM_BF16 ? "BF16" : NULL;
}

/* The GGUF's tensor of a row; NULL: there is none. */
static const vm_gguf_tensor *find(const plan *p, const vm_hf_tensor *row, int layer) {
    char name[VM_HF_MAX_NAME];
    vm_hf_expand(name, row->gguf, layer, 0);
    return vm_gguf_find_tensor(p->g, name);
}

static void mark_used(plan *p, const vm_gguf_tensor *t) { p->used[t - vm_gguf_tensor_at(p->g, 0)] = true; }

static vmoer_status missing(const plan *p, const vm_hf_tensor *row, int layer) {
    char name[VM_HF_MAX_NAME];
    vm_hf_expand(name, row->gguf, layer, 0);
    return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%s\" is missing, which a folder of the type \"%s\" has", name,
                    p->arch->model_type);
}

/* The rows of one tensor in the folder: this one and, where it has a share, those after it of the same name. */
static vmoer_status take_parts(plan *p, const vm_hf_tensor *row, int layer, target *t) {
    for (const vm_hf_tensor *r = row; r->gguf; r++) {
        if (strcmp(r->name, row->name) != 0) continue;
        const vm_gguf_tensor *part = find(p, r, layer);
        if (!part) return missing(p, r, layer);
        mark_used(p, part);
        const vm_gguf_tensor *first = t->n_parts ? t->parts[0] : part;
        if (part->type != first->type || part->n_dims != first->n_dims ||
            memcmp(part->ne, first->ne, sizeof part->ne) != 0)
            return vm_error(VMOER_ERROR_UNSUPPORTED,
                            "tensors \"%s\" and \"%s\", which are one in a folder, differ in shape or type",
                            first->name, part->name);
        t->parts[t->n_parts++] = part; /* at most MAX_PARTS rows have one name */
    }
    bool mxfp4 = row->form == VM_HF_COLUMNS && t->parts[0]->type == VM_MXFP4;
    t->dtype = mxfp4 ? "U8" : dtype_of(t->parts[0]->type);
    return t->dtype ? VMOER_OK
                    : vm_error(VMOER_ERROR_UNSUPPORTED,
                               "tensor \"%s\" is %s, a folder has F32, F16 and BF16 (vmoer quantize --type bf16 makes "
                               "a GGUF that has)",
                               t->parts[0]->name, vm_dtype_name(t->parts[0]->type));
}

static vmoer_status set_heads(const plan *p, const vm_hf_tensor *row, target *t) {
    const vm_gguf_tensor *part = t->parts[0];
    bool q = row->form == VM_HF_Q_HEADS;
    uint32_t heads;
    if (!q && row->form != VM_HF_KV_HEADS) return VMOER_OK;
    char key[128];
    snprintf(key, sizeof key, "%s.attention.head_count_kv", p->arch->arch);
    VM_TRY(vm_hf_need_u32(p->g, p->arch,
                          q || !vm_gguf_has_key(p->g, key) ? "attention.head_count" : "attention.head_count_kv", 1024,
                          &heads));
    if (heads < 1 || part->n_dims > 2 || part->ne[part->n_dims - 1] % (2 * (int64_t)heads))
        return vm_error(VMOER_ERROR_FORMAT, "the rows of tensor \"%s\" are not those of %u heads", part->name, heads);
    t->heads = (int)heads;
    return VMOER_OK;
}

static vmoer_status append(plan *p, target t) {
    if (!vm_grow((void **)&p->targets, &p->capacity, p->n + 1, sizeof *p->targets)) return no_memory();
    p->targets[p->n++] = t;
    p->bytes += t.bytes;
    return VMOER_OK;
}

static vmoer_status append_named(plan *p, target *t, const char *pattern, const char *end, int layer) {
    char name[VM_HF_MAX_NAME];
    vm_hf_expand(name, pattern, layer, t->expert);
    const char *copy = vm_arena_alloc(p->arena, strlen(name) + strlen(end) + 1, 1);
    if (!copy) return no_memory();
    sprintf((char *)(uintptr_t)copy, "%s%s", name, end);
    t->name = copy;
    return append(p, *t);
}

/* GPT-OSS's experts, and their biases where parts are in turn. */
static vmoer_status add_turns(plan *p, const vm_hf_tensor *row, int layer, target *t) {
    const vm_gguf_tensor *part = t->parts[0];
    int64_t rows = part->ne[1] * t->n_parts, cols = part->ne[0], experts = part->ne[2];
    bool bias = row->form == VM_HF_TURNS;
    if (part->n_dims != (bias ? 2 : 3))
        return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" has %d dimensions", part->name, part->n_dims);
    t->n_dims = part->n_dims;
    t->bytes = part->size * (size_t)t->n_parts;
    t->making = bias ? MAKE_TURNS : MAKE_COLUMNS;
    memcpy(t->shape, bias ? (int64_t[]){part->ne[1], cols * t->n_parts, 0} : (int64_t[]){experts, cols, rows},
           3 * sizeof *t->shape);
    if (bias || part->type != VM_MXFP4) return append_named(p, t, row->name, "", layer);
    size_t blocks = t->bytes / 17;
    t->n_dims = 4;
    memcpy(t->shape, (int64_t[]){experts, rows, cols / 32, 16}, sizeof t->shape);
    t->making = MAKE_BLOCKS;
    t->bytes = blocks * 16;
    VM_TRY(append_named(p, t, row->name, "_blocks", layer));
    t->n_dims = 3;
    t->making = MAKE_SCALES;
    t->bytes = blocks;
    return append_named(p, t, row->name, "_scales", layer);
}

/* The tensor of a row, or those of all experts. */
static vmoer_status add_row(plan *p, const vm_hf_tensor *row, int layer) {
    target t = {.plan = p, .expert = -1};
    VM_TRY(take_parts(p, row, layer, &t));
    if (row->form == VM_HF_TURNS || row->form == VM_HF_COLUMNS) return add_turns(p, row, layer, &t);
    VM_TRY(set_heads(p, row, &t));
    const vm_gguf_tensor *part = t.parts[0];
    bool one_each = vm_hf_per_expert(row), one_row = row->form == VM_HF_ONE_ROW && part->n_dims == 1;
    int dims = part->n_dims;
    if (dims > 3 || (one_each && dims != 3))
        return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" has %d dimensions", part->name, dims);
    for (int i = 0; i < dims; i++) t.shape[i] = part->ne[dims - 1 - i];
    if (dims > 1) t.shape[dims - 2] *= t.n_parts;
    t.n_dims = dims;
    if (one_row) t.n_dims = 2, t.shape[0] = 1, t.shape[1] = part->ne[0];
    t.bytes = part->size * (size_t)t.n_parts;
    size_t n = one_each ? (size_t)part->ne[2] : 1;
    if (n > VM_HF_MAX_EXPERTS)
        return vm_error(VMOER_ERROR_LIMIT, "tensor \"%s\" is of %zu experts, at most %d are allowed", part->name, n,
                        (int)VM_HF_MAX_EXPERTS);
    if (one_each) {
        t.n_dims = 2;
        t.shape[0] = t.shape[1], t.shape[1] = t.shape[2];
        t.bytes /= n;
    }
    for (size_t e = 0; e < n; e++) {
        if (one_each) t.expert = (int)e;
        VM_TRY(append_named(p, &t, row->name, "", layer));
    }
    return VMOER_OK;
}

/* Whether the GGUF has a tensor of a row for which config.json has to say so. */
static bool has_any(const plan *p, const char *when, int layers) {
    for (const vm_hf_tensor *row = p->arch->tensors; row->gguf; row++)
        for (int layer = 0; row->when && strcmp(row->when, when) == 0 && layer < layers; layer++)
            if (find(p, row, layer)) return true;
    return false;
}

static vmoer_status add_rows(plan *p, int layer, int layers) {
    for (const vm_hf_tensor *row = p->arch->tensors; row->gguf; row++) {
        bool of_layer = strchr(row->gguf, '#');
        if (of_layer != (layer >= 0) || row->part > 0) continue; /* a further share: with its first */
        if (row->when && !(*row->when ? has_any(p, row->when, layers) : find(p, row, layer) != NULL)) continue;
        VM_TRY(add_row(p, row, layer));
    }
    return VMOER_OK;
}

static vmoer_status add_all(plan *p) {
    uint32_t layers;
    VM_TRY(vm_hf_need_u32(p->g, p->arch, "block_count", VM_HF_MAX_LAYERS, &layers));
    for (int layer = -1; layer < (int)layers; layer++) VM_TRY(add_rows(p, layer, (int)layers));
    for (size_t i = 0; i < vm_gguf_tensor_count(p->g); i++) {
        const char *name = vm_gguf_tensor_at(p->g, i)->name;
        if (!p->used[i] && strcmp(name, "rope_freqs.weight") != 0)
            return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%s\" has no place in a folder of the type \"%s\"", name,
                            p->arch->model_type);
    }
    return VMOER_OK;
}

/* ---- weights ---- */

/* buffer: [bytes of a row of the parts], for all that are not copied as they are. */
/* Row `row` of all of the tensor's in the folder, from the GGUF's. */
static void make_row(const target *t, size_t row, uint8_t *buffer, uint8_t *out) {
    const vm_gguf_tensor *first = t->parts[0];
    size_t rows = (size_t)first->ne[1], all = rows * (size_t)t->n_parts, i = row % all;
    size_t matrix = t->expert >= 0 ? (size_t)t->expert : row / all;
    const vm_gguf_tensor *part = t->parts[i / rows];
    if (part->n_dims > 1 || !t->heads) {
        vm_gguf_copy_rows(part, matrix * rows + vm_from_halves(i % rows, rows, t->heads), 1, out);
        return;
    }
    size_t n = (size_t)part->ne[0], element = part->size / n; /* of a bias, whose elements are the heads' rows */
    vm_gguf_copy_rows(part, 0, 1, buffer);
    for (size_t k = 0; k < n; k++)
        memcpy(out + k * element, buffer + vm_from_halves(k, n, t->heads) * element, element);
}

/* One row: an expert's biases. */
static void make_turns(const target *t, size_t row, uint8_t *buffer, uint8_t *out) {
    size_t n = (size_t)t->parts[0]->ne[0], parts = (size_t)t->n_parts;
    size_t element = t->parts[0]->size / (n * (size_t)t->parts[0]->ne[1]);
    for (size_t p = 0; p < parts; p++) {
        vm_gguf_copy_rows(t->parts[p], row, 1, buffer);
        for (size_t i = 0; i < n; i++) memcpy(out + (i * parts + p) * element, buffer + i * element, element);
    }
}

/* Rows [row, row + rows) of an expert's, which are columns of its parts' rows: these are gone through once. */
static void make_columns(const target *t, size_t row, size_t rows, uint8_t *buffer, uint8_t *out) {
    const vm_gguf_tensor *first = t->parts[0];
    size_t cols = (size_t)first->ne[0], n = (size_t)first->ne[1], parts = (size_t)t->n_parts, matrix = row / cols;
    size_t element = first->size / (cols * n * (size_t)first->ne[2]), from = row % cols;
    for (size_t at = 0; at < n * parts; at++) {
        vm_gguf_copy_rows(t->parts[at % parts], matrix * n + at / parts, 1, buffer);
        for (size_t i = 0; i < rows; i++)
            memcpy(out + (i * n * parts + at) * element, buffer + (from + i) * element, element);
    }
}

/* Rows [row, row + rows) of MXFP4: a block each, or the scales of one of the parts' rows. */
static void make_mxfp4(const target *t, size_t row, size_t rows, uint8_t *buffer, uint8_t *out) {
    const vm_gguf_tensor *first = t->parts[0];
    size_t n = (size_t)first->ne[1], parts = (size_t)t->n_parts, blocks = (size_t)first->ne[0] / 32;
    size_t each = t->making == MAKE_BLOCKS ? blocks : 1, held = SIZE_MAX; /* the row in the buffer */
    for (size_t i = row; i < row + rows; i++) {
        size_t at = i / each, b = i % each;
        if (at != held)
            vm_gguf_copy_rows(t->parts[at % parts], at / (n * parts) * n + at % (n * parts) / parts, 1, buffer);
        held = at;
        if (t->making == MAKE_BLOCKS) {
            vm_mxfp4_to_pairs(buffer + 17 * b, out);
            out += 16;
        } else {
            for (b = 0; b < blocks; b++) *out++ = buffer[17 * b];
        }
    }
}

/* bytes: of a row of the folder's tensor. */
static void make_rows(const target *t, size_t row, size_t rows, size_t bytes, uint8_t *buffer, uint8_t *out) {
    size_t cols = (size_t)t->parts[0]->ne[0], n;
    if (t->making == MAKE_BLOCKS || t->making == MAKE_SCALES) make_mxfp4(t, row, rows, buffer, out), rows = 0;
    for (size_t i = 0; i < rows; i += n, out += n * bytes) {
        n = 1;
        if (t->making == MAKE_COLUMNS) {
            n = cols - (row + i) % cols; /* left of this expert */
            if (n > rows - i) n = rows - i;
            make_columns(t, row + i, n, buffer, out);
        } else if (t->making == MAKE_TURNS) {
            make_turns(t, row + i, buffer, out);
        } else {
            make_row(t, row + i, buffer, out);
        }
    }
}

static vmoer_status fill(void *context, size_t row, size_t rows, void *out) {
    const target *t = context;
    const vm_gguf_tensor *part = t->parts[0];
    size_t all = 1;
    for (int i = 0; i < t->n_dims - 1; i++) all *= (size_t)t->shape[i];
    uint8_t *buffer = vm_malloc(part->size / (size_t)(part->ne[1] * part->ne[2]), 1);
    if (!buffer) return no_memory();
    make_rows(t, row, rows, t->bytes / all, buffer, out);
    vm_free(buffer);
    *t->plan->done += rows * (t->bytes / all);
    return vm_progress(t->plan->how->hooks, "convert", *t->plan->done, t->plan->bytes, t->name);
}

static vmoer_status path_of(const plan *p, const char *name, char path[4096]) {
    return vm_path_join(path, 4096, p->folder, name);
}

static void shard_name(const plan *p, int shard, char name[64]) {
    if (p->n_shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, p->n_shards);
}

static vmoer_status save_shard(const plan *p, int shard) {
    char name[64], path[4096];
    vm_st_writer *w = vm_st_writer_create();
    vmoer_status status = w ? vm_st_writer_metadata(w, "format", "pt") : no_memory(); /* transformers asks for it */
    for (size_t i = 0; i < p->n && status == VMOER_OK; i++) {
        target *t = &p->targets[i];
        if (t->shard == shard) status = vm_st_writer_rows(w, t->name, t->dtype, t->n_dims, t->shape, fill, t);
    }
    shard_name(p, shard, name);
    if (status == VMOER_OK) status = path_of(p, name, path);
    if (status == VMOER_OK) status = vm_st_writer_save(w, path);
    vm_st_writer_free(w);
    return status;
}

static vmoer_status save_json(const plan *p, const char *name, json_t *value) {
    char path[4096];
    vmoer_status status = value ? path_of(p, name, path) : no_memory();
    if (status == VMOER_OK) status = vm_json_save(path, value);
    json_decref(value);
    return status;
}

static vmoer_status save_index(const plan *p) {
    char name[64];
    json_t *map = json_object();
    for (size_t i = 0; i < p->n; i++) {
        shard_name(p, p->targets[i].shard, name);
        if (json_object_set_new(map, p->targets[i].name, json_string(name)) != 0) {
            json_decref(map);
            return no_memory();
        }
    }
    return save_json(p, "model.safetensors.index.json",
                     json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes, "weight_map", map));
}

static vmoer_status save_weights(plan *p) {
    uint64_t held = 0;
    for (size_t i = 0; i < p->n; i++) {
        target *t = &p->targets[i];
        if (p->how->shard_bytes && held > 0 && held + t->bytes > p->how->shard_bytes) p->n_shards++, held = 0;
        held += t->bytes;
        t->shard = p->n_shards;
    }
    p->n_shards++;
    for (int shard = 0; shard < p->n_shards; shard++) VM_TRY(save_shard(p, shard));
    return p->n_shards > 1 ? save_index(p) : VMOER_OK;
}

/* ---- tokenizer ---- */

/* What the files beside tokenizer.json say of it. */
typedef struct ends {
    const plan *plan;
    json_t *tokenizer_config, *ids; /* tokenizer_config.json; bos_token_id, ... of generation_config.json */
} ends;

static vmoer_status set(json_t *object, const char *name, json_t *value) {
    return json_object_set_new(object, name, value) == 0 ? VMOER_OK : no_memory();
}

static vmoer_status put_special(const ends *e, const vm_vocabulary *v, const char *text_name, const char *id_name,
                                int32_t id) {
    if (id < 0 || !v->tokens[id].text) return VMOER_OK;
    VM_TRY(set(e->tokenizer_config, text_name, json_stringn(v->tokens[id].text, v->tokens[id].length)));
    return id_name ? set(e->ids, id_name, json_integer(id)) : VMOER_OK;
}

/* All ids that end an answer: a list, where it is more than one. */
static vmoer_status put_list(const ends *e, const vm_rules *r) {
    int32_t more[] = {r->eot, r->eom};
    json_t *list = json_pack("[i]", r->eos);
    for (size_t i = 0; i < 2; i++)
        if (more[i] >= 0) json_array_append_new(list, json_integer(more[i]));
    return json_array_size(list) > 1 ? set(e->ids, "eos_token_id", list) : (json_decref(list), VMOER_OK);
}

static vmoer_status save_tokenizer(const vm_vocabulary *v, void *context) {
    const ends *e = context;
    const vm_rules *r = &v->rules;
    json_t *root;
    VM_TRY(put_special(e, v, "bos_token", "bos_token_id", r->bos));
    VM_TRY(put_special(e, v, "eos_token", "eos_token_id", r->eos));
    VM_TRY(put_special(e, v, "pad_token", "pad_token_id", r->pad));
    VM_TRY(put_special(e, v, "unk_token", NULL, r->unknown));
    if (r->eos >= 0) VM_TRY(put_list(e, r));
    VM_TRY(vm_vocabulary_to_json(v, &root));
    return save_json(e->plan, "tokenizer.json", root);
}

static vmoer_status put_template(const ends *e) {
    static const char key[] = "tokenizer.chat_template";
    const char *text;
    size_t length;
    if (!vm_gguf_has_key(e->plan->g, key)) return VMOER_OK;
    VM_TRY(vm_gguf_get_string(e->plan->g, key, &text, &length));
    json_t *value = memchr(text, 0, length) ? NULL : json_stringn(text, length);
    return value ? set(e->tokenizer_config, "chat_template", value)
                 : vm_error(VMOER_ERROR_FORMAT, "%s: %s is not UTF-8, or has a byte 0", vm_gguf_path(e->plan->g), key);
}

/* ---- all of it ---- */

/* config: the hyper-parameters; becomes config.json. */
static vmoer_status put_rest(const plan *p, json_t *config, json_t *ids, int layers) {
    const vm_gguf_tensor *embedding = vm_gguf_find_tensor(p->g, "token_embd.weight");
    VM_TRY(set(config, "model_type", json_string(p->arch->model_type)));
    VM_TRY(set(config, "architectures", json_pack("[s]", p->arch->class)));
    VM_TRY(set(config, "torch_dtype",
               json_string(embedding->type == VM_BF16  ? "bfloat16"
                           : embedding->type == VM_F16 ? "float16"
                                                       : "float32")));
    VM_TRY(set(config, "tie_word_embeddings", json_boolean(!vm_gguf_find_tensor(p->g, "output.weight"))));
    for (size_t i = 0; i < p->n; i++)
        if (p->targets[i].making == MAKE_BLOCKS)
            VM_TRY(set(config, "quantization_config",
                       json_pack("{s:s, s:[s, s, s, s]}", "quant_method", "mxfp4", "modules_to_not_convert",
                                 "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                                 "lm_head")));
    for (const vm_hf_tensor *row = p->arch->tensors; row->gguf; row++)
        if (row->when && *row->when) VM_TRY(set(config, row->when, json_boolean(has_any(p, row->when, layers))));
    return json_object_update(config, ids) == 0 ? VMOER_OK : no_memory();
}

static vmoer_status save_files(plan *p, json_t *config, const ends *e) {
    uint32_t layers;
    const char *path = vm_gguf_path(p->g);
    VM_TRY_IN(vm_hf_arch_of(p->g, &p->arch), "%s", path);
    VM_TRY_IN(vm_hf_put_names(p->arch, p->g, config), "%s", path);
    VM_TRY_IN(add_all(p), "%s", path);
    VM_TRY(vm_hf_need_u32(p->g, p->arch, "block_count", VM_HF_MAX_LAYERS, &layers));
    VM_TRY(vm_hf_with_vocabulary(p->g, save_tokenizer, (void *)(uintptr_t)e));
    VM_TRY(set(e->tokenizer_config, "tokenizer_class", json_string("PreTrainedTokenizerFast")));
    VM_TRY(
        set(e->tokenizer_config, "model_max_length", json_incref(json_object_get(config, "max_position_embeddings"))));
    VM_TRY(set(e->tokenizer_config, "clean_up_tokenization_spaces", json_false()));
    VM_TRY(put_template(e));
    VM_TRY(save_json(p, "tokenizer_config.json", json_incref(e->tokenizer_config)));
    VM_TRY(save_json(p, "generation_config.json", json_incref(e->ids)));
    VM_TRY(put_rest(p, config, e->ids, (int)layers));
    VM_TRY(save_weights(p));
    return save_json(p, "config.json", json_incref(config));
}

static vmoer_status save_folder(plan *p) {
    json_t *config = json_object();
    ends e = {.plan = p, .tokenizer_config = json_object(), .ids = json_object()};
    vmoer_status status = config && e.tokenizer_config && e.ids ? save_files(p, config, &e) : no_memory();
    json_decref(config);
    json_decref(e.tokenizer_config);
    json_decref(e.ids);
    return status;
}

vmoer_status vm_hf_save(const vm_gguf *g, const char *path, const vm_hf_saving *how) {
    char folder[4096];
    uint64_t done = 0;
    size_t n = vm_gguf_tensor_count(g);
    VM_TRY(vm_folder_open(path, folder, sizeof folder));
    plan p = {
        .g = g, .folder = folder, .how = how, .arena = vm_arena_create(), .done = &done, .used = vm_calloc(n + 1, 1)};
    vmoer_status status = p.arena && p.used ? save_folder(&p) : no_memory();
    if (status == VMOER_OK) status = how->check(how->context, folder);
    if (status == VMOER_OK) status = vm_folder_commit(folder, path);
    if (status != VMOER_OK) vm_folder_abort(folder);
    vm_arena_free(p.arena);
    vm_free(p.used);
    vm_free(p.targets);
    return status;
}
