/* collect.h: what a folder of results holds, read and checked: the only part of the report that touches files it did
 * not write. Everything lives in one arena. Private to report/. */
#ifndef VM_REPORT_COLLECT_H
#define VM_REPORT_COLLECT_H

#include "base/memory.h"
#include "eval/ood.h"
#include "vmoer/vmoer.h"

#include <jansson.h>

enum { VM_REPORT_MAX_RUNS = 200, VM_REPORT_MAX_DEPTH = 4 };

typedef struct vm_routing_layer {
    int layer;
    double value[3]; /* logit_spread, margin, load_entropy */
} vm_routing_layer;

/* One task of one eval run. */
typedef struct vm_report_task {
    const char *name;
    size_t n;
    vm_metrics metrics;
    vm_metrics_ci ci;
    vm_ece_floor floor;
    vm_reliability_bin bins[VM_ECE_BINS];
    vm_routing_layer *layers; /* [n_layers] */
    size_t n_layers;
    vm_predictions samples; /* of samples.jsonl; n = 0: not at hand */
    const char **keys;      /* [samples.n], "id hash" */
} vm_report_task;

/* "group / name"; without " / " the group is "" and the name the whole label. */
typedef struct vm_report_label {
    const char *group, *name;
} vm_report_label;

typedef struct vm_report_run {
    const char *path; /* folder, relative to the report's; "." for that folder itself */
    vm_report_label label;
    const char *model, *router_kind;
    const json_t *json; /* the whole results.json */
    vm_report_task *tasks;
    size_t n_tasks;
} vm_report_run;

typedef struct vm_report_signal {
    const char *name;
    vm_ood value;
    vm_ood_ci ci;
    double *fpr, *tpr; /* [n_roc] */
    size_t n_roc;
} vm_report_signal;

typedef struct vm_report_set {
    const char *name;
    size_t n;
    vm_report_signal *signals; /* in the order of reading: length last */
    size_t n_signals;
} vm_report_set;

typedef struct vm_report_ood {
    const char *path;
    vm_report_label label;
    const char *id_task;
    size_t id_n;
    vm_report_set *sets;
    size_t n_sets;
} vm_report_ood;

enum {
    VM_CURVE_LOSS,
    VM_CURVE_CE,
    VM_CURVE_KL,
    VM_CURVE_HELDOUT_NLL,
    VM_CURVE_HELDOUT_ECE,
    VM_CURVE_HELDOUT_DIVERGENCE, /* of a distillation alone */
    VM_CURVES
};
/* An upcycled model as it was split and after the distillation, and the ways its experts can be picked. */
enum { VM_STAGE_SPLIT, VM_STAGE_DISTILLED, VM_STAGES };
enum { VM_WAY_LEARNED, VM_WAY_ORACLE, VM_WAY_RANDOM, VM_WAYS };

typedef struct vm_report_training {
    const char *path, *kind;
    const json_t *json;
    size_t n;                        /* records of the history */
    double *step;                    /* [n] */
    double *curve[VM_CURVES];        /* [n]; NAN where a record does not speak of it */
    double dense_nats;               /* a held-out token, of the dense model; NAN: no upcycled model */
    double nats[VM_STAGES][VM_WAYS]; /* the same of the upcycled one; NAN for a stage that there was not */
} vm_report_training;

typedef struct vm_report_data {
    vm_arena *arena;
    json_t *documents; /* array of every JSON kept alive */
    vm_report_run *runs;
    vm_report_ood *oods;
    vm_report_training *trainings;
    const char **notes; /* sentences for the reader: what was not used, and why */
    size_t n_runs, n_oods, n_trainings, n_notes;
    size_t capacity[4]; /* of the four arrays above */
} vm_report_data;

/* Walks `folder` in the order of names. VMOER_ERROR_FORMAT or _DATA name the file at fault; VMOER_ERROR_DATA: nothing
 * found; VMOER_ERROR_LIMIT: more than VM_REPORT_MAX_RUNS. Free with vm_report_free in any case. */
vmoer_status vm_report_collect(const char *folder, const vmoer_hooks *hooks, vm_report_data *out);
void vm_report_free(vm_report_data *data);

/* read.c: one file each. `file` is the path to open and to name, `path` what the report shows. */
vmoer_status vm_report_read_results(vm_report_data *data, const char *file, const char *path);
vmoer_status vm_report_read_training(vm_report_data *data, const char *file, const char *path);
/* samples.c: fills the samples of data's last run. */
vmoer_status vm_report_read_samples(vm_report_data *data, const char *file);
/* The order signals are read in: from the plain to the derived; `length`, the control, after everything else. */
int vm_signal_rank(const char *name);
/* A note for the reader. */
vmoer_status vm_report_note(vm_report_data *data, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
