/* nfc.c: a text is gone through in units: a character that nothing before it can change (a stable one), with the
 * unstable ones behind it. A unit of one character is its own normal form. */
#include "io/nfc.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/unicode.h"
#include "io/unicode_nfc.h"
#include <string.h>

void vm_bytes_free(vm_bytes *t) {
    vm_free(t->data);
    *t = (vm_bytes){0};
}

vmoer_status vm_bytes_add(vm_bytes *t, const char *text, size_t length) {
    size_t total;
    void *grown = t->data;
    if (!vm_add(t->length, length, &total) || !vm_grow(&grown, &t->capacity, total, 1))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a text of %zu bytes", length);
    t->data = grown;
    if (length) memcpy(t->data + t->length, text, length);
    t->length = total;
    return VMOER_OK;
}

/* ---- what the tables say ---- */
enum {
    L = 0x1100,
    V = 0x1161,
    T = 0x11a7,
    S = 0xac00,
    N_L = 19,
    N_V = 21,
    N_T = 28
}; /* Hangul's rule: L V -> LV, LV T -> LVT */

/* unstable << 8 | combining class */
static unsigned properties(uint32_t code) {
    size_t low = 0, high = sizeof nfc_runs / sizeof *nfc_runs;
    while (high - low > 1) { /* nfc_runs[low] starts at or before code */
        size_t middle = low + (high - low) / 2;
        if (nfc_runs[middle] >> 9 <= code)
            low = middle;
        else
            high = middle;
    }
    return nfc_runs[low] & 0x1ff;
}
static bool is_unstable(uint32_t code) { return properties(code) >> 8; }

/* The row of nfc_steps that takes code apart, NULL: none does. */
static const uint32_t *find_step(uint32_t code) {
    size_t low = 0, high = sizeof nfc_steps / sizeof *nfc_steps / 3;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nfc_steps[3 * middle] == code) return nfc_steps + 3 * middle;
        if (nfc_steps[3 * middle] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* What first and second are together, 0: they stay apart. */
static uint32_t compose(uint32_t first, uint32_t second) {
    if (first >= L && first < L + N_L && second >= V && second < V + N_V)
        return S + ((first - L) * N_V + (second - V)) * N_T;
    if (first >= S && first < S + N_L * N_V * N_T && (first - S) % N_T == 0 && second > T && second < T + N_T)
        return first + (second - T);
    size_t low = 0, high = sizeof nfc_compositions / sizeof *nfc_compositions;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint32_t *row = nfc_steps + 3 * (size_t)nfc_compositions[middle];
        if (row[1] == first && row[2] == second) return row[0];
        if (row[1] < first || (row[1] == first && row[2] < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* ---- a unit ---- */
typedef struct unit {
    uint32_t *codes; /* [count]: code << 8 | combining class */
    size_t count, capacity;
} unit;

static vmoer_status add_code(unit *u, uint32_t code) {
    void *grown = u->codes;
    if (!vm_grow(&grown, &u->capacity, u->count + 1, sizeof *u->codes))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu characters", u->count + 1);
    u->codes = grown;
    u->codes[u->count++] = code << 8 | (properties(code) & 0xff);
    return VMOER_OK;
}

static vmoer_status add_decomposed(unit *u, uint32_t code) {
    uint32_t behind[4]; /* the longest decomposition has four characters */
    int n = 0;
    if (code >= S && code < S + N_L * N_V * N_T) {
        uint32_t at = code - S;
        VM_TRY(add_code(u, L + at / (N_V * N_T)));
        VM_TRY(add_code(u, V + at / N_T % N_V));
        return at % N_T ? add_code(u, T + at % N_T) : VMOER_OK;
    }
    for (const uint32_t *row; (row = find_step(code)); code = row[1]) {
        if (row[2]) behind[n++] = row[2];
    }
    VM_TRY(add_code(u, code));
    while (n > 0) VM_TRY(add_code(u, behind[--n]));
    return VMOER_OK;
}

/* Marks between two characters of class 0 by their class, those of one class as they came: a counting sort. */
static vmoer_status order_marks(unit *u) {
    uint32_t *sorted = NULL;
    for (size_t start = 0, end; start < u->count; start = end) {
        bool ordered = true;
        for (end = start + 1; end < u->count && (u->codes[end] & 0xff) != 0; end++)
            ordered = ordered && (u->codes[end - 1] & 0xff) <= (u->codes[end] & 0xff);
        if (ordered) continue;
        size_t places[257] = {0};
        if (!sorted) sorted = vm_malloc(u->count, sizeof *sorted);
        if (!sorted) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu characters", u->count);
        for (size_t i = start; i < end; i++) places[(u->codes[i] & 0xff) + 1]++;
        for (int k = 0; k < 256; k++) places[k + 1] += places[k];
        for (size_t i = start; i < end; i++) sorted[places[u->codes[i] & 0xff]++] = u->codes[i];
        memcpy(u->codes + start, sorted, (end - start) * sizeof *sorted);
    }
    vm_free(sorted);
    return VMOER_OK;
}

/* A character goes into the last one of class 0 unless one of its own class or higher stays between them. */
static void compose_unit(unit *u) {
    size_t n = 0, starter = SIZE_MAX;
    unsigned last = 0; /* the class of codes[n - 1] where that is behind the starter */
    for (size_t i = 0; i < u->count; i++) {
        unsigned kind = u->codes[i] & 0xff;
        uint32_t made = 0;
        if (starter != SIZE_MAX && (n == starter + 1 || last < kind))
            made = compose(u->codes[starter] >> 8, u->codes[i] >> 8);
        if (made) {
            u->codes[starter] = made << 8;
            continue;
        }
        if (kind == 0) starter = n;
        last = kind;
        u->codes[n++] = u->codes[i];
    }
    u->count = n;
}

static vmoer_status write_unit(unit *u, vm_bytes *out) {
    VM_TRY(order_marks(u));
    compose_unit(u);
    for (size_t i = 0; i < u->count; i++) {
        char bytes[4];
        VM_TRY(vm_bytes_add(out, bytes, vm_utf8_put(u->codes[i] >> 8, bytes)));
    }
    u->count = 0;
    return VMOER_OK;
}

/* ---- a text ---- */
size_t vm_nfc_check(const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        if ((uint8_t)text[at] < 0xcc) { /* below U+0300; the rest of a character is below 0xc0 */
            at++;
            continue;
        }
        size_t start = at;
        uint32_t code;
        if (!vm_utf8_next(text, length, &at, &code) || is_unstable(code)) return start;
    }
    return length;
}

vmoer_status vm_nfc(const char *text, size_t length, vm_bytes *out) {
    unit u = {0};
    vmoer_status status = VMOER_OK;
    for (size_t at = 0; at < length;) {
        /* what is stable up to the character before the next unstable one */
        size_t stop = at + vm_nfc_check(text + at, length - at), first = stop;
        uint32_t code;
        if (first < length && first > at) {
            for (first--; ((uint8_t)text[first] & 0xc0) == 0x80;) first--;
        }
        VM_GOTO(vm_bytes_add(out, text + at, first - at));
        for (at = first; at < length;) {
            size_t next = at;
            if (!vm_utf8_next(text, length, &next, &code) || (at >= stop && !is_unstable(code))) break;
            VM_GOTO(add_decomposed(&u, code));
            at = next;
        }
        VM_GOTO(write_unit(&u, out));
    }
done:
    vm_free(u.codes);
    return status;
}
