/* hf_window.c: sliding windows, between config.json, which says layer by layer who has one (in a list, or by a rule of
 * the model's class), and the GGUF keys: a window, and a period whose last layer sees all. */
#include "base/status.h"
#include "io/hf_internal.h"

#include <stdio.h>
#include <string.h>

static const char sliding[] = "sliding_attention", full[] = "full_attention";

static bool has_switch(const vm_hf_arch *a) { return a->window.use; }

/* 0 to UINT32_MAX; `instead` where it is absent, 0 where it is null. */
static vmoer_status whole(const json_t *config, const char *name, uint32_t instead, uint32_t *out) {
    const json_t *value = json_object_get(config, name);
    *out = value ? 0 : instead;
    if (!value || json_is_null(value)) return VMOER_OK;
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    *out = (uint32_t)n;
    return n >= 0 && n <= UINT32_MAX
               ? VMOER_OK
               : vm_error(VMOER_ERROR_FORMAT, "%s is not a whole number from 0 to %u", name, UINT32_MAX);
}

/* Which layers the class gives a window, where config.json has no list. */
static bool by_rule(const vm_hf_arch *a, uint32_t layer, uint32_t most) {
    switch (a->window.layers) {
    case VM_HF_WINDOW_UPPER:
        return layer >= most;
    case VM_HF_WINDOW_EVEN_LOWER:
        return layer % 2 == 0 && layer < most;
    case VM_HF_WINDOW_EVEN:
        return layer % 2 == 0;
    case VM_HF_WINDOW_NONE:
    case VM_HF_WINDOW_ALL:
        break;
    }
    return true;
}

/* slides[n] */
static vmoer_status read_layers(const vm_hf_arch *a, const json_t *config, uint32_t n, bool *slides) {
    uint32_t most;
    const json_t *list = a->window.layers == VM_HF_WINDOW_ALL ? NULL : json_object_get(config, "layer_types");
    VM_TRY(whole(config, "max_window_layers", 28, &most));
    if (list && json_is_null(list)) list = NULL;
    if (list && json_array_size(list) != n)
        return vm_error(VMOER_ERROR_FORMAT, "layer_types is no list of %u layers", n);
    for (uint32_t i = 0; i < n; i++) {
        const char *type = json_string_value(json_array_get(list, i));
        slides[i] = list ? type && strcmp(type, sliding) == 0 : by_rule(a, i, most);
        if (list && !slides[i] && !(type && strcmp(type, full) == 0))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "layer_types[%u] is neither %s nor %s", i, sliding, full);
    }
    return VMOER_OK;
}

/* The period that gives these layers their windows: 0 where all have one. False: there is none. */
static bool find_period(const bool *slides, uint32_t n, uint32_t *period) {
    uint32_t first = 0;
    while (first < n && slides[first]) first++;
    *period = first < n ? first + 1 : 0;
    for (uint32_t i = 0; i < n; i++)
        if (*period && slides[i] != (i % *period < *period - 1)) return false;
    return true;
}

vmoer_status vm_hf_put_window(const vm_hf_arch *a, const json_t *config, vm_gguf_writer *w) {
    bool slides[VM_HF_MAX_LAYERS], any = false;
    uint32_t window, layers, period;
    char key[128];
    if (a->window.layers == VM_HF_WINDOW_NONE) return VMOER_OK;
    VM_TRY(whole(config, "sliding_window", a->window.absent, &window));
    if (has_switch(a) && !json_is_true(json_object_get(config, "use_sliding_window"))) window = 0;
    VM_TRY(whole(config, "num_hidden_layers", 0, &layers));
    if (window == 0 || layers > VM_HF_MAX_LAYERS) return VMOER_OK; /* so many layers are refused with block_count */
    VM_TRY(read_layers(a, config, layers, slides));
    for (uint32_t i = 0; i < layers; i++) any |= slides[i];
    if (!any) return VMOER_OK;
    bool even = a->window.layers == VM_HF_WINDOW_EVEN; /* the architecture has that period itself */
    bool known = find_period(slides, layers, &period) && (!even || period == 2 || layers == 1);
    if (!known)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: a sliding_window in these layers only is not supported",
                        json_object_get(config, "layer_types") ? "layer_types" : "max_window_layers");
    snprintf(key, sizeof key, "%s.attention.sliding_window", a->arch);
    VM_TRY(vm_gguf_writer_u32(w, key, window));
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", a->arch);
    return period && !even ? vm_gguf_writer_u32(w, key, period) : VMOER_OK;
}

/* ---- the other way ---- */

static vmoer_status optional_u32(const vm_gguf *g, const vm_hf_arch *a, const char *name, uint32_t *out) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", a->arch, name);
    *out = 0;
    return vm_gguf_has_key(g, key) ? vm_gguf_get_u32(g, key, out) : VMOER_OK;
}

static vmoer_status set(json_t *config, const char *name, json_t *value) {
    return json_object_set_new(config, name, value) == 0 ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory");
}

vmoer_status vm_hf_put_window_names(const vm_hf_arch *a, const vm_gguf *g, json_t *config) {
    uint32_t window, period, layers;
    if (a->window.layers == VM_HF_WINDOW_NONE) return VMOER_OK;
    VM_TRY(optional_u32(g, a, "attention.sliding_window", &window));
    VM_TRY(optional_u32(g, a, "attention.sliding_window_pattern", &period));
    VM_TRY(vm_hf_need_u32(g, a, "block_count", VM_HF_MAX_LAYERS, &layers));
    if (a->window.layers == VM_HF_WINDOW_EVEN) period = 2;
    VM_TRY(set(config, "sliding_window", window ? json_integer(window) : json_null()));
    if (has_switch(a)) VM_TRY(set(config, "use_sliding_window", json_boolean(window > 0)));
    if (a->window.layers == VM_HF_WINDOW_ALL || window == 0) return VMOER_OK;
    json_t *list = json_array();
    for (uint32_t i = 0; i < layers; i++)
        json_array_append_new(list, json_string(!period || i % period < period - 1 ? sliding : full));
    return set(config, "layer_types", list);
}
