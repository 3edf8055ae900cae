/* gguf_rows.c: a tensor's rows as a GGUF has them, wherever and however they lie. */
#include "base/file.h"
#include "io/gguf.h"
#include "io/halves.h"

enum { BLOCK = 32, NIBBLES = BLOCK / 2 }; /* of MXFP4: elements, bytes beside the scale */

/* ---- rows that lie in one piece ---- */

static const uint8_t *row_at(const vm_gguf_tensor *t, size_t row) {
    size_t rows = (size_t)t->ne[1], matrix = row / rows, i = vm_to_halves(row % rows, rows, t->halves);
    size_t bytes = t->size / (rows * (size_t)t->ne[2] * (size_t)t->ne[3]);
    return (t->matrices ? t->matrices[matrix] : t->data + matrix * rows * bytes) + i * bytes;
}

/* ---- rows that are made: elements [from, from + n) of a row; of MXFP4 whole blocks ---- */

void vm_mxfp4_from_pairs(const uint8_t *pairs, uint8_t scale, uint8_t block[1 + 16]) {
    block[0] = scale;
    for (int i = 0; i < NIBBLES; i++) {
        int low = pairs[i / 2] >> 4 * (i % 2) & 15, high = pairs[NIBBLES / 2 + i / 2] >> 4 * (i % 2) & 15;
        block[1 + i] = (uint8_t)(low | high << 4);
    }
}

void vm_mxfp4_to_pairs(const uint8_t block[1 + 16], uint8_t *pairs) {
    for (int i = 0; i < NIBBLES; i += 2) {
        pairs[i / 2] = (uint8_t)((block[1 + i] & 15) | (block[2 + i] & 15) << 4);
        pairs[NIBBLES / 2 + i / 2] = (uint8_t)(block[1 + i] >> 4 | (block[2 + i] >> 4) << 4);
    }
}

static void make(const vm_gguf_tensor *t, size_t row, size_t from, size_t n, uint8_t *out) {
    const vm_gguf_turns *turns = t->turns;
    size_t rows = (size_t)t->ne[1], cols = (size_t)t->ne[0], matrix = row / rows;
    size_t all = rows * (size_t)turns->count, at = row % rows * (size_t)turns->count + (size_t)turns->turn;
    if (turns->scales) {
        for (size_t b = 0; b < n / BLOCK; b++) {
            size_t block = at * (cols / BLOCK) + from / BLOCK + b;
            vm_mxfp4_from_pairs(t->matrices[matrix] + block * NIBBLES, turns->scales[matrix][block],
                                out + b * (1 + NIBBLES));
        }
        return;
    }
    size_t element = t->size / (cols * rows * (size_t)t->ne[2]);
    const uint8_t *column = t->matrices[matrix] + (from * all + at) * element;
    for (size_t i = 0; i < n; i++, column += all * element) memcpy(out + i * element, column, element);
}

/* ---- both ---- */

void vm_gguf_copy_rows(const vm_gguf_tensor *t, size_t row, size_t rows, void *out) {
    size_t bytes = t->size / (size_t)(t->ne[1] * t->ne[2] * t->ne[3]);
    uint8_t *to = out;
    for (size_t i = 0; i < rows; i++, to += bytes) {
        if (t->turns)
            make(t, row + i, 0, (size_t)t->ne[0], to);
        else
            memcpy(to, row_at(t, row + i), bytes);
    }
}

bool vm_gguf_read_rows(const vm_gguf_tensor *t, size_t row, size_t rows, float *out) {
    size_t cols = (size_t)t->ne[0];
    uint8_t piece[BLOCK * sizeof(float)];
    for (size_t i = 0; i < rows; i++, out += cols) {
        if (!t->turns && !vm_dequantize(t->type, row_at(t, row + i), cols, out)) return false;
        for (size_t from = 0; t->turns && from < cols; from += BLOCK) {
            size_t n = cols - from < BLOCK ? cols - from : BLOCK;
            make(t, row + i, from, n, piece);
            vm_dequantize(t->type, piece, n, out + from);
        }
    }
    return true;
}

void vm_gguf_release(const vm_gguf_tensor *t, size_t index) {
    size_t bytes = t->size / ((size_t)t->ne[2] * (size_t)t->ne[3]);
    if (t->turns)
        bytes =
            bytes / (t->turns->scales ? 1 + NIBBLES : 1) * (t->turns->scales ? NIBBLES : 1) * (size_t)t->turns->count;
    vm_map_release(t->matrices ? t->matrices[index] : t->data + index * bytes, bytes);
}
