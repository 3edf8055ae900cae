/* collect.c: the walk over the folder. */
#include "report/collect.h"

#include "base/file.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/utf8.h"
#include "report/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_ENTRIES = 100000, PATH_BYTES = 4096 };

typedef struct walk {
    vm_report_data *data;
    const char *folder;
    const vmoer_hooks *hooks;
    size_t entries; /* looked at so far: a bound on the work a wrong folder makes */
} walk;

static size_t found(const vm_report_data *data) {
    return data->n_runs + data->n_oods + data->n_trainings + data->n_steady + data->n_costs + data->n_experiments +
           data->n_conformals;
}

vmoer_status vm_report_note(vm_report_data *data, const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    const char *kept = vm_arena_strndup(data->arena, line, vm_utf8_cut(line, strlen(line)));
    if (!kept || !vm_grow((void **)&data->notes, &data->capacity[7], data->n_notes + 1, sizeof *data->notes)) {
        return vm_error(VMOER_ERROR_MEMORY, "report: out of memory");
    }
    data->notes[data->n_notes++] = kept;
    return VMOER_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Names in a folder that are not hidden, sorted: of its sub-folders (suffix NULL), or of its files that end so. Links
 * are not followed: the walk stays inside. The array is the caller's (vm_free), the names the arena's. */
static vmoer_status list_names(walk *w, const char *folder, const char *suffix, char ***out, size_t *out_count) {
    char **names = NULL;
    size_t count = 0, capacity = 0;
    vmoer_status status = VMOER_OK;
    DIR *dir = opendir(folder);
    if (!dir) return vm_error(VMOER_ERROR_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        if (suffix && ++w->entries > MAX_ENTRIES) { /* each folder is listed once for its files */
            status = vm_error(VMOER_ERROR_LIMIT, "%s: more than %d files; report on a smaller folder", w->folder,
                              MAX_ENTRIES);
            break;
        }
        if (suffix && !vm_ends_with(entry->d_name, suffix)) continue;
        if (fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (suffix ? !S_ISREG(info.st_mode) : !S_ISDIR(info.st_mode)) continue;
        char *name = vm_arena_strndup(w->data->arena, entry->d_name, strlen(entry->d_name));
        if (!name || !vm_grow((void **)&names, &capacity, count + 1, sizeof *names)) {
            status = vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", folder);
            break;
        }
        names[count++] = name;
    }
    closedir(dir);
    if (count > 0) qsort(names, count, sizeof *names, by_name);
    *out = names;
    *out_count = count;
    return status;
}

/* How the report shows `name` of the folder shown as `path`. */
static vmoer_status shown_path(char out[PATH_BYTES], const char *path, const char *name) {
    if (strcmp(path, ".") != 0) return vm_path_join(out, PATH_BYTES, path, name);
    snprintf(out, PATH_BYTES, "%s", name);
    return VMOER_OK;
}

/* training.json is a folder's own; "<name>.training.json" belongs to an upcycled model of that name. */
static vmoer_status read_trainings(walk *w, const char *folder, const char *path) {
    static const char suffix[] = ".training.json";
    char file[PATH_BYTES], shown[PATH_BYTES], **names = NULL;
    size_t count = 0;
    vmoer_status status;
    VM_GOTO(vm_path_join(file, sizeof file, folder, suffix + 1));
    if (vm_file_exists(file)) VM_GOTO(vm_report_read_training(w->data, file, path));
    VM_GOTO(list_names(w, folder, suffix, &names, &count));
    for (size_t i = 0; i < count && found(w->data) <= VM_REPORT_MAX_RUNS; i++) {
        VM_GOTO(vm_path_join(file, sizeof file, folder, names[i]));
        names[i][strlen(names[i]) - strlen(suffix)] = '\0';
        VM_GOTO(shown_path(shown, path, names[i]));
        VM_GOTO(vm_report_read_training(w->data, file, shown));
    }
done:
    vm_free(names);
    return status;
}

/* What lies in one folder itself. */
static vmoer_status read_folder(walk *w, const char *folder, const char *path) {
    vm_report_data *data = w->data;
    char file[PATH_BYTES];
    size_t runs = data->n_runs;
    VM_TRY(vm_path_join(file, sizeof file, folder, "results.json"));
    bool results = vm_file_exists(file);
    if (results) VM_TRY(vm_report_read_results(data, file, path));
    VM_TRY(vm_path_join(file, sizeof file, folder, "samples.jsonl"));
    bool samples = vm_file_exists(file);
    if (samples && !results)
        VM_TRY(vm_report_note(data, "%s has samples but no results yet: an unfinished run, not shown.", path));
    if (samples && data->n_runs > runs) VM_TRY(vm_report_read_samples(data, file));
    VM_TRY(read_trainings(w, folder, path));
    if (found(data) > VM_REPORT_MAX_RUNS) {
        return vm_error(VMOER_ERROR_LIMIT, "%s: more than %d results; report on a smaller folder", w->folder,
                        VM_REPORT_MAX_RUNS);
    }
    return vm_progress(w->hooks, "read", found(data), 0, path);
}

static vmoer_status visit(walk *w, const char *folder, const char *path, int depth) {
    VM_TRY(read_folder(w, folder, path));
    if (depth == VM_REPORT_MAX_DEPTH) return VMOER_OK;
    char **names = NULL;
    size_t count = 0;
    vmoer_status status;
    VM_GOTO(list_names(w, folder, NULL, &names, &count));
    for (size_t i = 0; i < count; i++) {
        char below[PATH_BYTES], shown[PATH_BYTES];
        VM_GOTO(vm_path_join(below, sizeof below, folder, names[i]));
        VM_GOTO(shown_path(shown, path, names[i]));
        VM_GOTO(visit(w, below, shown, depth + 1));
    }
done:
    vm_free(names);
    return status;
}

/* As the routers stand everywhere else. */
static int by_router(const void *a, const void *b) {
    const vm_report_conformal *x = a, *y = b;
    int groups = strcmp(x->label.group, y->label.group), rank_x = vm_router_rank(x->label.name),
        rank_y = vm_router_rank(y->label.name);
    return groups ? groups : rank_x != rank_y ? rank_x - rank_y : strcmp(x->path, y->path);
}

vmoer_status vm_report_collect(const char *folder, const vmoer_hooks *hooks, vm_report_data *out) {
    *out = (vm_report_data){.arena = vm_arena_create(), .documents = json_array()};
    if (!out->arena || !out->documents) return vm_error(VMOER_ERROR_MEMORY, "report: out of memory");
    walk w = {.data = out, .folder = folder, .hooks = hooks};
    VM_TRY(visit(&w, folder, ".", 0));
    if (out->n_conformals > 0) qsort(out->conformals, out->n_conformals, sizeof *out->conformals, by_router);
    if (found(out) == 0) {
        return vm_error(VMOER_ERROR_DATA, "%s: no results.json or training.json here or up to %d folders below", folder,
                        VM_REPORT_MAX_DEPTH);
    }
    return VMOER_OK;
}

void vm_report_free(vm_report_data *data) {
    vm_free(data->runs);
    vm_free(data->oods);
    vm_free(data->trainings);
    vm_free(data->steady);
    vm_free(data->costs);
    vm_free(data->experiments);
    vm_free(data->conformals);
    vm_free(data->notes);
    json_decref(data->documents);
    vm_arena_free(data->arena);
    *data = (vm_report_data){0};
}
