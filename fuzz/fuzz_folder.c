/* fuzz_folder.c: any bytes as a Hugging Face folder: opened, every key and every row read, its tokenizer made, and its
 * keys and tensors given to a writer of GGUFs, its configuration and vocabulary to those of folders. Nothing may crash,
 * leak or hang.
 *
 * The input is texts with a byte 0 between them: config.json, generation_config.json, tokenizer_config.json,
 * tokenizer.json, the index (empty: one shard, model.safetensors), and the headers of up to three shards a.safetensors,
 * b.safetensors, ...; each shard's data, zeros, is as long as its header's largest data_offsets say. An empty text is
 * no file. */
#include "io/hf.h"
#include "io/tokenizer.h"
#include "to_folder.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXTS = 5, SHARDS = 3, MAX_DATA = 1 << 20 };

/* A safetensors file with that header; NULL: none can be made. */
static uint8_t *make_shard(const uint8_t *header, size_t length, size_t *size) {
    json_int_t most = 0;
    json_t *root = json_loadb((const char *)header, length, 0, NULL), *tensor;
    const char *name;
    json_object_foreach(root, name, tensor) {
        json_int_t end = json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 1));
        if (end > most) most = end;
    }
    json_decref(root);
    if (most > MAX_DATA) return NULL;
    *size = 8 + length + (size_t)most;
    uint8_t *file = calloc(1, *size);
    uint64_t n = length;
    if (!file) return NULL;
    memcpy(file, &n, 8);
    if (length) memcpy(file + 8, header, length);
    return file;
}

static void read_all(const vm_gguf *g) {
    vm_gguf_writer *w = vm_gguf_writer_create();
    if (!w || vm_gguf_writer_copy_keys(w, g, "") != VMOER_OK) abort();
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        size_t rows = (size_t)(t->ne[1] * t->ne[2] * t->ne[3]);
        float *row = malloc((size_t)t->ne[0] * sizeof *row);
        for (size_t k = 0; row && k < rows; k++) vm_gguf_read_rows(t, k, 1, row);
        free(row);
        vm_gguf_writer_copy(w, t);
    }
    vm_tokenizer *tokenizer;
    if (vm_tokenizer_open(g, &tokenizer) == VMOER_OK) {
        vm_tokenizer_copy_keys(w, g);
        vm_tokenizer_free(tokenizer);
    }
    vm_gguf_writer_free(w);
    to_folder(g);
    size_t left, n = 0;
    while (vm_gguf_bytes(g, n, &left)) n += left;
    if (n != vm_gguf_file_size(g)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer_config.json",
                                        "tokenizer.json", "model.safetensors.index.json"};
    static const char *const shards[] = {"a.safetensors", "b.safetensors", "c.safetensors"};
    vm_hf_file files[TEXTS + SHARDS];
    uint8_t *owned[SHARDS];
    size_t n = 0, n_owned = 0, at = 0;
    bool indexed = false;
    for (int i = 0; i < TEXTS + SHARDS && at < size; i++) {
        const uint8_t *text = data + at, *end = memchr(text, 0, size - at);
        size_t length = end ? (size_t)(end - text) : size - at;
        at += length + 1;
        if (!length) continue;
        if (i < TEXTS) {
            files[n++] = (vm_hf_file){names[i], text, length};
            indexed |= i == TEXTS - 1;
            continue;
        }
        size_t bytes;
        uint8_t *file = make_shard(text, length, &bytes);
        if (!file) continue;
        owned[n_owned++] = file;
        files[n++] = (vm_hf_file){indexed ? shards[i - TEXTS] : "model.safetensors", file, bytes};
    }
    vm_gguf *g;
    if (n && vm_hf_open_memory(files, n, "fuzz", &g) == VMOER_OK) {
        read_all(g);
        vm_gguf_free(g);
    }
    for (size_t i = 0; i < n_owned; i++) free(owned[i]);
    return 0;
}
