/* dataset_formats.c: the official files of the data sets, and a user's. What a format does not need is ignored, what it
 * needs is checked; every error names file and line (for SciQ's list: the item). */
#include "base/json.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/dataset_internal.h"
#include <stdio.h>
#include <string.h>

enum { MAX_LINE = 1 << 20 };

/* ---- JSON ---- */
static vmoer_status want_text(const json_t *object, const char *key, const char **out) {
    *out = json_string_value(json_object_get(object, key));
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "no text \"%s\"", key);
}

/* Ids are optional; numbers, which some copies have, are as good as none. */
static const char *optional_id(const json_t *object, const char *otherwise) {
    const char *id = json_string_value(json_object_get(object, "id"));
    return id && *id ? id : otherwise;
}

static vmoer_status read_ai2(const json_t *object, vm_item *item) {
    const json_t *question = json_object_get(object, "question");
    const json_t *choices = json_object_get(question, "choices");
    const char *key, *labels[VM_MAX_CHOICES];
    VM_TRY(want_text(question, "stem", &item->stem));
    VM_TRY(want_text(object, "answerKey", &key));
    if (!json_is_array(choices)) return vm_error(VMOER_ERROR_FORMAT, "no list \"choices\"");
    size_t n = json_array_size(choices);
    if (n > VM_MAX_CHOICES) return vm_error(VMOER_ERROR_LIMIT, "%zu choices, at most %d", n, VM_MAX_CHOICES);
    item->n_choices = (int)n;
    item->answer = -1;
    for (size_t c = 0; c < n; c++) {
        const json_t *choice = json_array_get(choices, c);
        VM_TRY(want_text(choice, "text", &item->choices[c]));
        VM_TRY(want_text(choice, "label", &labels[c]));
        for (size_t other = 0; other < c; other++) {
            if (strcmp(labels[other], labels[c]) == 0)
                return vm_error(VMOER_ERROR_DATA, "two choices are labelled \"%.20s\"", labels[c]);
        }
        if (strcmp(labels[c], key) == 0) item->answer = (int)c;
    }
    if (item->answer < 0) return vm_error(VMOER_ERROR_DATA, "answerKey \"%.20s\" is no choice's label", key);
    return VMOER_OK;
}

static vmoer_status read_medmcqa(const json_t *object, vm_item *item) {
    static const char *const keys[4] = {"opa", "opb", "opc", "opd"};
    VM_TRY(want_text(object, "question", &item->stem));
    for (int c = 0; c < 4; c++) VM_TRY(want_text(object, keys[c], &item->choices[c]));
    item->n_choices = 4;
    const json_t *right = json_object_get(object, "cop");
    if (!json_is_integer(right)) return vm_error(VMOER_ERROR_FORMAT, "no integer \"cop\"");
    if (json_integer_value(right) < 1 || json_integer_value(right) > 4)
        return vm_error(VMOER_ERROR_DATA, "\"cop\" is not 1 to 4");
    item->answer = (int)json_integer_value(right) - 1;
    return VMOER_OK;
}

static vmoer_status read_user(const json_t *object, vm_item *item) {
    const json_t *choices = json_object_get(object, "choices"), *right = json_object_get(object, "answer");
    VM_TRY(want_text(object, "question", &item->stem));
    if (!json_is_array(choices)) return vm_error(VMOER_ERROR_FORMAT, "no list \"choices\"");
    size_t n = json_array_size(choices);
    if (n > VM_MAX_CHOICES) return vm_error(VMOER_ERROR_LIMIT, "%zu choices, at most %d", n, VM_MAX_CHOICES);
    item->n_choices = (int)n;
    for (size_t c = 0; c < n; c++) {
        item->choices[c] = json_string_value(json_array_get(choices, c));
        if (!item->choices[c]) return vm_error(VMOER_ERROR_FORMAT, "choice %zu is not a text", c);
    }
    if (!json_is_integer(right)) return vm_error(VMOER_ERROR_FORMAT, "no integer \"answer\" (an index from 0)");
    json_int_t answer = json_integer_value(right);
    if (answer < 0 || answer >= (json_int_t)n)
        return vm_error(VMOER_ERROR_DATA, "\"answer\" is not an index into the %zu choices", n);
    item->answer = (int)answer;
    return VMOER_OK;
}

/* The file has no order of choices; the item's hash decides one. */
static vmoer_status read_sciq(const json_t *object, vm_item *item) {
    static const char *const keys[4] = {"correct_answer", "distractor1", "distractor2", "distractor3"};
    const char *texts[4];
    VM_TRY(want_text(object, "question", &item->stem));
    for (int c = 0; c < 4; c++) VM_TRY(want_text(object, keys[c], &texts[c]));
    uint64_t hash;
    VM_TRY(vm_item_hash(item->stem, texts[0], &hash));
    int32_t order[4] = {0, 1, 2, 3};
    vm_rng rng = vm_rng_start(hash, VM_RNG_SHUFFLE, 0);
    vm_rng_shuffle(&rng, order, 4);
    item->n_choices = 4;
    for (int c = 0; c < 4; c++) {
        item->choices[c] = texts[order[c]];
        if (order[c] == 0) item->answer = c;
    }
    return VMOER_OK;
}

/* ---- right answers in a file of their own ---- */
typedef struct labels {
    const vm_text_file *file; /* NULL: the format has none */
    size_t at, line;          /* what comes next; its line, from 1 */
} labels;

static bool is_blank(const char *line, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (!strchr(" \t\r", line[i]) || line[i] == '\0') return false;
    }
    return true;
}

/* The next line of the file that is not blank, *length without its end; NULL: there is none. */
static const char *next_label(labels *l, size_t *length) {
    while (l->at < l->file->size) {
        const char *line = l->file->data + l->at, *newline = memchr(line, '\n', l->file->size - l->at);
        *length = newline ? (size_t)(newline - line) : l->file->size - l->at;
        l->at += *length + 1;
        l->line++;
        if (!is_blank(line, *length)) return line;
    }
    return NULL;
}

/* The next label, one digit from `first` to `first` + n - 1, as an index from 0. */
static vmoer_status take_label(labels *l, int first, int n, int *out) {
    size_t length;
    const char *text = next_label(l, &length);
    if (!text) return vm_error(VMOER_ERROR_DATA, "no label for it in %s", l->file->where);
    while (length > 0 && is_blank(text + length - 1, 1)) length--;
    *out = text[0] - '0' - first;
    if (length != 1 || *out < 0 || *out >= n)
        return vm_error(VMOER_ERROR_DATA, "%s:%zu: the label is not %d to %d", l->file->where, l->line, first,
                        first + n - 1);
    return VMOER_OK;
}

/* After the last question: that there are no more labels than questions. */
static vmoer_status end_labels(labels *l) {
    size_t length;
    if (l->file && next_label(l, &length))
        return vm_error(VMOER_ERROR_DATA, "%s:%zu: a label without a question", l->file->where, l->line);
    return VMOER_OK;
}

static vmoer_status read_piqa(const json_t *object, labels *l, vm_item *item) {
    VM_TRY(want_text(object, "goal", &item->stem));
    VM_TRY(want_text(object, "sol1", &item->choices[0]));
    VM_TRY(want_text(object, "sol2", &item->choices[1]));
    item->n_choices = 2;
    return take_label(l, 0, 2, &item->answer);
}

/* The stem is "{context} {question}", in *text, which the caller frees. */
static vmoer_status read_siqa(const json_t *object, labels *l, char **text, vm_item *item) {
    static const char *const keys[3] = {"answerA", "answerB", "answerC"};
    const char *context, *question;
    VM_TRY(want_text(object, "context", &context));
    VM_TRY(want_text(object, "question", &question));
    for (int c = 0; c < 3; c++) VM_TRY(want_text(object, keys[c], &item->choices[c]));
    size_t size = strlen(context) + strlen(question) + 2;
    *text = vm_malloc(size, 1);
    if (!*text) return vm_error(VMOER_ERROR_MEMORY, "no memory for an item");
    snprintf(*text, size, "%s %s", context, question);
    item->stem = *text;
    item->n_choices = 3;
    return take_label(l, 1, 3, &item->answer);
}

static vmoer_status add_object(vm_dataset *d, vm_dataset_format format, const json_t *object, size_t number,
                               labels *l) {
    char id[96], *text = NULL;
    vmoer_status status;
    snprintf(id, sizeof id, "%s-%zu", d->task, number);
    vm_item item = {.id = optional_id(object, id)};
    if (!json_is_object(object)) return vm_error(VMOER_ERROR_FORMAT, "not a JSON object");
    switch (format) {
    case VM_DATASET_AI2:
        status = read_ai2(object, &item);
        break;
    case VM_DATASET_MEDMCQA:
        status = read_medmcqa(object, &item);
        break;
    case VM_DATASET_PIQA:
        status = read_piqa(object, l, &item);
        break;
    case VM_DATASET_SIQA:
        status = read_siqa(object, l, &text, &item);
        break;
    case VM_DATASET_USER:
        status = read_user(object, &item);
        break;
    default:
        status = read_sciq(object, &item);
        break;
    }
    if (status == VMOER_OK) status = vm_dataset_add(d, &item);
    vm_free(text);
    return status;
}

static vmoer_status parse_lines(vm_dataset *d, vm_dataset_format format, const vm_text_file *file, labels *l) {
    size_t number = 1;
    for (size_t start = 0, end; start < file->size; start = end + 1, number++) {
        const char *newline = memchr(file->data + start, '\n', file->size - start);
        end = newline ? (size_t)(newline - file->data) : file->size;
        if (end - start > MAX_LINE)
            return vm_error(VMOER_ERROR_LIMIT, "%s:%zu: a line of %zu bytes, at most %d", file->where, number,
                            end - start, MAX_LINE);
        if (is_blank(file->data + start, end - start)) continue;
        char place[4200];
        snprintf(place, sizeof place, "%s:%zu", file->where, number);
        json_t *object;
        VM_TRY(vm_json_parse(file->data + start, end - start, place, &object));
        vmoer_status status = add_object(d, format, object, number, l);
        json_decref(object);
        VM_TRY_IN(status, "%s", place);
    }
    return end_labels(l);
}

static vmoer_status parse_list(vm_dataset *d, vm_dataset_format format, const vm_text_file *file, labels *l) {
    json_t *list;
    VM_TRY(vm_json_parse(file->data, file->size, file->where, &list));
    vmoer_status status = VMOER_OK;
    if (!json_is_array(list)) status = vm_error(VMOER_ERROR_FORMAT, "%s: not a JSON list", file->where);
    for (size_t i = 0; status == VMOER_OK && i < json_array_size(list); i++) {
        status = add_object(d, format, json_array_get(list, i), i + 1, l);
        if (status != VMOER_OK) vm_error_in(status, "%s: item %zu", file->where, i + 1);
    }
    json_decref(list);
    return status;
}

/* ---- CSV (RFC 4180: quoted fields may hold commas, doubled quotes and line breaks) ---- */
enum { MMLU_FIELDS = 6 };

typedef struct csv {
    const char *data;
    size_t size, at;
    size_t line;  /* of data[at], from 1 */
    char *buffer; /* [MAX_LINE + MMLU_FIELDS]: the record's fields, NUL-terminated */
} csv;

/* One record. Its lines' ends are "\n" or "\r\n"; a line break inside quotes is part of the field. */
static vmoer_status read_record(csv *f, const char *fields[MMLU_FIELDS]) {
    size_t first = f->at, used = 0;
    for (int n = 0;; n++) {
        if (n == MMLU_FIELDS) return vm_error(VMOER_ERROR_FORMAT, "more than %d fields", MMLU_FIELDS);
        fields[n] = f->buffer + used;
        bool quoted = f->at < f->size && f->data[f->at] == '"', closed = false;
        f->at += quoted;
        for (; f->at < f->size; f->at++) {
            char c = f->data[f->at];
            if (f->at - first > MAX_LINE)
                return vm_error(VMOER_ERROR_LIMIT, "a record of more than %d bytes", MAX_LINE);
            if (c == '\0') return vm_error(VMOER_ERROR_DATA, "a NUL byte");
            if (quoted && c == '"') {
                closed = f->at + 1 >= f->size || f->data[f->at + 1] != '"';
                f->at++;
                if (closed) break;
            } else if (!quoted && (c == ',' || c == '\n')) {
                break;
            }
            f->line += c == '\n';
            f->buffer[used++] = c;
        }
        if (quoted && !closed) return vm_error(VMOER_ERROR_FORMAT, "a quoted field does not end");
        if (quoted && f->at < f->size && f->data[f->at] == '\r') f->at++; /* before the line's end */
        bool ends = f->at >= f->size || f->data[f->at] == '\n';
        if (!quoted && ends && f->buffer + used > fields[n] && f->buffer[used - 1] == '\r') used--;
        f->buffer[used++] = '\0';
        if (f->at < f->size && f->data[f->at] == ',') {
            f->at++;
            continue;
        }
        if (f->at < f->size && f->data[f->at] != '\n') return vm_error(VMOER_ERROR_FORMAT, "text after a quoted field");
        if (n != MMLU_FIELDS - 1) return vm_error(VMOER_ERROR_FORMAT, "%d fields, %d are needed", n + 1, MMLU_FIELDS);
        f->at++; /* the line's end, or one past the file's */
        f->line++;
        return VMOER_OK;
    }
}

static vmoer_status add_record(vm_dataset *d, csv *f, size_t line) {
    const char *fields[MMLU_FIELDS];
    VM_TRY(read_record(f, fields));
    char id[96];
    snprintf(id, sizeof id, "%s-%zu", d->task, line);
    const char *key = fields[5];
    if (key[0] < 'A' || key[0] > 'D' || key[1] != '\0')
        return vm_error(VMOER_ERROR_DATA, "the answer \"%.20s\" is not A, B, C or D", key);
    vm_item item = {.id = id, .stem = fields[0], .n_choices = 4, .answer = key[0] - 'A'};
    memcpy(item.choices, fields + 1, 4 * sizeof *fields);
    return vm_dataset_add(d, &item);
}

static vmoer_status parse_csv(vm_dataset *d, const vm_text_file *file) {
    csv f = {.data = file->data, .size = file->size, .line = 1, .buffer = vm_malloc(MAX_LINE + MMLU_FIELDS + 1, 1)};
    if (!f.buffer) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory for a line", file->where);
    vmoer_status status = VMOER_OK;
    while (status == VMOER_OK && f.at < f.size) {
        size_t line = f.line;
        status = add_record(d, &f, line);
        if (status != VMOER_OK) vm_error_in(status, "%s:%zu", file->where, line);
    }
    vm_free(f.buffer);
    return status;
}

bool vm_dataset_has_labels(vm_dataset_format format) { return format == VM_DATASET_PIQA || format == VM_DATASET_SIQA; }

vmoer_status vm_dataset_parse(vm_dataset *d, vm_dataset_format format, const vm_text_file *file,
                              const vm_text_file *right) {
    labels l = {.file = right};
    if (format == VM_DATASET_MMLU) return parse_csv(d, file);
    if (format == VM_DATASET_SCIQ) return parse_list(d, format, file, &l);
    return parse_lines(d, format, file, &l);
}
