/* dataset.c: which files are a task's splits, and the items themselves. The files' formats are dataset_formats.c's. */
#include "io/dataset.h"

#include "base/file.h"
#include "base/status.h"
#include "base/utf8.h"
#include "io/dataset_internal.h"
#include "io/heldout.h"
#include "io/unicode.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ITEMS = 1000000 };

/* ---- items ---- */
vmoer_status vm_dataset_create(const char *task, vm_dataset **out) {
    vm_dataset *d = vm_calloc(1, sizeof *d);
    if (d) d->arena = vm_arena_create();
    if (!d || !d->arena) {
        vm_free(d);
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a data set");
    }
    vm_copy_text(d->task, sizeof d->task, task);
    *out = d;
    return VMOER_OK;
}

void vm_dataset_free(vm_dataset *d) {
    if (!d) return;
    vm_arena_free(d->arena);
    vm_free(d->items);
    vm_free(d);
}

/* Appends text to out[*at] with ASCII letters lower-cased and every run of white space one space, none at the ends.
 * Only ASCII is folded: a newer Unicode table must not move an item to another split. */
static void normalise(const char *text, char *out, size_t *at) {
    size_t length = strlen(text), start = *at;
    for (size_t i = 0, from; i < length;) {
        uint32_t code;
        from = i;
        if (!vm_utf8_next(text, length, &i, &code)) code = (uint8_t)text[i++];
        if (vm_unicode_classify(code) == VM_UNICODE_SPACE) {
            if (*at > start && out[*at - 1] != ' ') out[(*at)++] = ' ';
        } else if (code >= 'A' && code <= 'Z') {
            out[(*at)++] = (char)(code + 'a' - 'A');
        } else {
            memcpy(out + *at, text + from, i - from);
            *at += i - from;
        }
    }
    if (*at > start && out[*at - 1] == ' ') --*at;
}

vmoer_status vm_item_hash(const char *stem, const char *answer, uint64_t *out) {
    char *text = vm_malloc(strlen(stem) + strlen(answer) + 1, 1), hex[65];
    if (!text) return vm_error(VMOER_ERROR_MEMORY, "no memory for an item");
    size_t length = 0;
    normalise(stem, text, &length);
    text[length++] = '\n';
    normalise(answer, text, &length);
    vm_sha256(text, length, hex);
    vm_free(text);
    hex[16] = '\0'; /* the first 64 of its bits */
    *out = strtoull(hex, NULL, 16);
    return VMOER_OK;
}

static vmoer_status check_text(const char *text, const char *what) {
    size_t length = strlen(text), bad;
    if (!vm_utf8_valid(text, length, &bad))
        return vm_error(VMOER_ERROR_DATA, "the %s is not UTF-8 at byte %zu", what, bad);
    uint32_t code;
    for (size_t at = 0; at < length && vm_utf8_next(text, length, &at, &code);) {
        if (vm_unicode_classify(code) != VM_UNICODE_SPACE) return VMOER_OK;
    }
    return vm_error(VMOER_ERROR_DATA, "the %s is empty", what);
}

static const char *copy(char **to, const char *text) {
    size_t size = strlen(text) + 1;
    const char *start = memcpy(*to, text, size);
    *to += size;
    return start;
}

vmoer_status vm_dataset_add(vm_dataset *d, const vm_item *item) {
    if (d->count >= MAX_ITEMS) return vm_error(VMOER_ERROR_LIMIT, "more than %d items", MAX_ITEMS);
    if (item->n_choices < 2 || item->n_choices > VM_MAX_CHOICES)
        return vm_error(VMOER_ERROR_DATA, "%d choices, 2 to %d are possible", item->n_choices, VM_MAX_CHOICES);
    if (item->answer < 0 || item->answer >= item->n_choices)
        return vm_error(VMOER_ERROR_DATA, "answer %d of %d choices", item->answer, item->n_choices);
    size_t bytes = strlen(item->id) + strlen(item->stem) + 2;
    VM_TRY(check_text(item->id, "id"));
    VM_TRY(check_text(item->stem, "question"));
    for (int c = 0; c < item->n_choices; c++) {
        VM_TRY_IN(check_text(item->choices[c], "choice"), "choice %d", c);
        bytes += strlen(item->choices[c]) + 1;
    }
    vm_item kept = *item;
    VM_TRY(vm_item_hash(item->stem, item->choices[item->answer], &kept.hash));
    char *to = vm_arena_alloc(d->arena, bytes, 1);
    void *grown = d->items;
    if (!to || !vm_grow(&grown, &d->capacity, d->count + 1, sizeof *d->items))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu items", d->count + 1);
    d->items = grown;
    kept.id = copy(&to, item->id);
    kept.stem = copy(&to, item->stem);
    for (int c = 0; c < item->n_choices; c++) kept.choices[c] = copy(&to, item->choices[c]);
    d->items[d->count++] = kept;
    return VMOER_OK;
}

/* ---- tasks and their files ---- */
enum { MAX_PLACES = 4, MAX_POOL = 2 };

typedef struct place {
    const char *pattern;         /* under the data folder; * is the split's name in the file's, $ the subject */
    const char *test;            /* name of the test split */
    const char *train[MAX_POOL]; /* names of the files pooled for the training items */
} place;

typedef struct task_files {
    const char *task;
    vm_dataset_format format;
    place places[MAX_PLACES]; /* tried in order */
} task_files;

/* OpenBookQA: in the plain layout the official training questions are cut into train and dev; the official archive has
 * them whole in train. Either way the pool is the same 4,957 questions, and so is the held-out part. */
static const task_files tasks[] = {
    {"openbookqa",
     VM_DATASET_AI2,
     {{"openbookqa/*.jsonl", "test", {"train", "dev"}},
      {"openbookqa/OpenBookQA-V1-Sep2018/Data/Main/*.jsonl", "test", {"train"}},
      {"OpenBookQA-V1-Sep2018/Data/Main/*.jsonl", "test", {"train"}}}},
    {"arc_easy",
     VM_DATASET_AI2,
     {{"arc/ARC-Easy-*.jsonl", "Test", {"Train"}},
      {"arc/ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-*.jsonl", "Test", {"Train"}},
      {"ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-*.jsonl", "Test", {"Train"}}}},
    {"arc_challenge",
     VM_DATASET_AI2,
     {{"arc/ARC-Challenge-*.jsonl", "Test", {"Train"}},
      {"arc/ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-*.jsonl", "Test", {"Train"}},
      {"ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-*.jsonl", "Test", {"Train"}}}},
    {"sciq", VM_DATASET_SCIQ, {{"sciq/*.json", "test", {"train"}}, {"SciQ dataset-2 3/*.json", "test", {"train"}}}},
    {"medmcqa", VM_DATASET_MEDMCQA, {{"medmcqa/*.json", "dev", {"train"}}}},
    {"piqa",
     VM_DATASET_PIQA,
     {{"piqa/*.jsonl", "valid", {"train"}},
      {"piqa/*.jsonl", "dev", {"train"}},
      {"physicaliqa-train-dev/*.jsonl", "dev", {"train"}}}},
    {"social_iqa",
     VM_DATASET_SIQA,
     {{"social_iqa/*.jsonl", "dev", {"train"}},
      {"siqa/*.jsonl", "dev", {"train"}},
      {"socialiqa-train-dev/*.jsonl", "dev", {"train"}}}},
};
/* Its auxiliary training set is questions of other kinds, so what trains is the subject's own val and dev. */
static const task_files mmlu = {"mmlu_",
                                VM_DATASET_MMLU,
                                {{"mmlu/*/$_*.csv", "test", {"val", "dev"}},
                                 {"mmlu/data/*/$_*.csv", "test", {"val", "dev"}},
                                 {"data/*/$_*.csv", "test", {"val", "dev"}},
                                 {"*/$_*.csv", "test", {"val", "dev"}}}};

static vmoer_status find_task(const char *task, const task_files **out) {
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        if (strcmp(tasks[i].task, task) == 0) {
            *out = &tasks[i];
            return VMOER_OK;
        }
    }
    const char *subject = task + strlen(mmlu.task);
    if (strncmp(task, mmlu.task, strlen(mmlu.task)) == 0 && *subject && strlen(task) < sizeof((vm_dataset *)0)->task &&
        strspn(subject, "abcdefghijklmnopqrstuvwxyz_") == strlen(subject)) {
        *out = &mmlu;
        return VMOER_OK;
    }
    return vm_error(VMOER_ERROR_ARGUMENT,
                    "no task \"%.60s\"; there are openbookqa, arc_easy, arc_challenge, sciq, medmcqa, piqa, social_iqa "
                    "and mmlu_<subject>",
                    task);
}

/* Room for a pattern whose holes are filled beyond the data folder's path. */
enum { PATH_SIZE = 4096, PATTERN_SIZE = 256 };

static vmoer_status place_path(char out[PATH_SIZE], const char *dir, const char *task, const place *p,
                               const char *split) {
    int length = snprintf(out, PATH_SIZE, "%s/", dir);
    if (length < 0 || length >= PATH_SIZE - PATTERN_SIZE)
        return vm_error(VMOER_ERROR_LIMIT, "the data folder's path is too long");
    char *to = out + length;
    for (const char *s = p->pattern; *s; s++) {
        const char *part = *s == '*' ? split : task + strlen(mmlu.task);
        if (*s == '*' || *s == '$')
            to = stpcpy(to, part);
        else
            *to++ = *s;
    }
    *to = '\0';
    return VMOER_OK;
}

static vmoer_status parse_file(vm_dataset *d, vm_dataset_format format, const char *path, const vm_text_file *labels) {
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    vm_text_file file = {(const char *)map.data, map.size, path};
    vmoer_status status = vm_dataset_parse(d, format, &file, labels);
    vm_map_close(&map);
    return status;
}

/* With the labels beside it, where the format has them: "dev.jsonl" and "dev-labels.lst". */
static vmoer_status append_file(vm_dataset *d, vm_dataset_format format, const char *path) {
    if (!vm_dataset_has_labels(format)) return parse_file(d, format, path, NULL);
    char labels_path[PATH_SIZE];
    vm_map map;
    snprintf(labels_path, sizeof labels_path, "%.*s-labels.lst", (int)(strlen(path) - strlen(".jsonl")), path);
    VM_TRY_IN(vm_map_open(labels_path, &map), "%s: its right answers", path);
    vm_text_file labels = {(const char *)map.data, map.size, labels_path};
    vmoer_status status = parse_file(d, format, path, &labels);
    vm_map_close(&map);
    return status;
}

/* The first place that has the file; the error names all of them. */
static vmoer_status find_place(const char *dir, const task_files *t, const char *task, bool test, const place **out) {
    char path[PATH_SIZE], looked_for[1024] = "";
    for (int i = 0; i < MAX_PLACES && t->places[i].pattern; i++) {
        VM_TRY(place_path(path, dir, task, &t->places[i], test ? t->places[i].test : t->places[i].train[0]));
        if (vm_file_exists(path)) {
            *out = &t->places[i];
            return VMOER_OK;
        }
        if (!test && i > 0 && strcmp(t->places[i].pattern, t->places[i - 1].pattern) == 0)
            continue; /* they differ in the test's file alone */
        size_t used = strlen(looked_for);
        snprintf(looked_for + used, sizeof looked_for - used, "%s%s", used ? ", " : "", path + strlen(dir) + 1);
    }
    return vm_error(VMOER_ERROR_IO, "%s: none of the files %s", dir, looked_for);
}

/* Keeps the held-out items, or the others. */
static vmoer_status keep_side(vm_dataset *d, bool held_out) {
    const vm_item **items = vm_malloc(d->count + 1, sizeof *items);
    bool *held = vm_calloc(d->count + 1, sizeof *held);
    vmoer_status status =
        items && held ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory to split %zu items", d->count);
    if (status == VMOER_OK) {
        for (size_t i = 0; i < d->count; i++) items[i] = &d->items[i];
        status = vm_heldout_split(items, d->count, held);
    }
    if (status == VMOER_OK) {
        size_t kept = 0;
        for (size_t i = 0; i < d->count; i++) {
            if (held[i] == held_out) d->items[kept++] = d->items[i];
        }
        d->count = kept;
    }
    vm_free(items);
    vm_free(held);
    return status;
}

vmoer_status vm_dataset_load(const char *dir, const char *task, vm_split split, vm_dataset **out) {
    const task_files *t;
    const place *p;
    char path[PATH_SIZE];
    bool test = split == VM_SPLIT_TEST;
    VM_TRY(find_task(task, &t));
    VM_TRY_IN(find_place(dir, t, task, test, &p), "%s", task);

    vm_dataset *d;
    VM_TRY(vm_dataset_create(task, &d));
    vmoer_status status = VMOER_OK;
    for (int i = 0; i < (test ? 1 : MAX_POOL) && (test || p->train[i]); i++) {
        VM_GOTO(place_path(path, dir, task, p, test ? p->test : p->train[i]));
        VM_GOTO(append_file(d, t->format, path));
    }
    if (d->count == 0) VM_GOTO(vm_error(VMOER_ERROR_DATA, "%s: %s has no items", task, path));
    if (!test) VM_GOTO(keep_side(d, split == VM_SPLIT_HELDOUT));
    if (d->count == 0)
        status =
            vm_error(VMOER_ERROR_DATA, "%s: %s: too few questions, or too much alike, to hold some out", task, path);
done:
    if (status != VMOER_OK)
        vm_dataset_free(d);
    else
        *out = d;
    return status;
}

vmoer_status vm_dataset_load_file(const char *path, vm_dataset **out) {
    vm_dataset *d;
    VM_TRY(vm_dataset_create("file", &d));
    vmoer_status status = parse_file(d, VM_DATASET_USER, path, NULL);
    if (status == VMOER_OK && d->count == 0) status = vm_error(VMOER_ERROR_DATA, "%s: no items", path);
    if (status != VMOER_OK)
        vm_dataset_free(d);
    else
        *out = d;
    return status;
}

/* ---- access and cuts ---- */
const char *vm_dataset_task(const vm_dataset *d) { return d->task; }
size_t vm_dataset_count(const vm_dataset *d) { return d->count; }
const vm_item *vm_dataset_at(const vm_dataset *d, size_t index) { return index < d->count ? &d->items[index] : NULL; }

size_t vm_dataset_keep_choices(vm_dataset *d, int n) {
    size_t before = d->count, kept = 0;
    for (size_t i = 0; i < before; i++) {
        if (d->items[i].n_choices == n) d->items[kept++] = d->items[i];
    }
    d->count = kept;
    return before - kept;
}

void vm_dataset_limit(vm_dataset *d, size_t n) {
    if (n < d->count) d->count = n;
}

void vm_dataset_sample(vm_dataset *d, size_t n) {
    if (n >= d->count) return;
    /* The n-th smallest hash by bisection on its bits: no memory needed, so nothing to fail. */
    uint64_t low = 0;
    for (uint64_t bit = UINT64_C(1) << 63; bit; bit >>= 1) {
        size_t below = 0;
        for (size_t i = 0; i < d->count; i++) below += d->items[i].hash < (low | bit);
        if (below < n) low |= bit;
    }
    size_t below = 0, kept = 0;
    for (size_t i = 0; i < d->count; i++) below += d->items[i].hash < low;
    size_t ties = n - below; /* equal hashes are equal questions: the first ones stay */
    for (size_t i = 0; i < d->count; i++) {
        bool keep = d->items[i].hash < low;
        if (d->items[i].hash == low && ties > 0) {
            keep = true;
            ties--;
        }
        if (keep) d->items[kept++] = d->items[i];
    }
    d->count = kept;
}
