/* dump_logits.c: last-position logits of token prompts, to hold beside another engine's. A developers' program, not
 * installed. dump_logits MODEL.gguf PROMPTS.json OUT.safetensors [f32|bf16 [ADAPTER]], PROMPTS.json: {"ids": [[1, 2,
 * 3], ...]}. */
#include <vmoer/vmoer.h>

#include <jansson.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what) {
    fprintf(stderr, "dump_logits: %s\n", what);
    return 1;
}

/* Flattens prompts[n] into *ids with (*offsets)[n + 1]; both owned by the caller. */
static int flatten(const json_t *prompts, int32_t **ids, int32_t **offsets) {
    size_t n = json_array_size(prompts), total = 0, used = 0, i, k;
    json_t *prompt, *id;
    json_array_foreach(prompts, i, prompt) total += json_array_size(prompt);
    if (!n || total > INT32_MAX || n > INT32_MAX) return 0;
    *ids = malloc((total + 1) * sizeof **ids);
    *offsets = malloc((n + 1) * sizeof **offsets);
    if (!*ids || !*offsets) return 0;
    json_array_foreach(prompts, i, prompt) {
        (*offsets)[i] = (int32_t)used;
        json_array_foreach(prompt, k, id) {
            json_int_t value = json_integer_value(id);
            if (!json_is_integer(id) || value < 0 || value > INT32_MAX) return 0;
            (*ids)[used++] = (int32_t)value;
        }
    }
    (*offsets)[n] = (int32_t)used;
    return 1;
}

int main(int argc, char **argv) {
    vmoer_model_params params = vmoer_model_params_default();
    vmoer_model *model = NULL;
    int32_t *ids = NULL, *offsets = NULL;
    json_error_t error;
    int code = 1;
    if (argc < 4 || argc > 6)
        return fail("usage: dump_logits MODEL.gguf PROMPTS.json OUT.safetensors [f32|bf16 [ADAPTER]]"), 2;
    params.compute = argc > 4 && !strcmp(argv[4], "bf16") ? VMOER_COMPUTE_BF16 : VMOER_COMPUTE_F32;
    if (argc > 5) params.adapter = argv[5];
    json_t *root = json_load_file(argv[2], JSON_REJECT_DUPLICATES, &error);
    const json_t *prompts = json_object_get(root, "ids");
    if (!root)
        fail(error.text);
    else if (!flatten(prompts, &ids, &offsets))
        fail("the prompts are not {\"ids\": [[1, 2, 3], ...]}");
    else if (vmoer_model_load(argv[1], &params, &model) != VMOER_OK ||
             vmoer_dump_logits(model, ids, offsets, (int)json_array_size(prompts), argv[3]) != VMOER_OK)
        fail(vmoer_last_error());
    else
        code = 0;
    vmoer_model_free(model);
    free(ids);
    free(offsets);
    json_decref(root);
    return code;
}
