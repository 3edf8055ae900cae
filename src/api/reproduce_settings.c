/* reproduce_settings.c: the hyper-parameters of an experiment: what is built in, what a settings file changes, and what
 * that means for the jobs. Both are JSON of one shape, so there is one table of keys and one way through it. */
#include "api/reproduce.h"

#include "base/status.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* MAP: what the upcycled SmolLM2 is tuned with (docs/EXPERIMENTS.md). A router's "kind" is its name unless it says
 * another, so that one kind can stand there twice. What is not said is calibrate's default. */
/* clang-format off */
static const char built_in[] =
    "{\"map\": {\"targets\": \"attention,experts,router\", \"rank\": 1, \"alpha\": 2, \"epochs\": 3, \"batch_size\": 16, \"learning_rate\": 1.5e-3,"
    "           \"evaluate_every\": 88},"
    " \"layers\": \"auto\","
    " \"headline\": \"vglr-fc\","
    " \"routers\": {"
    "  \"map\": {},"
    "  \"temperature\": {},"
    "  \"residual\": {\"steps\": 132, \"width\": 48},"
    "  \"weights\": {\"steps\": 132},"
    "  \"vglr-mf\": {\"steps\": 132, \"width\": 48, \"beta\": 0.1, \"initial_scale\": 0.5},"
    "  \"vglr-fc\": {\"steps\": 132, \"width\": 48, \"beta\": 0.1, \"initial_scale\": 0.5},"
    "  \"vglr-fc-passes\": {\"kind\": \"vglr-fc\", \"inference\": \"passes\", \"steps\": 132, \"width\": 48, \"beta\": 0.1, \"initial_scale\": 0.5},"
    "  \"vglr-lr\": {\"steps\": 132, \"width\": 48, \"beta\": 0.1, \"initial_scale\": 0.5, \"rank\": 4},"
    "  \"vglr-noise\": {\"steps\": 132, \"width\": 48, \"beta\": 0.1, \"initial_scale\": 0.5},"
    "  \"vtsr\": {\"steps\": 132, \"width\": 48, \"learning_rate\": 1e-2, \"beta\": 0.01, \"prior_scale\": 2, \"initial_scale\": 0.1, \"inference\": \"passes\"},"
    "  \"vtsr-paper\": {\"steps\": 132, \"width\": 48, \"learning_rate\": 1e-2, \"beta\": 0.01, \"inference\": \"passes\"},"
    "  \"fixed-t\": {\"route_temperature\": 0.5, \"inference\": \"passes\"},"
    "  \"roe\": {\"route_temperature\": 0.4, \"inference\": \"passes\"},"
    "  \"expert-sample\": {\"route_temperature\": 0.4, \"inference\": \"passes\"},"
    "  \"isotropic\": {\"noise\": 0.4},"
    "  \"mc-dropout\": {\"steps\": 132, \"noise\": 0.1, \"members\": 10},"
    "  \"swag\": {\"steps\": 132, \"rank\": 10, \"members\": 10},"
    "  \"ensemble\": {\"steps\": 132, \"members\": 5}}}";
/* clang-format on */

static const char quick_map[] = "{\"steps\": 4, \"batch_size\": 4, \"evaluate_every\": 2}",
                  quick_router[] = "{\"steps\": 8, \"batch_size\": 4}", quick_rank[] = "{\"rank\": 2}",
                  quick_members[] = "{\"members\": 2}";
enum { QUICK_LIMIT = 8, QUICK_PASSES = 2, QUICK_BOOTSTRAP = 100, STABILITY_QUESTIONS = 64, QUICK_STABILITY = 2 };

typedef enum value_kind { VALUE_INT, VALUE_REAL, VALUE_TEXT } value_kind;
typedef struct setting {
    const char *key;
    value_kind kind;
    size_t offset;
} setting;

#define LOOP_SETTINGS(M, train)                                                                                       \
    {"epochs", VALUE_INT, offsetof(M, train.epochs)}, {"steps", VALUE_INT, offsetof(M, train.steps)},                 \
        {"batch_size", VALUE_INT, offsetof(M, train.batch_size)},                                                     \
        {"learning_rate", VALUE_REAL, offsetof(M, train.learning_rate)},                                              \
        {"warmup", VALUE_REAL, offsetof(M, train.warmup)},                                                            \
        {"weight_decay", VALUE_REAL, offsetof(M, train.weight_decay)}, {"clip", VALUE_REAL, offsetof(M, train.clip)}, \
    {                                                                                                                 \
        "evaluate_every", VALUE_INT, offsetof(M, train.evaluate_every)                                                \
    }

static const setting map_settings[] = {
    LOOP_SETTINGS(vmoer_finetune_params, train),
    {"targets", VALUE_TEXT, offsetof(vmoer_finetune_params, targets)},
    {"rank", VALUE_INT, offsetof(vmoer_finetune_params, rank)},
    {"alpha", VALUE_REAL, offsetof(vmoer_finetune_params, alpha)},
    {"router_learning_rate", VALUE_REAL, offsetof(vmoer_finetune_params, router_learning_rate)},
    {NULL, VALUE_INT, 0},
};

static const setting router_settings[] = {
    LOOP_SETTINGS(vm_contestant, calibrate.train),
    {"kind", VALUE_TEXT, offsetof(vm_contestant, calibrate.router)},
    {"layers", VALUE_TEXT, offsetof(vm_contestant, calibrate.layers)},
    {"width", VALUE_INT, offsetof(vm_contestant, calibrate.width)},
    {"prior_scale", VALUE_REAL, offsetof(vm_contestant, calibrate.prior_scale)},
    {"beta", VALUE_REAL, offsetof(vm_contestant, calibrate.beta)},
    {"initial_scale", VALUE_REAL, offsetof(vm_contestant, calibrate.initial_scale)},
    {"objective", VALUE_TEXT, offsetof(vm_contestant, calibrate.objective)},
    {"draws", VALUE_INT, offsetof(vm_contestant, calibrate.draws)},
    {"train_on", VALUE_TEXT, offsetof(vm_contestant, calibrate.train_on)},
    {"rank", VALUE_INT, offsetof(vm_contestant, calibrate.rank)},
    {"members", VALUE_INT, offsetof(vm_contestant, calibrate.members)},
    {"keep_experts", VALUE_INT, offsetof(vm_contestant, calibrate.keep_experts)},
    {"route_temperature", VALUE_REAL, offsetof(vm_contestant, calibrate.route_temperature)},
    {"noise", VALUE_REAL, offsetof(vm_contestant, calibrate.noise)},
    {"fit_temperature", VALUE_INT, offsetof(vm_contestant, calibrate.fit_temperature)},
    {"samples", VALUE_INT, offsetof(vm_contestant, samples)},
    {NULL, VALUE_INT, 0},
};

static const char *const inferences[] = {"auto", "mean", "closed", "sample", "tilted", "passes"};

static vmoer_status read_value(const setting *s, const json_t *value, void *target) {
    void *at = (char *)target + s->offset;
    json_int_t n = json_integer_value(value);
    switch (s->kind) {
    case VALUE_INT:
        if (!json_is_integer(value) || (json_int_t)(int)n != n)
            return vm_error(VMOER_ERROR_ARGUMENT, "%s: a whole number expected", s->key);
        *(int *)at = (int)n;
        return VMOER_OK;
    case VALUE_REAL:
        if (!json_is_number(value)) return vm_error(VMOER_ERROR_ARGUMENT, "%s: a number expected", s->key);
        *(double *)at = json_number_value(value);
        return VMOER_OK;
    case VALUE_TEXT:
        if (!json_is_string(value)) return vm_error(VMOER_ERROR_ARGUMENT, "%s: a text expected", s->key);
        *(const char **)at = json_string_value(value);
    }
    return VMOER_OK;
}

/* Each key of the object into the target; texts stay the object's. */
static vmoer_status read_object(const json_t *object, const setting *known, void *target) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        const setting *s = known;
        while (s->key && strcmp(s->key, key) != 0) s++;
        if (!s->key) return vm_error(VMOER_ERROR_ARGUMENT, "there is no setting \"%.60s\"", key);
        VM_TRY(read_value(s, value, target));
    }
    return VMOER_OK;
}

/* ---- the file over what is built in ---- */

static vmoer_status merge_routers(json_t *routers, json_t *changes) {
    const char *name;
    json_t *own;
    if (!json_is_object(changes)) return vm_error(VMOER_ERROR_ARGUMENT, "routers: an object of routers expected");
    json_object_foreach(changes, name, own) {
        json_t *known = json_object_get(routers, name);
        if (!json_is_object(own)) return vm_error(VMOER_ERROR_ARGUMENT, "routers.%.60s: an object expected", name);
        if (!*name || strlen(name) > 60 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != strlen(name) ||
            *name == '.')
            return vm_error(VMOER_ERROR_ARGUMENT,
                            "routers: \"%.60s\" is no name: lower-case letters, digits, - . _ (it names a folder)",
                            name);
        if (known ? json_object_update(known, own) : json_object_set(routers, name, own))
            return vm_error(VMOER_ERROR_MEMORY, "no memory for the settings");
    }
    return VMOER_OK;
}

static vmoer_status merge(json_t *settings, json_t *file) {
    const char *key;
    json_t *value;
    if (!json_is_object(file)) return vm_error(VMOER_ERROR_ARGUMENT, "an object expected");
    json_object_foreach(file, key, value) {
        json_t *own = json_object_get(settings, key);
        if (!own)
            return vm_error(VMOER_ERROR_ARGUMENT, "there is no \"%.60s\": map, layers, headline and routers can be set",
                            key);
        if (strcmp(key, "routers") == 0) {
            VM_TRY(merge_routers(own, value));
        } else if (json_typeof(own) != json_typeof(value)) {
            return vm_error(VMOER_ERROR_ARGUMENT, "%s: %s expected", key, json_is_object(own) ? "an object" : "a text");
        } else if (json_is_object(own) ? json_object_update(own, value) : json_object_set(settings, key, value)) {
            return vm_error(VMOER_ERROR_MEMORY, "no memory for the settings");
        }
    }
    return VMOER_OK;
}

/* Of a smoke run: few steps, whatever else is said. */
static vmoer_status overlay(json_t *object, const char *text) {
    json_t *changes;
    VM_TRY(vm_json_parse(text, strlen(text), "quick", &changes));
    int failed = json_object_update(object, changes);
    json_decref(changes);
    return failed ? vm_error(VMOER_ERROR_MEMORY, "no memory for the settings") : VMOER_OK;
}

static vmoer_status resolve(vm_experiment *x) {
    const vmoer_reproduce_params *p = x->p;
    VM_TRY(vm_json_parse(built_in, strlen(built_in), "built-in settings", &x->settings));
    if (p->settings) {
        json_t *file;
        VM_TRY(vm_json_load(p->settings, &file));
        vmoer_status status = merge(x->settings, file);
        json_decref(file);
        if (status != VMOER_OK) return vm_error_in(status, "%s", p->settings);
    }
    if (!p->quick) return VMOER_OK;
    const char *name;
    json_t *router;
    VM_TRY(overlay(json_object_get(x->settings, "map"), quick_map));
    json_object_foreach(json_object_get(x->settings, "routers"), name, router) {
        if (json_object_get(router, "steps")) VM_TRY(overlay(router, quick_router));
        if (json_object_get(router, "rank")) VM_TRY(overlay(router, quick_rank));
        if (json_object_get(router, "members")) VM_TRY(overlay(router, quick_members));
    }
    return VMOER_OK;
}

/* ---- what it means ---- */

static vmoer_status read_inference(const char *text, vmoer_inference *out) {
    for (size_t i = 0; i < sizeof inferences / sizeof *inferences; i++) {
        if (strcmp(inferences[i], text) == 0) {
            *out = (vmoer_inference)i;
            return VMOER_OK;
        }
    }
    return vm_error(VMOER_ERROR_ARGUMENT, "there is no inference \"%.60s\"", text);
}

static vmoer_status read_router(const vm_experiment *x, const char *name, json_t *object, vm_contestant *c) {
    const json_t *inference = json_object_get(object, "inference");
    *c = (vm_contestant){.name = name,
                         .settings = object,
                         .deterministic = strcmp(name, "map") == 0,
                         .trained = json_object_get(object, "steps") || json_object_get(object, "epochs"),
                         .calibrate = vmoer_calibrate_params_default(),
                         .samples = x->passes};
    c->calibrate.router = name;
    c->calibrate.layers = json_string_value(json_object_get(x->settings, "layers"));
    if (inference && !json_is_string(inference)) return vm_error(VMOER_ERROR_ARGUMENT, "inference: a text expected");
    if (inference) VM_TRY(read_inference(json_string_value(inference), &c->inference));
    json_t *rest = json_copy(object);
    json_object_del(rest, "inference");
    vmoer_status status = read_object(rest, router_settings, c);
    json_decref(rest); /* its texts are the object's */
    return status;
}

/* The names of a list, "all" being everything in the settings. */
static vmoer_status read_list(vm_experiment *x, const char *option, const char *list, bool *out) {
    bool all = strcmp(list, "all") == 0;
    for (int i = 0; i < x->n_routers; i++) out[i] = all;
    for (const char *rest = all ? "" : list; *rest;) {
        size_t n = strcspn(rest, ",");
        int i = 0;
        while (i < x->n_routers && (strlen(x->routers[i].name) != n || strncmp(x->routers[i].name, rest, n) != 0)) i++;
        if (i == x->n_routers)
            return vm_error(VMOER_ERROR_ARGUMENT, "--%s: there is no router \"%.*s\" in the settings", option,
                            (int)vm_at_most((int)n, 60), rest);
        out[i] = true;
        rest += n + (rest[n] == ',');
    }
    return VMOER_OK;
}

static vmoer_status read_routers(vm_experiment *x) {
    json_t *routers = json_object_get(x->settings, "routers"), *object;
    const char *name;
    size_t n = json_object_size(routers);
    x->routers = vm_calloc(n, sizeof *x->routers);
    for (int m = 0; m < VM_MAPS; m++) x->runs[m] = vm_calloc(n, sizeof *x->runs[m]);
    if (!x->routers || !x->runs[VM_MAP_PUBLISHED] || !x->runs[VM_MAP_NLL])
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu routers", n);
    json_object_foreach(routers, name, object)
        VM_TRY_IN(read_router(x, name, object, &x->routers[x->n_routers++]), "routers.%s", name);
    VM_TRY(read_list(x, "routers", x->p->routers, x->runs[VM_MAP_PUBLISHED]));
    VM_TRY(read_list(x, "nll_routers", x->p->nll_routers, x->runs[VM_MAP_NLL]));
    /* What is not run at all on the published MAP is not wanted on the other one either. */
    for (int i = 0; i < x->n_routers; i++)
        x->runs[VM_MAP_NLL][i] = x->runs[VM_MAP_NLL][i] && x->runs[VM_MAP_PUBLISHED][i];
    return VMOER_OK;
}

vmoer_status vm_experiment_configure(vm_experiment *x) {
    const vmoer_reproduce_params *p = x->p;
    VM_TRY(resolve(x));
    x->map = vmoer_finetune_params_default();
    x->map.train.keep = VMOER_KEEP_BOTH;
    VM_TRY_IN(read_object(json_object_get(x->settings, "map"), map_settings, &x->map), "settings, map");
    if (strcmp(x->map.targets, "all") == 0)
        return vm_error(VMOER_ERROR_ARGUMENT, "settings, map.targets: all makes another model, not an adapter");
    x->auto_layers = strcmp(json_string_value(json_object_get(x->settings, "layers")), "auto") == 0;
    x->layers_questions = p->quick ? QUICK_STABILITY : VM_AUTO_QUESTIONS;
    x->stability_questions = p->quick ? QUICK_STABILITY : STABILITY_QUESTIONS;
    x->headline = json_string_value(json_object_get(x->settings, "headline"));
    x->seeds = p->seeds ? p->seeds : p->quick ? 1 : 3;
    x->passes = p->quick ? vm_at_most(p->passes, QUICK_PASSES) : p->passes;
    x->bootstrap = p->quick ? vm_at_most(p->bootstrap, QUICK_BOOTSTRAP) : p->bootstrap;
    x->limit = p->quick ? QUICK_LIMIT : 0;
    x->ood_sample = p->quick ? QUICK_LIMIT : p->ood_sample;
    VM_TRY_IN(read_routers(x), "settings");
    return VMOER_OK;
}

static json_t *names_of(const vm_experiment *x, vm_map_kind map) {
    json_t *names = json_array();
    for (int i = 0; i < x->n_routers; i++)
        if (x->runs[map][i]) json_array_append_new(names, json_string(x->routers[i].name));
    return names;
}

json_t *vm_experiment_config(const vm_experiment *x) {
    const vmoer_reproduce_params *p = x->p;
    json_t *tasks = json_array(), *sets = json_array();
    for (int i = 0; i < x->n_tasks; i++) json_array_append_new(tasks, json_string(x->tasks[i].name));
    for (int i = 0; i < x->n_sets; i++) json_array_append_new(sets, json_string(x->sets[i].name));
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:O}", "tasks", tasks, "ood_sets",
                     sets, "split", vm_api_split_name(p->split), "routers", names_of(x, VM_MAP_PUBLISHED),
                     "nll_routers", names_of(x, VM_MAP_NLL), "seeds", x->seeds, "passes", x->passes, "limit", x->limit,
                     "ood_sample", x->ood_sample, "stability_questions", x->stability_questions, "bootstrap",
                     x->bootstrap, "compute", vm_api_compute(p->compute) == VM_COMPUTE_BF16 ? "bf16" : "f32",
                     "settings", x->settings);
}
