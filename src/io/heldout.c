/* heldout.c: items whose content words overlap by more than a third (Jaccard index) are linked; what is connected is a
 * cluster; clusters are taken in the order of a hash until 15% of the items are held out. So no held-out question has a
 * training question closer than 1/3, and nothing depends on the files' order. docs/HELDOUT.md has the figures. */
#include "io/heldout.h"

#include "base/memory.h"
#include "base/status.h"
#include "io/content_words.h"
#include <stdlib.h>

enum {
    HELD_PERCENT = 15,
    LARGEST_PERCENT = 5 /* a larger cluster stays in training: held out, it would be most of what is measured */
};

/* ---- which items share which words ---- */
typedef struct posting {
    uint64_t word;
    size_t item;
} posting;

typedef struct word_index {
    posting *postings; /* [count], by word, then item */
    size_t count;
    const vm_word_set *sets; /* [n_items] */
    uint32_t *common;        /* [n_items]: words shared with the current query; all 0 between queries */
    size_t *touched;         /* [n_items]: the items with common > 0 */
} word_index;

static int compare_postings(const void *a, const void *b) {
    const posting *x = a, *y = b;
    if (x->word != y->word) return x->word < y->word ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

static void free_index(word_index *index) {
    vm_free(index->postings);
    vm_free(index->common);
    vm_free(index->touched);
}

static vmoer_status build_index(word_index *index, const vm_word_set *sets, size_t n) {
    *index = (word_index){.sets = sets};
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += sets[i].count;
    index->postings = vm_malloc(total + 1, sizeof *index->postings);
    index->common = vm_calloc(n + 1, sizeof *index->common);
    index->touched = vm_malloc(n + 1, sizeof *index->touched);
    if (!index->postings || !index->common || !index->touched)
        return vm_error(VMOER_ERROR_MEMORY, "no memory to compare %zu items", n);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sets[i].count; k++) index->postings[index->count++] = (posting){sets[i].words[k], i};
    }
    qsort(index->postings, index->count, sizeof *index->postings, compare_postings);
    return VMOER_OK;
}

static size_t first_posting(const word_index *index, uint64_t word) {
    size_t low = 0, high = index->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (index->postings[middle].word < word)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Counts the words `query` shares with each item below `limit`; returns how many items it touched. */
static size_t count_common(word_index *index, const vm_word_set *query, size_t limit) {
    size_t n_touched = 0;
    for (size_t k = 0; k < query->count; k++) {
        uint64_t word = query->words[k];
        for (size_t p = first_posting(index, word);
             p < index->count && index->postings[p].word == word && index->postings[p].item < limit; p++) {
            size_t item = index->postings[p].item;
            if (index->common[item]++ == 0) index->touched[n_touched++] = item;
        }
    }
    return n_touched;
}

/* ---- clusters: a forest in which every root is its cluster's name ---- */
static size_t find_root(size_t *parent, size_t i) {
    while (parent[i] != i) {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    return i;
}

static void join(size_t *parent, size_t a, size_t b) { parent[find_root(parent, a)] = find_root(parent, b); }

static void link_similar(word_index *index, size_t n, size_t *parent) {
    for (size_t i = 0; i < n; i++) {
        size_t n_touched = count_common(index, &index->sets[i], i);
        for (size_t k = 0; k < n_touched; k++) {
            size_t j = index->touched[k], common = index->common[j];
            index->common[j] = 0;
            size_t all = index->sets[i].count + index->sets[j].count - common;
            if (3 * common > all) join(parent, i, j);
        }
    }
}

typedef struct cluster {
    uint64_t key; /* smallest hash of its items; once the cluster is complete, stirred */
    size_t root, size;
} cluster;

static int compare_keys(const void *a, const void *b) {
    uint64_t x = ((const cluster *)a)->key, y = ((const cluster *)b)->key;
    return (x > y) - (x < y);
}

/* The smallest of many hashes is small: without this, large clusters would always come first. A bijection (splitmix64).
 */
static uint64_t stir(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Items of the same hash are the same question, even where no content word is left to compare. */
static void link_equal(const vm_item *const *items, size_t n, size_t *parent, cluster *scratch) {
    for (size_t i = 0; i < n; i++) scratch[i] = (cluster){items[i]->hash, i, 1};
    qsort(scratch, n, sizeof *scratch, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (scratch[i].key == scratch[i - 1].key) join(parent, scratch[i].root, scratch[i - 1].root);
    }
}

static void choose(const vm_item *const *items, size_t n, size_t *parent, cluster *clusters, bool *held_out) {
    size_t largest = n * LARGEST_PERCENT / 100, wanted = (n * HELD_PERCENT + 50) / 100, held = 0, n_clusters = 0;
    if (largest < 1) largest = 1;
    for (size_t i = 0; i < n; i++) clusters[i] = (cluster){UINT64_MAX, i, 0};
    for (size_t i = 0; i < n; i++) {
        cluster *c = &clusters[find_root(parent, i)];
        c->size++;
        if (items[i]->hash < c->key) c->key = items[i]->hash;
        held_out[i] = false;
    }
    for (size_t i = 0; i < n; i++) {
        if (clusters[i].size > 0)
            clusters[n_clusters++] = (cluster){stir(clusters[i].key), clusters[i].root, clusters[i].size};
    }
    qsort(clusters, n_clusters, sizeof *clusters, compare_keys);
    for (size_t c = 0; c < n_clusters && held < wanted; c++) {
        if (clusters[c].size > largest) continue;
        held_out[clusters[c].root] = true;
        held += clusters[c].size;
    }
    for (size_t i = 0; i < n; i++) held_out[i] = held_out[find_root(parent, i)];
}

vmoer_status vm_heldout_split(const vm_item *const *items, size_t n, bool *held_out) {
    vm_word_set *sets;
    VM_TRY(vm_word_sets_create(items, n, &sets));
    word_index index;
    vmoer_status status = build_index(&index, sets, n);
    size_t *parent = vm_malloc(n + 1, sizeof *parent);
    cluster *clusters = vm_malloc(n + 1, sizeof *clusters);
    if (status == VMOER_OK && (!parent || !clusters))
        status = vm_error(VMOER_ERROR_MEMORY, "no memory to cluster %zu items", n);
    if (status == VMOER_OK) {
        for (size_t i = 0; i < n; i++) parent[i] = i;
        link_equal(items, n, parent, clusters);
        link_similar(&index, n, parent);
        choose(items, n, parent, clusters, held_out);
    }
    vm_free(clusters);
    vm_free(parent);
    free_index(&index);
    vm_free(sets);
    return status;
}

vmoer_status vm_heldout_similarity(const vm_item *const *queries, size_t n, const vm_item *const *pool, size_t m,
                                   float *out) {
    vm_word_set *asked = NULL, *sets = NULL;
    word_index index = {0};
    vmoer_status status;
    VM_GOTO(vm_word_sets_create(queries, n, &asked));
    VM_GOTO(vm_word_sets_create(pool, m, &sets));
    VM_GOTO(build_index(&index, sets, m));
    for (size_t i = 0; i < n; i++) {
        size_t n_touched = count_common(&index, &asked[i], m);
        out[i] = 0;
        for (size_t k = 0; k < n_touched; k++) {
            size_t j = index.touched[k], common = index.common[j];
            index.common[j] = 0;
            float similarity = (float)common / (float)(asked[i].count + sets[j].count - common);
            if (similarity > out[i]) out[i] = similarity;
        }
    }
done:
    free_index(&index);
    vm_free(sets);
    vm_free(asked);
    return status;
}
