/* try_text.h: what the targets of tokenizers ask of a text: valid UTF-8 is encoded, its ids are in range, and decode. */
#ifndef VM_FUZZ_TRY_TEXT_H
#define VM_FUZZ_TRY_TEXT_H

#include "base/memory.h"
#include "io/nfc.h"
#include "io/tokenizer.h"
#include "io/unicode.h"
#include <stdlib.h>
#include <string.h>

/* What decoding the ids of a text gives back. */
typedef enum trip {
    TRIP_NONE,      /* anything */
    TRIP_SAME,      /* the text */
    TRIP_CANONICAL, /* one of the same normal form */
    TRIP_SPACED     /* the text, its U+2581 as spaces; where no token stands for text */
} trip;

static inline void check_trip(trip kind, const char *text, size_t length, const char *back, size_t back_length) {
    vm_bytes want = {0}, got = {0};
    if (kind == TRIP_CANONICAL) {
        if (vm_nfc(text, length, &want) != VMOER_OK || vm_nfc(back, back_length, &got) != VMOER_OK) abort();
    } else {
        for (size_t i = 0; i < length; i++) {
            bool mark = kind == TRIP_SPACED && length - i >= 3 && memcmp(text + i, "\u2581", 3) == 0;
            if (vm_bytes_add(&want, mark ? " " : text + i, 1) != VMOER_OK) abort();
            i += mark ? 2 : 0;
        }
        if (vm_bytes_add(&got, back, back_length) != VMOER_OK) abort();
    }
    if (want.length != got.length || (got.length && memcmp(want.data, got.data, got.length) != 0)) abort();
    vm_bytes_free(&want);
    vm_bytes_free(&got);
}

static inline void try_text(const vm_tokenizer *t, const char *text, size_t length, trip kind) {
    size_t bad;
    bool valid = vm_utf8_valid(text, length, &bad);
    for (int special = 0; special < 3; special++) {
        vm_ids ids = {0};
        char *back, *given = calloc(length + 1, 1);
        size_t back_length, third = length / 3;
        vmoer_status status;
        if (special < 2) {
            status = vm_tokenizer_encode(t, text, length, special, &ids);
        } else { /* the middle is somebody's */
            memset(given + third, 1, third);
            status = vm_tokenizer_encode_chat(t, text, given, length, &ids);
        }
        free(given);
        if ((status == VMOER_OK) != valid) abort();
        for (size_t i = 0; i < ids.count; i++) {
            if (!vm_tokenizer_piece(t, ids.ids[i])) abort();
        }
        if (vm_tokenizer_decode(t, ids.ids, ids.count, true, &back, &back_length) != VMOER_OK) abort();
        if (valid && kind != TRIP_NONE && (kind != TRIP_SPACED || special == 0))
            check_trip(kind, text, length, back, back_length);
        vm_free(back);
        vm_ids_free(&ids);
    }
}

#endif
