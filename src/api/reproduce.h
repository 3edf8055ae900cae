/* reproduce.h: what the files of `vmoer reproduce` share. An experiment is a list of stages, each a folder that one of the library's own jobs fills;
 * stage.json is written into it last and says what it was made from. Private to api/reproduce*.c. */
#ifndef VM_API_REPRODUCE_H
#define VM_API_REPRODUCE_H

#include "api/internal.h"
#include "eval/compare.h"

enum { VM_EXPERIMENT_TASKS = 16 };

/* One of the settings' routers. */
typedef struct vm_contestant {
    const char *name;
    const json_t *settings; /* its object, resolved */
    bool deterministic;     /* the MAP's own router: nothing to calibrate */
    bool trained;           /* by steps, not by a fit of one number */
    vmoer_calibrate_params calibrate;
    vmoer_inference inference;
    int samples;
} vm_contestant;

/* A task or an OoD set whose data there is, and how many questions of it are used. */
typedef struct vm_experiment_task {
    char name[128];
    size_t n;               /* of the part that is evaluated */
    size_t train, heldout;  /* of a task */
    double length;          /* mean bytes of one of these questions with its choices: what time goes by */
} vm_experiment_task;

typedef enum vm_stage_kind {
    VM_STAGE_MAP,      /* fine-tuning: the last state and the best */
    VM_STAGE_LAYERS,   /* which layers a MAP's routers are to be in: its own stability on held-out questions */
    VM_STAGE_ROUTER,   /* calibrate */
    VM_STAGE_ID,       /* eval on the task itself */
    VM_STAGE_STABILITY,
    VM_STAGE_HELDOUT,  /* eval on the task's held-out part, where that is not the one that is evaluated: for answer sets and Mahalanobis distances */
    VM_STAGE_OOD_RUN,  /* eval on the OoD sets */
    VM_STAGE_OOD,
    VM_STAGE_COST,     /* of a router; of the first seed's, since all cost the same */
    VM_STAGE_CONFORMAL,
    VM_STAGE_KINDS
} vm_stage_kind;

/* Both are states of one training. */
typedef enum vm_map_kind { VM_MAP_PUBLISHED, VM_MAP_NLL, VM_MAPS } vm_map_kind;

typedef struct vm_stage {
    vm_stage_kind kind;
    int task, seed;  /* index of the task; seed of MAP and router */
    vm_map_kind map; /* not of VM_STAGE_MAP */
    int router;      /* index of the contestant; not of VM_STAGE_MAP and _LAYERS */
    char path[256];  /* below the experiment's folder */
    double seconds;  /* estimated */
    bool done;
} vm_stage;

typedef struct vm_experiment {
    const vmoer_reproduce_params *p;
    const vmoer_hooks *hooks;
    char data_dir[4096];
    char model_name[128], fingerprint[65];
    int first_layer, n_layers;     /* of the model, with routers */
    json_t *settings;              /* resolved */
    json_t *skipped;               /* {name: why}: tasks and sets without data */
    vmoer_finetune_params map;
    bool auto_layers;              /* the routers' layers are chosen by VM_STAGE_LAYERS */
    const char *headline;          /* name of the router that the goals are read from */
    vm_contestant *routers;        /* [n_routers] */
    int n_routers;
    bool *runs[VM_MAPS];           /* [n_routers] whether the router runs on that MAP */
    vm_experiment_task tasks[VM_EXPERIMENT_TASKS], sets[VM_EXPERIMENT_TASKS];
    int n_tasks, n_sets;           /* the OoD sets and everything else that is measured once are the first task's */
    int seeds, passes, bootstrap;
    int limit, ood_sample;         /* questions of each part of a task and of each OoD set; 0: all */
    int stability_questions, layers_questions;
    int shard, shards; /* this call runs the stages whose seed is shard modulo shards */
    vm_stage *stages;
    size_t n_stages;
} vm_experiment;

const char *vm_map_kind_name(vm_map_kind map);     /* "published", "nll" */
const char *vm_stage_kind_name(vm_stage_kind kind);

/* reproduce_settings.c: fills settings, map, routers, runs, headline and the numbers from the parameters and the settings file. */
vmoer_status vm_experiment_configure(vm_experiment *x);
/* Everything that decides the experiment, for its records. NULL: no memory. */
json_t *vm_experiment_config(const vm_experiment *x);

/* reproduce_stages.c */
/* Which tasks and sets there are, and the list of stages; which of them are done. */
vmoer_status vm_experiment_stages(vm_experiment *x);
/* Runs one that is not done. */
vmoer_status vm_stage_run(const vm_experiment *x, const vm_stage *s);
/* The folder of a stage of this kind, in out[4096]. */
vmoer_status vm_stage_folder(const vm_experiment *x, vm_stage_kind kind, int task, vm_map_kind map, int seed, int router, char out[4096]);

/* reproduce_plan.c: estimates of the stages that are not done, measured on the model itself, and plan.json's content. */
vmoer_status vm_experiment_plan(vm_experiment *x, json_t **plan);

/* ---- the results ---- */

/* One contestant's answers to the first task on one MAP, over all seeds. draws: by bootstrap sample (eval/compare.h); NULL: it did not run. */
typedef struct vm_standing {
    vm_metrics value;
    double *draws; /* [bootstrap, VM_METRICS] */
    vm_ece_floor floor;
} vm_standing;

/* Mean AUROC over the OoD sets, by one signal of one contestant. */
typedef struct vm_detection {
    vm_map_kind map;
    int router;
    char signal[64];
    double value, *draws; /* [bootstrap] */
} vm_detection;

typedef struct vm_outcome {
    const vm_experiment *x;
    vm_resamples seeds, items; /* items: of the first task */
    vm_standing *standings[VM_MAPS]; /* [n_routers] */
    vm_detection *detections;
    size_t n_detections, capacity;
} vm_outcome;

/* reproduce_results.c: results.json's content from the folders of the stages. */
vmoer_status vm_experiment_results(const vm_experiment *x, json_t **results);
/* {"mean": value, "ci95": ...} of column `column` of draws[count, width]. NULL: no memory. */
json_t *vm_figure_json(double value, const double *draws, size_t count, size_t width, size_t column);
/* results.json of a stage. */
vmoer_status vm_stage_results(const vm_experiment *x, vm_stage_kind kind, vm_map_kind map, int seed, int router, json_t **out);

/* reproduce_ood.c: "ood", and o->detections. */
vmoer_status vm_outcome_ood(vm_outcome *o, json_t **out);
/* reproduce_means.c: "cost" and "conformal" */
vmoer_status vm_experiment_cost(const vm_experiment *x, json_t **out);
vmoer_status vm_experiment_conformal(const vm_experiment *x, json_t **out);
/* reproduce_goals.c: "stability", "alive" and "goals". */
vmoer_status vm_experiment_stability(const vm_experiment *x, json_t **out);
vmoer_status vm_experiment_alive(const vm_experiment *x, json_t **out);
vmoer_status vm_outcome_goals(const vm_outcome *o, const json_t *cost, json_t **out);

#endif
