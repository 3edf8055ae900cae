/* reader.h: taking checked values out of a JSON file that anybody may have written. An error is one line that names the file and the key: `where` is
 * the object that holds `key` ("" for the document itself). Private to report/. */
#ifndef VM_REPORT_READER_H
#define VM_REPORT_READER_H

#include "report/collect.h"

enum { VM_REPORT_MAX_ENTRIES = 8000 }; /* of one array: more than any run of vmoer writes */

typedef struct vm_reader {
    vm_report_data *data;
    const char *file;
} vm_reader;

vmoer_status vm_reader_memory(const vm_reader *r); /* the error "out of memory" */
vmoer_status vm_reader_wrong(const vm_reader *r, const char *where, const char *key, const char *expected);
/* count * size zeroed bytes of the data's arena. */
void *vm_reader_alloc(const vm_reader *r, size_t count, size_t size);

/* A copy of `item` to the end of a growing array. */
vmoer_status vm_reader_append(const vm_reader *r, void **items, size_t *capacity, size_t *n, const void *item, size_t size);

/* Opens r->file, an object with a "kind", keeps it alive with the data, and copies `path`. */
vmoer_status vm_reader_open(const vm_reader *r, const char *path, const json_t **root, const char **kept_path, const char **kind);

vmoer_status vm_need_number(const vm_reader *r, const json_t *object, const char *where, const char *key, double *out);
vmoer_status vm_need_count(const vm_reader *r, const json_t *object, const char *where, const char *key, size_t *out);
vmoer_status vm_need_bool(const vm_reader *r, const json_t *object, const char *where, const char *key, bool *out);
vmoer_status vm_need_string(const vm_reader *r, const json_t *object, const char *where, const char *key, const char **out);
vmoer_status vm_need_object(const vm_reader *r, const json_t *object, const char *where, const char *key, const json_t **out);
vmoer_status vm_need_interval(const vm_reader *r, const json_t *object, const char *where, const char *key, vm_interval *out);
/* The 15 bins of "reliability". */
vmoer_status vm_need_bins(const vm_reader *r, const json_t *object, const char *where, vm_reliability_bin bins[VM_ECE_BINS]);
/* "group / name" */
vmoer_status vm_need_label(const vm_reader *r, const json_t *root, vm_report_label *out);

/* NAN where the key is absent or null. */
vmoer_status vm_may_number(const vm_reader *r, const json_t *object, const char *where, const char *key, double *out);
/* A number, or {"mean", "ci95"} whose interval may be absent; NAN for what is. */
vmoer_status vm_may_figure(const vm_reader *r, const json_t *object, const char *where, const char *key, vm_figure *out);
/* An array of [x, y] into two new arrays; an absent one is empty. */
vmoer_status vm_may_points(const vm_reader *r, const json_t *object, const char *where, const char *key, double **x, double **y, size_t *n);
/* "history" of a training: none where it is absent. */
vmoer_status vm_may_history(const vm_reader *r, const json_t *object, const char *where, vm_history *out);

/* Every object of the array `key` by `entry` into a new array of `size`-byte structs; `where` of an entry is "key[3]". An absent array is an empty one. */
typedef vmoer_status vm_entry_reader(const vm_reader *r, const json_t *entry, const char *where, void *out);
vmoer_status vm_may_list(const vm_reader *r, const json_t *object, const char *key, size_t size, vm_entry_reader *entry, void **items, size_t *n);

/* read_measures.c, read_experiment.c: one document of a kind, into data. `path` is kept. */
vmoer_status vm_read_stability(const vm_reader *r, const json_t *root, const json_t *results, const char *path);
vmoer_status vm_read_cost(const vm_reader *r, const json_t *root, const json_t *results, const char *path);
vmoer_status vm_read_conformal(const vm_reader *r, const json_t *root, const json_t *results, const char *path);
vmoer_status vm_read_experiment(const vm_reader *r, const json_t *root, const char *path);
/* The parts of both: an entry of "cost", and the numbers of "alive". */
vm_entry_reader vm_read_cost_entry;
vmoer_status vm_read_alive(const vm_reader *r, const json_t *object, const char *where, double alive[VM_ALIVE_FACTS]);

#endif
