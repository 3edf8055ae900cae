/* hidden.c: the hidden states of an eval run: rows appended item by item, so that a killed run goes on, and the
 * safetensors file that they become. */
#include "api/internal.h"

#include "base/file.h"
#include "base/status.h"
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static vmoer_status failed(const char *path) { return vm_error(VMOER_ERROR_IO, "%s: %s", path, strerror(errno)); }

static vmoer_status rows_path(const char *folder, const char *task, char out[4096]) {
    char name[128];
    snprintf(name, sizeof name, "hidden.%s.f32", task);
    return vm_path_join(out, 4096, folder, name);
}

vmoer_status vm_hidden_open(const char *folder, const char *task, int dim, size_t done, vm_hidden_rows *out) {
    struct stat s;
    *out = (vm_hidden_rows){.file = -1, .row = (size_t)dim * sizeof(float)};
    VM_TRY(rows_path(folder, task, out->path));
    out->file = open(out->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (out->file < 0 || fstat(out->file, &s) != 0) return failed(out->path);
    if ((size_t)s.st_size < done * out->row)
        return vm_error(VMOER_ERROR_MISMATCH,
                        "%s: fewer rows than samples.jsonl has items; choose another --output_path", out->path);
    return ftruncate(out->file, (off_t)(done * out->row)) == 0 ? VMOER_OK : failed(out->path);
}

vmoer_status vm_hidden_append(const vm_hidden_rows *h, const float *rows, size_t n) {
    VM_TRY(vm_write_all(h->file, h->path, rows, n * h->row));
    return fsync(h->file) == 0 ? VMOER_OK : failed(h->path);
}

void vm_hidden_close(vm_hidden_rows *h) {
    if (h->file >= 0) close(h->file);
    h->file = -1;
}

static vmoer_status add_task(vm_st_writer *w, const char *folder, const char *task, int64_t n, int dim) {
    char path[4096];
    vm_map map;
    VM_TRY(rows_path(folder, task, path));
    VM_TRY(vm_map_open(path, &map));
    vmoer_status status =
        map.size == (size_t)n * (size_t)dim * sizeof(float)
            ? vm_st_writer_f32(w, task, "F32", 2, (int64_t[]){n, dim}, (const float *)(const void *)map.data)
            : vm_error(VMOER_ERROR_MISMATCH, "%s: not %lld rows of %d numbers", path, (long long)n, dim);
    vm_map_close(&map);
    return status;
}

vmoer_status vm_hidden_finish(const char *folder, const json_t *results, int dim) {
    char path[4096];
    const char *task;
    json_t *result;
    vm_st_writer *w = vm_st_writer_create();
    vmoer_status status = w ? vm_path_join(path, sizeof path, folder, "hidden.safetensors")
                            : vm_error(VMOER_ERROR_MEMORY, "no memory for the hidden states");
    if (status == VMOER_OK) status = vm_st_writer_metadata(w, "format", "vmoer-hidden");
    if (status == VMOER_OK) status = vm_st_writer_metadata(w, "version", "1");
    json_object_foreach((json_t *)results, task, result) {
        if (status == VMOER_OK)
            status = add_task(w, folder, task, json_integer_value(json_object_get(result, "n")), dim);
    }
    if (status == VMOER_OK) status = vm_st_writer_save(w, path);
    vm_st_writer_free(w);
    return status;
}

vmoer_status vm_saved_hidden(const vm_saved_run *run, const char *task, vm_arena *arena, const float **rows, int *dim) {
    char path[4096];
    vm_safetensors *st;
    int64_t n = (int64_t)json_array_size(json_object_get(run->tasks, task));
    VM_TRY(vm_path_join(path, sizeof path, run->folder, "hidden.safetensors"));
    VM_TRY_IN(vm_safetensors_open(path, &st), "hidden states, of an eval --hidden");
    const vm_st_tensor *t = vm_safetensors_find(st, task);
    float *values = NULL;
    vmoer_status status = VMOER_OK;
    if (!t || t->n_dims != 2 || t->shape[0] != n || t->shape[1] < 1 || t->shape[1] > 65536)
        status = vm_error(VMOER_ERROR_FORMAT, "%s: no tensor \"%s\" of %lld rows", path, task, (long long)n);
    else if (!(values = vm_arena_alloc(arena, (size_t)n, (size_t)t->shape[1] * sizeof *values)))
        status = vm_error(VMOER_ERROR_MEMORY, "no memory for the hidden states");
    if (status == VMOER_OK) {
        *dim = (int)t->shape[1];
        status = vm_safetensors_read_f32(st, task, 2, t->shape, values);
        if (status != VMOER_OK) vm_error_in(status, "%s", path);
    }
    vm_safetensors_free(st);
    *rows = values;
    return status;
}
