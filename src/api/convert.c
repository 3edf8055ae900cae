/* convert.c: a model as one GGUF file: of a Hugging Face folder what llama.cpp's converter makes of it, of a GGUF's
 * shards the whole. Types stay, but for vectors and routers, which GGUF readers want in f32: that is exact. Or as a
 * folder, with all types as they are. */
#include "api/internal.h"

#include "base/progress.h"
#include "base/utf8.h"
#include "io/hf.h"
#include "io/tokenizer.h"

#include <stdlib.h>
#include <string.h>

vmoer_convert_params vmoer_convert_params_default(void) { return (vmoer_convert_params){.model = NULL}; }

typedef struct run {
    const vmoer_hooks *hooks;
    uint64_t done, total; /* bytes */
} run;

typedef struct job {
    run *r;
    const vm_gguf_tensor *tensor;
    uint32_t type; /* its own, or VM_F32 */
} job;

static vmoer_status fill(void *context, size_t row, size_t rows, void *out) {
    const job *j = context;
    const vm_gguf_tensor *t = j->tensor;
    if (j->type != t->type)
        vm_gguf_read_rows(t, row, rows, out); /* of f16 or bf16 */
    else
        vm_gguf_copy_rows(t, row, rows, out);
    j->r->done += rows * (t->size / (size_t)(t->ne[1] * t->ne[2] * t->ne[3]));
    return vm_progress(j->r->hooks, "convert", j->r->done, j->r->total, t->name);
}

uint32_t vm_api_gguf_type(const vm_gguf_tensor *t) {
    bool half = t->type == VM_F16 || t->type == VM_BF16;
    return half && (t->n_dims == 1 || strstr(t->name, "ffn_gate_inp")) ? VM_F32 : t->type;
}

static vmoer_status add_tensors(run *r, const vm_gguf *g, vm_arena *arena, vm_gguf_writer *w) {
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        job *j = vm_arena_alloc(arena, 1, sizeof *j);
        if (!j) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", t->name);
        *j = (job){.r = r, .tensor = t, .type = vm_api_gguf_type(t)};
        r->total += t->size;
        VM_TRY(vm_gguf_writer_rows(w, t->name, j->type, t->n_dims, t->ne, fill, j));
    }
    return VMOER_OK;
}

/* A folder does not say general.file_type: the type of the embedding, which most weights have. */
static vmoer_status put_type(const vm_gguf *g, vm_gguf_writer *w) {
    const vm_gguf_tensor *t = vm_gguf_find_tensor(g, "token_embd.weight");
    if (!t || vm_gguf_has_key(g, "general.file_type")) return VMOER_OK;
    return vm_gguf_writer_u32(w, "general.file_type", t->type == VM_BF16 ? 32 : t->type == VM_F16 ? 1 : 0);
}

static vmoer_status convert(run *r, const vm_gguf *g, const char *path, vm_gguf_writer *w, vm_arena *arena) {
    vm_config c;
    VM_TRY_IN(vm_config_read(g, &c), "%s", vm_gguf_path(g));
    VM_TRY(vm_gguf_writer_copy_keys(w, g, ""));
    VM_TRY(vm_tokenizer_copy_keys(w, g));
    VM_TRY(put_type(g, w));
    VM_TRY(add_tensors(r, g, arena, w));
    return vm_gguf_writer_save(w, path);
}

/* ---- a folder ---- */

/* What is read of the folder must be what was to be written: a key that no table knows is noticed here, and so is a
 * vocabulary that tokenizer.json cannot say. */
static vmoer_status check_folder(void *context, const char *folder) {
    const vm_config *wanted = context;
    vm_config c;
    vm_gguf *g;
    VM_TRY(vm_gguf_open(folder, &g));
    vm_tokenizer *t = NULL;
    vmoer_status status = vm_config_read(g, &c);
    if (status == VMOER_OK) status = vm_tokenizer_open(g, &t);
    vm_tokenizer_free(t);
    vm_gguf_free(g);
    VM_TRY_IN(status, "%s", folder);
    memcpy(c.name, wanted->name, sizeof c.name);
    return memcmp(&c, wanted, sizeof c) == 0
               ? VMOER_OK
               : vm_error(VMOER_ERROR_UNSUPPORTED,
                          "%s: the model's metadata asks for what config.json of its type has no name for",
                          wanted->name[0] ? wanted->name : "the model");
}

/* "5GB": bytes, or so many KB, MB or GB of 10^3, 10^6 or 10^9. */
static vmoer_status read_size(const char *text, uint64_t *out) {
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {{"", 1}, {"B", 1}, {"KB", 1000}, {"MB", 1000000}, {"GB", 1000000000}};
    char *end;
    *out = 0;
    if (!text) return VMOER_OK;
    unsigned long long n = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    for (size_t i = 0; n > 0 && n < 1000000000 && i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0) *out = n * units[i].bytes;
    return *out ? VMOER_OK
                : vm_error(VMOER_ERROR_ARGUMENT, "shard_size \"%.32s\" is no size such as 500MB or 5GB", text);
}

static vmoer_status save_folder(const vm_gguf *g, const vmoer_convert_params *p, const vmoer_hooks *hooks) {
    vm_config c;
    vm_hf_saving how = {.check = check_folder, .context = &c, .hooks = hooks};
    VM_TRY(read_size(p->shard_size, &how.shard_bytes));
    VM_TRY_IN(vm_config_read(g, &c), "%s", vm_gguf_path(g));
    return vm_hf_save(g, p->output_path, &how);
}

vmoer_status vmoer_convert(const vmoer_convert_params *p, const vmoer_hooks *hooks, char **out_json) {
    if (!p->model || !p->output_path)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "converting takes a model (-m) and the file or folder to write (--output_path)");
    bool folder = !vm_ends_with(p->output_path, ".gguf");
    if (p->shard_size && !folder)
        return vm_error(VMOER_ERROR_ARGUMENT, "shard_size is of a folder, %s would be one GGUF", p->output_path);
    run r = {.hooks = hooks};
    vm_gguf *g = NULL, *written = NULL;
    vm_arena *arena = vm_arena_create();
    vm_gguf_writer *w = vm_gguf_writer_create();
    vmoer_status status = arena && w ? vm_gguf_open(p->model, &g) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    if (status == VMOER_OK) status = folder ? save_folder(g, p, hooks) : convert(&r, g, p->output_path, w, arena);
    if (status == VMOER_OK) status = vm_gguf_open(p->output_path, &written);
    if (status == VMOER_OK)
        status = vm_api_return_json(json_pack("{s:s, s:I, s:I, s:I}", "path", p->output_path, "bytes_before",
                                              (json_int_t)vm_gguf_file_size(g), "bytes",
                                              (json_int_t)vm_gguf_file_size(written), "tensors",
                                              (json_int_t)vm_gguf_tensor_count(written)),
                                    out_json);
    vm_gguf_free(written);
    vm_gguf_free(g);
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    return status;
}
