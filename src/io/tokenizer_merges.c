/* tokenizer_merges.c: which tokens merge: a list, as GPT-2 and Hugging Face have it, or scores, as SentencePiece has
 * it. */
#include "base/memory.h"
#include "base/status.h"
#include "io/tokenizer_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MADE_BYTES = 128 }; /* bounds the time to take a token apart in all ways */

/* ---- a list ---- */
static vmoer_status take_list(vm_tokenizer *t, const vm_vocabulary *v) {
    VM_TRY(vm_merges_init(&t->merges, v->n_merges));
    vm_bytes joined = {0};
    vmoer_status status = VMOER_OK;
    for (size_t rank = 0; rank < v->n_merges; rank++) {
        const vm_slice left = v->merges[rank].left, right = v->merges[rank].right;
        joined.length = 0;
        VM_GOTO(vm_bytes_add(&joined, left.text, left.length));
        VM_GOTO(vm_bytes_add(&joined, right.text, right.length));
        int32_t a = vm_tokenizer_find(t, left.text, left.length), b = vm_tokenizer_find(t, right.text, right.length);
        int32_t made = vm_tokenizer_find(t, joined.data, joined.length);
        if (a < 0 || b < 0 || made < 0) {
            const char *what = a < 0 ? "left part" : b < 0 ? "right part" : "result";
            VM_GOTO(vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu: its %s is not in the vocabulary", v->merges_key, rank,
                             what));
        }
        if (!vm_merges_add(&t->merges, a, b, (uint32_t)rank, made))
            VM_GOTO(vm_error(VMOER_ERROR_FORMAT, "%s: merge %zu repeats an earlier one", v->merges_key, rank));
    }
done:
    vm_bytes_free(&joined);
    return status;
}

/* ---- scores ---- */
static int by_score(const void *a, const void *b, void *scores) {
    const float *s = scores, x = s[*(const int32_t *)a], y = s[*(const int32_t *)b];
    return x > y ? -1 : x < y;
}

/* rank[id]: 0 for the tokens of the highest score, and so on; equals share one. */
static vmoer_status rank_scores(const vm_vocabulary *v, uint32_t *rank) {
    int32_t *order = vm_malloc(v->size, sizeof *order);
    if (!order) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", v->size);
    for (size_t id = 0; id < v->size; id++) order[id] = (int32_t)id;
    qsort_r(order, v->size, sizeof *order, by_score, v->scores);
    for (size_t i = 0, next = 0; i < v->size; i++) {
        next += i > 0 && v->scores[order[i]] != v->scores[order[i - 1]];
        rank[order[i]] = (uint32_t)next;
    }
    vm_free(order);
    return VMOER_OK;
}

/* Calls use with each way in which a token is two others. */
typedef struct way {
    int32_t left, right, made;
    size_t cut; /* bytes of the left one */
} way;
static void take_apart(const vm_tokenizer *t, void (*use)(void *context, way w), void *context) {
    for (size_t id = 0; id < t->size; id++) {
        const vm_slice s = vm_tokenizer_stored(t, (int32_t)id);
        for (size_t cut = 1; s.length <= MAX_MADE_BYTES && cut < s.length; cut++) {
            if (((uint8_t)s.text[cut] & 0xc0) == 0x80) continue;
            int32_t left = vm_tokenizer_find(t, s.text, cut);
            int32_t right = left < 0 ? -1 : vm_tokenizer_find(t, s.text + cut, s.length - cut);
            if (right >= 0) use(context, (way){left, right, (int32_t)id, cut});
        }
    }
}

static void count_way(void *context, way w) {
    (void)w;
    ++*(size_t *)context;
}

typedef struct ranks {
    vm_merges *merges;
    const uint32_t *rank; /* by id */
} ranks;
static void add_way(void *context, way w) {
    const ranks *r = context;
    vm_merges_add(r->merges, w.left, w.right, r->rank[w.made], w.made);
}

static vmoer_status take_scores(vm_tokenizer *t, const vm_vocabulary *v) {
    size_t n = 0;
    for (size_t id = 0; id < t->size; id++) {
        size_t length = vm_tokenizer_stored(t, (int32_t)id).length;
        if (!isfinite(v->scores[id]))
            return vm_error(VMOER_ERROR_FORMAT, "%s: the score of token %zu is no finite number", v->merges_key, id);
        if (length > MAX_MADE_BYTES && !vm_tokenizer_is_added(t, (int32_t)id))
            return vm_error(VMOER_ERROR_LIMIT, "%s: token %zu has %zu bytes, at most %d", v->tokens_key, id, length,
                            MAX_MADE_BYTES);
    }
    take_apart(t, count_way, &n);
    VM_TRY(vm_merges_init(&t->merges, n));
    uint32_t *rank = vm_malloc(t->size, sizeof *rank);
    vmoer_status status =
        rank ? rank_scores(v, rank) : vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", t->size);
    if (status == VMOER_OK) take_apart(t, add_way, &(ranks){&t->merges, rank});
    vm_free(rank);
    return status;
}

/* ---- scores as a list ---- */
typedef struct ranked {
    vm_merge merge;
    float score;
} ranked;

static size_t characters(vm_slice s) {
    size_t n = 0;
    for (size_t i = 0; i < s.length; i++) n += ((uint8_t)s.text[i] & 0xc0) != 0x80;
    return n;
}

/* In a strict order: no two are of the same texts. */
static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    size_t left[] = {characters(x->merge.left), characters(y->merge.left)};
    size_t right[] = {characters(x->merge.right), characters(y->merge.right)};
    if (left[0] != left[1]) return left[0] > left[1] ? -1 : 1;
    if (right[0] != right[1]) return right[0] > right[1] ? -1 : 1;
    return x->merge.left.text < y->merge.left.text ? -1 : x->merge.left.text > y->merge.left.text; /* of t: by id */
}

typedef struct ranked_list {
    const vm_tokenizer *t;
    const float *scores;
    ranked *items; /* [n] */
    size_t n;
} ranked_list;
static void list_way(void *context, way w) {
    ranked_list *l = context;
    const vm_slice s = vm_tokenizer_stored(l->t, w.made);
    l->items[l->n++] = (ranked){{{s.text, w.cut}, {s.text + w.cut, s.length - w.cut}}, l->scores[w.made]};
}

vmoer_status vm_tokenizer_list_merges(const vm_tokenizer *t, const vm_vocabulary *v, vm_merge **out, size_t *n) {
    *n = 0;
    take_apart(t, count_way, n);
    ranked_list l = {.t = t, .scores = v->scores, .items = vm_malloc(*n + 1, sizeof *l.items)};
    *out = vm_malloc(*n + 1, sizeof **out);
    if (l.items && *out) {
        take_apart(t, list_way, &l);
        qsort(l.items, l.n, sizeof *l.items, by_rank);
        for (size_t i = 0; i < l.n; i++) (*out)[i] = l.items[i].merge;
        vm_free(l.items);
        return VMOER_OK;
    }
    vm_free(l.items);
    vm_free(*out);
    *out = NULL;
    return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu merges", *n);
}

/* Whether the ways to make each token stand together; order[id]: of the tokens that are made, by their first merge. */
static bool find_order(const vm_tokenizer *t, const vm_vocabulary *v, vm_bytes *joined, int32_t *order, int32_t *n) {
    int32_t last = -1;
    *n = 0;
    for (size_t i = 0; i < v->n_merges; i++) {
        const vm_slice left = v->merges[i].left, right = v->merges[i].right;
        joined->length = 0;
        if (vm_bytes_add(joined, left.text, left.length) != VMOER_OK ||
            vm_bytes_add(joined, right.text, right.length) != VMOER_OK)
            return false;
        int32_t made = vm_tokenizer_find(t, joined->data, joined->length); /* t was built of v */
        if (made == last) continue;
        if (order[made] >= 0) return false;
        order[made] = (*n)++;
        last = made;
    }
    return true;
}

vmoer_status vm_tokenizer_score(const vm_tokenizer *t, const vm_vocabulary *v, float *scores) {
    size_t ways = 0;
    int32_t made = 0, *order = vm_malloc(v->size, sizeof *order);
    vm_bytes joined = {0};
    if (!order) return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu tokens", v->size);
    for (size_t id = 0; id < v->size; id++) order[id] = -1;
    take_apart(t, count_way, &ways);
    bool good = find_order(t, v, &joined, order, &made) && ways == v->n_merges;
    for (size_t id = 0; id < v->size; id++) scores[id] = -(float)(order[id] >= 0 ? order[id] : made);
    vm_bytes_free(&joined);
    vm_free(order);
    return good ? VMOER_OK
                : vm_error(VMOER_ERROR_UNSUPPORTED,
                           "%s: these merges are not those of scores, which a GGUF of SentencePiece's BPE has",
                           v->merges_key);
}

vmoer_status vm_tokenizer_take_merges(vm_tokenizer *t, const vm_vocabulary *v) {
    return v->scores ? take_scores(t, v) : take_list(t, v);
}
