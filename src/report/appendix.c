/* appendix.c: with what settings everything was made. */
#include "report/page.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- settings ---- */

typedef struct setting {
    const char *key, *value;
} setting;

typedef struct settings {
    setting *items;
    size_t n, capacity;
} settings;

/* A value as one would type it. Kept in the arena. */
static const char *value_text(vm_arena *arena, const json_t *value) {
    vm_text t = {0};
    const char *kept = NULL;
    if (json_is_string(value)) return json_string_value(value);
    if (json_is_null(value)) return "none";
    if (json_is_boolean(value)) return json_is_true(value) ? "yes" : "no";
    if (json_is_number(value)) {
        vm_text_put(&t, "%g", json_number_value(value));
        if (!t.failed) kept = vm_arena_strndup(arena, t.data, t.size);
        vm_text_free(&t);
        return kept;
    }
    char *line = vm_json_line(value);
    if (line) kept = vm_arena_strndup(arena, line, strlen(line));
    free(line);
    return kept;
}

/* Objects become "outer.inner"; to two levels, deeper ones stay JSON. */
static vmoer_status flatten(vm_arena *arena, const json_t *object, const char *prefix, settings *out) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        vm_text t = {0};
        vm_text_put(&t, *prefix ? "%s.%s" : "%s%s", prefix, key);
        const char *name = t.failed ? NULL : vm_arena_strndup(arena, t.data, t.size);
        vm_text_free(&t);
        if (name && json_is_object(value) && !*prefix) {
            VM_TRY(flatten(arena, value, name, out));
            continue;
        }
        const char *text = value_text(arena, value);
        if (!name || !text || !vm_grow((void **)&out->items, &out->capacity, out->n + 1, sizeof *out->items)) {
            return vm_error(VMOER_ERROR_MEMORY, "report: out of memory");
        }
        out->items[out->n++] = (setting){name, text};
    }
    return VMOER_OK;
}

static vmoer_status run_settings(const vm_report_data *data, const vm_report_run *run, settings *out) {
    static const char *const PARTS[] = {"model", "adapter", "router"};
    const json_t *version = json_object_get(run->json, "vmoer"), *config = json_object_get(run->json, "config");
    json_t *whole = json_object();
    if (!whole) return vm_error(VMOER_ERROR_MEMORY, "report: out of memory");
    if (version) json_object_set(whole, "vmoer", (json_t *)version);
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
        json_t *part = json_object_get(run->json, PARTS[i]);
        if (json_is_object(part)) json_object_set(whole, PARTS[i], part);
    }
    vmoer_status status = flatten(data->arena, whole, "", out);
    if (status == VMOER_OK && json_is_object(config)) status = flatten(data->arena, config, "", out);
    json_decref(whole);
    return status;
}

static const char *find_value(const settings *s, const char *key) {
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->items[i].key, key) == 0) return s->items[i].value;
    }
    return NULL;
}

static bool common(const settings *all, size_t n, const setting *item) {
    for (size_t i = 0; i < n; i++) {
        const char *value = find_value(&all[i], item->key);
        if (!value || strcmp(value, item->value) != 0) return false;
    }
    return true;
}

static void put_setting(vm_text *t, const setting *item) {
    vm_text_put(t, "<tr><th scope=\"row\">%t</th><td>", item->key);
    vm_text_short(t, item->value, 400);
    vm_text_put(t, "</td></tr>\n");
}

static void begin_settings(vm_text *t) { vm_text_put(t, "<div class=\"scroll\"><table class=\"kv\"><tbody>\n"); }

static void end_settings(vm_text *t) { vm_text_put(t, "</tbody></table></div>\n"); }

/* What all runs share once, then what is particular to each. */
static void settings_of_runs(vm_text *t, const vm_report_data *data, const settings *all) {
    bool several = data->n_runs > 1;
    vm_text_put(t, several ? "<h3>The same in all %u evaluation runs</h3>\n" : "<h3>The evaluation run</h3>\n",
                data->n_runs);
    begin_settings(t);
    for (size_t i = 0; i < all[0].n; i++) {
        if (common(all, data->n_runs, &all[0].items[i])) put_setting(t, &all[0].items[i]);
    }
    end_settings(t);
    if (several) vm_text_put(t, "<div class=\"figures pairs\">\n");
    for (size_t r = 0; r < data->n_runs && several; r++) {
        const vm_report_label *label = &data->runs[r].label;
        vm_text_put(t, "<div><h4>%t%s%t <span class=\"note\">%t</span></h4>\n", label->group,
                    *label->group ? " / " : "", label->name, data->runs[r].path);
        begin_settings(t);
        for (size_t i = 0; i < all[r].n; i++) {
            if (!common(all, data->n_runs, &all[r].items[i])) put_setting(t, &all[r].items[i]);
        }
        end_settings(t);
        vm_text_put(t, "</div>\n");
    }
    if (several) vm_text_put(t, "</div>\n");
}

static vmoer_status settings_of_training(vm_text *t, const vm_report_data *data, const vm_report_training *training) {
    const json_t *config = json_object_get(training->json, "config");
    settings s = {0};
    if (!json_is_object(config)) return VMOER_OK;
    vmoer_status status = flatten(data->arena, config, "", &s);
    vm_text_put(t, "<div><h4>%t <span class=\"note\">%t</span></h4>\n", training->path, training->kind);
    begin_settings(t);
    for (size_t i = 0; i < s.n; i++) put_setting(t, &s.items[i]);
    end_settings(t);
    vm_text_put(t, "</div>\n");
    vm_free(s.items);
    return status;
}

vmoer_status vm_page_configuration(vm_text *t, const vm_report_data *data) {
    vmoer_status status = VMOER_OK;
    settings *all = vm_calloc(data->n_runs + 1, sizeof *all);
    if (!all) return vm_error(VMOER_ERROR_MEMORY, "report: out of memory");
    vm_text_put(t, "<h2 id=\"configuration\">Configuration and fingerprints</h2>\n");
    for (size_t r = 0; r < data->n_runs; r++) VM_GOTO(run_settings(data, &data->runs[r], &all[r]));
    if (data->n_runs > 0) settings_of_runs(t, data, all);
    if (data->n_trainings > 0) vm_text_put(t, "<h3>Training</h3>\n<div class=\"figures pairs\">\n");
    for (size_t i = 0; i < data->n_trainings; i++) VM_GOTO(settings_of_training(t, data, &data->trainings[i]));
    if (data->n_trainings > 0) vm_text_put(t, "</div>\n");
    if (data->n_notes > 0) vm_text_put(t, "<h3>Not shown</h3>\n<ul>\n");
    for (size_t i = 0; i < data->n_notes; i++) vm_text_put(t, "<li>%t</li>\n", data->notes[i]);
    if (data->n_notes > 0) vm_text_put(t, "</ul>\n");
done:
    for (size_t r = 0; r < data->n_runs; r++) vm_free(all[r].items);
    vm_free(all);
    return status;
}
