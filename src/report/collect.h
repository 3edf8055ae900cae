/* collect.h: what a folder of results holds, read and checked: the only part of the report that touches files it did
 * not write. Everything lives in one arena. Private to report/. */
#ifndef VM_REPORT_COLLECT_H
#define VM_REPORT_COLLECT_H

#include "base/memory.h"
#include "eval/ood.h"
#include "vmoer/vmoer.h"

#include <jansson.h>

enum { VM_REPORT_MAX_RUNS = 4000, VM_REPORT_MAX_DEPTH = 8 }; /* an experiment of 3 seeds, 17 routers and 2 MAPs has some 1000 */

/* A value with its 95% interval; NAN for what there is not. */
typedef struct vm_figure {
    double value;
    vm_interval ci;
} vm_figure;

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
    vm_figure adjusted, matched; /* AUROC with the length's part taken out, and between items paired by length; NAN: not told */
    double *fpr, *tpr;           /* [n_roc] */
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

typedef struct vm_history {
    size_t n;                 /* records */
    double *step;             /* [n] */
    double *curve[VM_CURVES]; /* [n]; NAN where a record does not speak of it */
} vm_history;

/* A value of a number that was fitted, and what it gave on the held-out part. */
typedef struct vm_trial {
    const char *name; /* "noise", "route_temperature", "temperature" */
    double value, nll, ece;
} vm_trial;

typedef struct vm_report_training {
    const char *path, *kind;
    const json_t *json;
    vm_history history;
    vm_trial *trials; /* [n_trials], by name, then value */
    size_t n_trials;
    double dense_nats;               /* a held-out token, of the dense model; NAN: no upcycled model */
    double nats[VM_STAGES][VM_WAYS]; /* the same of the upcycled one; NAN for a stage that there was not */
} vm_report_training;

/* What Gaussian noise on the routers' input leaves of the choice of experts, the most of it first. */
enum {
    VM_STEADY_ISOLATED,  /* Jaccard index, noise in that layer alone, independent draws */
    VM_STEADY_CORRECTED, /* (J - J0) / (1 - J0) */
    VM_STEADY_SHARED,    /* both passes with the same draws */
    VM_STEADY_PROPAGATED,
    VM_STEADY_LOAD,    /* entropy of the experts' load, nats */
    VM_STEADY_BETWEEN, /* Jaccard index between different tokens */
    VM_STEADY_FACTS
};
typedef struct vm_steady_layer {
    int layer;
    double fact[VM_STEADY_FACTS];
} vm_steady_layer;
typedef struct vm_steady_sigma {
    double sigma;
    bool relative;                    /* to the root mean square of the input */
    double at_jaccard;                /* this sigma brings the deterministic router down to that index; NAN: another one */
    vm_figure mean[VM_STEADY_FACTS];  /* over the MoE layers */
    double bayesian[VM_STEADY_FACTS]; /* over the router's layers */
    vm_steady_layer *layers;          /* [n_layers] */
    size_t n_layers;
} vm_steady_sigma;

/* Is the router alive? */
enum { VM_ALIVE_FLIPPED, VM_ALIVE_RATE, VM_ALIVE_SCALE, VM_ALIVE_OFF_DIAGONAL, VM_ALIVE_FACTS };

typedef struct vm_report_steady {
    const char *path; /* of a single run; NULL: of an experiment */
    vm_report_label label;
    const char *router; /* its kind; "map": the model's own */
    vm_steady_sigma *sigmas;
    size_t n_sigmas;
    double chance; /* Jaccard index of two random choices; NAN: not told */
    bool has_alive;
    double alive[VM_ALIVE_FACTS];
} vm_report_steady;

/* What a router costs beside the deterministic one. */
enum { VM_COST_PARAMETERS, VM_COST_FLOPS, VM_COST_SHARE, VM_COST_COUNTED, VM_COST_WORKSPACE, VM_COST_FACTS };
typedef struct vm_report_cost {
    const char *path; /* of a single run; NULL: of an experiment */
    const char *router, *layers;
    size_t n_layers;
    double fact[VM_COST_FACTS];
} vm_report_cost;

/* Answer sets of one way to make them. */
typedef struct vm_answer_sets {
    double coverage, size, quantile;
    vm_interval ci; /* of the coverage over the halvings; NAN: there were none */
    double inside;  /* share of the halvings in theory's interval; of one test 0 or 1 */
    double *sizes;  /* [n_sizes] share of the sets of 0, 1, ... choices */
    size_t n_sizes;
} vm_answer_sets;
enum { VM_SETS_LAC, VM_SETS_APS, VM_SETS_WAYS };
/* Calibrated on some questions, tested on others: halves of one run, or another run's (a shift). */
typedef struct vm_conformal_test {
    size_t n_calibration, n_test;
    double theory;      /* expected coverage */
    vm_interval expect; /* 95% of the covered shares of n_test questions */
    vm_answer_sets sets[VM_SETS_WAYS];
} vm_conformal_test;
/* Answer only where the confidence is at least a threshold. */
typedef struct vm_abstaining {
    double accuracy, confidence, coverage, selective; /* wanted; threshold, share answered, share right of these: NAN for none */
} vm_abstaining;
typedef struct vm_conformal_task {
    const char *name;
    size_t n;
    vm_conformal_test halves, shift;
    const char *shift_run, *shift_split; /* NULL: no shift was measured */
    vm_abstaining *abstaining, *shifted; /* thresholds from this run, and what another run's give on it */
    size_t n_abstaining, n_shifted;
    double *coverage, *risk; /* [n_curve] */
    size_t n_curve;
} vm_conformal_task;
typedef struct vm_report_conformal {
    const char *path;
    vm_report_label label;
    double alpha;
    vm_conformal_task *tasks;
    size_t n_tasks;
} vm_report_conformal;

/* Of an experiment: one router on one task, over all seeds. */
enum { VM_SCORE_ACC, VM_SCORE_NLL, VM_SCORE_ECE, VM_SCORE_MCE, VM_SCORE_BRIER, VM_SCORES };
enum { VM_VERSUS_MAP, VM_VERSUS_TEMPERATURE, VM_VERSUS_RESIDUAL, VM_VERSUS };
typedef struct vm_calibration {
    const char *task, *map, *router;
    size_t n, seeds;
    vm_figure score[VM_SCORES];
    vm_ece_floor floor;
    double excess;
    bool at_floor;
    vm_figure versus[VM_VERSUS][VM_SCORE_ECE + 1]; /* paired differences of accuracy, NLL and ECE */
    vm_reliability_bin *bins;                      /* [VM_ECE_BINS]; NULL: not told */
} vm_calibration;
typedef struct vm_auroc {
    const char *map, *router, *set, *signal;
    size_t n;
    vm_figure auroc, aupr, fpr95;
} vm_auroc;
typedef struct vm_map_training {
    const char *task, *kind;
    size_t seed;
    vm_history history;
} vm_map_training;
typedef struct vm_goal {
    const char *name, *goal;
    const char *router; /* "": not of one */
    vm_figure value;    /* a share where the goal speaks of per cent */
    int holds; /* -1: not measured */
} vm_goal;
/* Answer sets of a router, means over the seeds. NAN: not measured. */
enum { VM_SETS_HALVES, VM_SETS_SHIFT, VM_SETS_PARTS };
typedef struct vm_set_means {
    const char *map, *router;
    double alpha, coverage[VM_SETS_PARTS][VM_SETS_WAYS], size[VM_SETS_PARTS][VM_SETS_WAYS];
} vm_set_means;
/* The different words of one kind, in the order of the page. */
typedef struct vm_names {
    const char **items; /* [n] */
    size_t n;
} vm_names;
typedef struct vm_report_experiment {
    const char *path, *model;
    const char **skipped; /* [n_skipped] tasks and sets without data */
    vm_map_training *maps;
    vm_calibration *calibration; /* sorted: vm_calibration_find */
    vm_auroc *aurocs;            /* sorted: vm_auroc_find */
    vm_report_steady *steady;
    vm_report_cost *costs;
    vm_set_means *set_means;
    vm_goal *goals;
    size_t n_maps, n_calibration, n_aurocs, n_steady, n_costs, n_set_means, n_goals, n_skipped;
    vm_names tasks, kinds, routers, sets, signals; /* kinds: of MAPs */
} vm_report_experiment;

enum { VM_REPORT_MAX_NAMES = 64 }; /* of each */

typedef struct vm_report_data {
    vm_arena *arena;
    json_t *documents; /* array of every JSON kept alive */
    vm_report_run *runs;
    vm_report_ood *oods;
    vm_report_training *trainings;
    vm_report_steady *steady;
    vm_report_cost *costs;
    vm_report_experiment *experiments;
    vm_report_conformal *conformals;
    const char **notes; /* sentences for the reader: what was not used, and why */
    size_t n_runs, n_oods, n_trainings, n_steady, n_costs, n_experiments, n_conformals, n_notes;
    size_t capacity[8]; /* of the eight arrays above */
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
/* read_experiment.c. NULL: not there. */
const vm_calibration *vm_calibration_find(const vm_report_experiment *x, const char *task, const char *map, const char *router);
const vm_auroc *vm_auroc_find(const vm_report_experiment *x, const char *map, const char *router, const char *set, const char *signal);
/* A note for the reader. */
vmoer_status vm_report_note(vm_report_data *data, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
