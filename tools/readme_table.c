/* readme_table.c: README's table of the experiment from its committed figures, and whether the two agree. A developers'
 * program, not installed. readme_table extract RESULTS.json FIGURES.json   results.json of `vmoer reproduce` without
 * what no table shows, to be committed readme_table print FIGURES.json                  the table readme_table write
 * FIGURES.json README.md        puts it between the two marks readme_table check FIGURES.json README.md        exit
 * code 1 and the first line that differs, where the marks hold something else */
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char begin_mark[] = "<!-- table of docs/experiment.json: tools/readme_table.c -->\n",
                  end_mark[] = "<!-- end of the table -->\n";
static const char *const signals[] = {"choice_entropy",     "gate_entropy",        "logit_variance",
                                      "mutual_information", "routing_temperature", "length"};

/* ---- extract ---- */

static bool shown_signal(const json_t *entry) {
    const char *signal = json_string_value(json_object_get(entry, "signal"));
    for (size_t i = 0; signal && i < sizeof signals / sizeof *signals; i++)
        if (strcmp(signals[i], signal) == 0) return true;
    return false;
}

static vmoer_status extract(const char *from, const char *to) {
    json_t *root, *entry;
    size_t i;
    VM_TRY(vm_json_load(from, &root));
    json_t *detections = json_object_get(root, "ood");
    json_object_del(root, "maps"); /* the trainings' histories */
    json_array_foreach(json_object_get(root, "calibration"), i, entry) json_object_del(entry, "reliability");
    json_array_foreach(json_object_get(root, "stability"), i, entry) json_object_del(entry, "layers");
    for (i = json_array_size(detections); i-- > 0;)
        if (!shown_signal(json_array_get(detections, i))) json_array_remove(detections, i);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(8));
    vmoer_status status = text ? vm_write_file(to, text, strlen(text)) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    free(text);
    json_decref(root);
    return status;
}

/* ---- the table ---- */

static bool is(const json_t *entry, const char *key, const char *value) {
    const char *own = json_string_value(json_object_get(entry, key));
    return own && value && strcmp(own, value) == 0;
}

static bool same_contestant(const json_t *a, const json_t *b) {
    return is(a, "map", json_string_value(json_object_get(b, "map"))) &&
           is(a, "router", json_string_value(json_object_get(b, "router")));
}

/* The entry of a list with this map and router, and where they are given, a key of that value each. */
static const json_t *find(const json_t *list, const json_t *like, const char *const keys[][2], size_t n) {
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry) {
        bool same = same_contestant(entry, like);
        for (size_t k = 0; k < n && same; k++) same = is(entry, keys[k][0], keys[k][1]);
        if (same) return entry;
    }
    return NULL;
}

static void put_figure(FILE *f, const json_t *figure) {
    const json_t *mean = json_object_get(figure, "mean"), *ci = json_object_get(figure, "ci95");
    if (!json_is_number(mean)) {
        fprintf(f, " |");
        return;
    }
    fprintf(f, " %.3f", json_number_value(mean));
    if (json_array_size(ci) == 2)
        fprintf(f, " [%.3f, %.3f]", json_number_value(json_array_get(ci, 0)), json_number_value(json_array_get(ci, 1)));
    fprintf(f, " |");
}

/* Isolated Jaccard under absolute noise of .01. */
static const json_t *steadiness(const json_t *root, const json_t *like) {
    size_t i;
    const json_t *entry;
    json_array_foreach(json_object_get(root, "stability"), i, entry) {
        if (same_contestant(entry, like) && json_is_false(json_object_get(entry, "relative")) &&
            json_number_value(json_object_get(entry, "sigma")) == .01)
            return json_object_get(entry, "isolated");
    }
    return NULL;
}

static void put_row(FILE *f, const json_t *root, const json_t *entry, const json_t *tasks) {
    static const char *const of_first[] = {"acc", "nll", "ece"};
    const char *const detection[][2] = {{"set", "mean"}, {"signal", "choice_entropy"}};
    fprintf(f, "| %s / %s |", json_string_value(json_object_get(entry, "map")),
            json_string_value(json_object_get(entry, "router")));
    for (size_t k = 0; k < sizeof of_first / sizeof *of_first; k++) put_figure(f, json_object_get(entry, of_first[k]));
    fprintf(f, " %.3f |", json_number_value(json_object_get(json_object_get(entry, "ece_floor"), "p95")));
    for (size_t t = 1; t < json_array_size(tasks); t++) {
        const char *const task[][2] = {{"task", json_string_value(json_array_get(tasks, t))}};
        put_figure(f, json_object_get(find(json_object_get(root, "calibration"), entry, task, 1), "ece"));
    }
    put_figure(f, json_object_get(find(json_object_get(root, "ood"), entry, detection, 2), "auroc"));
    put_figure(f, steadiness(root, entry));
    fprintf(f, "\n");
}

static vmoer_status make_table(const char *path, char **out) {
    json_t *root;
    size_t size, i, columns = 4;
    const json_t *entry;
    VM_TRY(vm_json_load(path, &root));
    const json_t *tasks = json_object_get(json_object_get(root, "config"), "tasks"),
                 *list = json_object_get(root, "calibration");
    const char *first = json_string_value(json_array_get(tasks, 0));
    FILE *f = open_memstream(out, &size);
    if (!f || !first || !json_array_size(list)) {
        if (f) fclose(f);
        json_decref(root);
        return vm_error(VMOER_ERROR_FORMAT, "%s: no config.tasks or no calibration", path);
    }
    fprintf(f, "| MAP / router | %s ACC | NLL | ECE | ECE floor, 95%% |", first);
    for (i = 1; i < json_array_size(tasks); i++, columns++)
        fprintf(f, " %s ECE |", json_string_value(json_array_get(tasks, i)));
    fprintf(f, " OoD AUROC, choice entropy | Jaccard, sigma .01 |\n|");
    for (i = 0; i < columns + 3; i++) fprintf(f, "---|");
    fprintf(f, "\n");
    json_array_foreach(list, i, entry) if (is(entry, "task", first)) put_row(f, root, entry, tasks);
    fclose(f);
    json_decref(root);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory");
}

/* ---- README ---- */

/* Its text, to be freed, and where in it the table stands. */
static vmoer_status read_readme(const char *path, char **text, char **from, char **to) {
    vm_map map;
    VM_TRY(vm_map_open(path, &map));
    *text = strndup((const char *)map.data, map.size);
    vm_map_close(&map);
    if (!*text) return vm_error(VMOER_ERROR_MEMORY, "no memory");
    *from = strstr(*text, begin_mark);
    *to = *from ? strstr(*from, end_mark) : NULL;
    if (*to) {
        *from += strlen(begin_mark);
        return VMOER_OK;
    }
    free(*text);
    return vm_error(VMOER_ERROR_FORMAT, "%s: the lines \"%.*s\" and \"%.*s\" do not stand there", path,
                    (int)strlen(begin_mark) - 1, begin_mark, (int)strlen(end_mark) - 1, end_mark);
}

static vmoer_status put_table(const char *path, const char *table, bool check) {
    char *text, *from, *to, *whole = NULL;
    VM_TRY(read_readme(path, &text, &from, &to));
    size_t length = (size_t)(to - from);
    vmoer_status status = VMOER_OK;
    if (check && (strlen(table) != length || strncmp(table, from, length) != 0)) {
        size_t at = 0, line = 0;
        for (; table[at] && at < length && table[at] == from[at]; at++)
            if (table[at] == '\n') line = at + 1;
        status =
            vm_error(VMOER_ERROR_MISMATCH, "%s: the table is not that of the figures: '%.*s', by them '%.*s'", path,
                     (int)strcspn(from + line, "\n"), from + line, (int)strcspn(table + line, "\n"), table + line);
    } else if (!check) {
        int size = asprintf(&whole, "%.*s%s%s", (int)(from - text), text, table, to);
        status = size >= 0 ? vm_write_file(path, whole, (size_t)size) : vm_error(VMOER_ERROR_MEMORY, "no memory");
        free(whole);
    }
    free(text);
    return status;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    bool file = strcmp(mode, "write") == 0 || strcmp(mode, "check") == 0;
    char *table = NULL;
    vmoer_status status;
    if (argc == 4 && strcmp(mode, "extract") == 0) {
        status = extract(argv[2], argv[3]);
    } else if ((argc == 3 && strcmp(mode, "print") == 0) || (argc == 4 && file)) {
        status = make_table(argv[2], &table);
        if (status == VMOER_OK && !file) fputs(table, stdout);
        if (status == VMOER_OK && file) status = put_table(argv[3], table, strcmp(mode, "check") == 0);
        free(table);
    } else {
        return fprintf(stderr, "usage: readme_table extract RESULTS OUT | print FIGURES | write FIGURES README | check "
                               "FIGURES README\n"),
               2;
    }
    if (status != VMOER_OK) fprintf(stderr, "readme_table: %s\n", vm_error_text());
    return status != VMOER_OK;
}
