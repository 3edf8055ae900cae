/* test_gradients.c: the backward pass held to PyTorch: the gradient of every weight, of every LoRA tensor and of the
 * ELBO; and, where PyTorch has no say (weights below and above a variational router; a model that is taught by
 * another), to central differences of our own loss. */
#include "base/rng.h"
#include "io/halves.h"
#include "model_fixture.h"
#include "train/lora.h"

enum { DIM = 32, VOCAB = 272, SCRATCH = 16384 };

/* By the norm of the tensor, and by element where the tensor's largest one gives the scale. */
static void assert_gradient(const char *model, const char *name, const float *got, const float *golden, size_t n) {
    double largest = 0, relative = relative_difference(got, golden, n);
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)golden[i]));
    double element = largest_difference(got, golden, n);
    if (!(relative < 1e-4 && element <= 1e-4 * largest))
        fail_msg("%s, %s: gradient of %s differs by %g of its norm, an element by %g of %g", model,
                 vm_kernels_get()->name, name, relative, element, largest);
}

/* ---- weights ---- */

/* The golden file's names of a site: Hugging Face's, or GGUF's of experts that the former has the other way round. */
static int golden_slots(const vm_safetensors *st, const vm_model *m, int layer, vm_site site, vm_slot *slots) {
    char name[160];
    int n = vm_model_tensors(&m->config, layer, site, slots);
    snprintf(name, sizeof name, "grad.%s.weight", n ? slots[0].name : "");
    return vm_safetensors_find(st, name) ? n : vm_model_slots(&m->config, layer, site, slots);
}

/* The golden gradient of a projection, its modules one below the other as in memory here: out[rows of l, in]. False:
 * the model has no such site. */
static bool golden_site(const vm_safetensors *st, const vm_model *m, int layer, vm_site site, int expert, float *out) {
    vm_slot slots[VM_MAX_LORA];
    int n = golden_slots(st, m, layer, site, slots), rows, columns;
    vm_model_shape(&m->config, layer, site, &rows, &columns);
    for (int i = 0; i < n; i++) {
        char name[160];
        size_t in = (size_t)columns, size = (size_t)slots[i].rows * in,
               stack = slots[i].per_expert ? (size_t)m->config.n_experts : 1;
        bool bare = slots[i].per_expert && strncmp(slots[i].name, "blk.", 4) != 0;
        snprintf(name, sizeof name, "grad.%s%s", slots[i].name, bare ? "" : ".weight");
        assert_true((size_t)(slots[i].row + slots[i].rows) * in <= SCRATCH);
        memcpy(out + (size_t)slots[i].row * in, golden_f32(st, name, stack * size) + (size_t)expert * size,
               size * sizeof *out);
    }
    return n > 0;
}

/* True: the projection has a bias, whose gradient is right. */
static bool check_bias(const char *model, const vm_safetensors *st, const vm_model *m, int layer, vm_site site,
                       int expert, const vm_param *bias) {
    vm_slot slots[VM_MAX_LORA];
    int n = bias ? golden_slots(st, m, layer, site, slots) : 0;
    for (int i = 0; i < n; i++) {
        char name[160];
        snprintf(name, sizeof name, "grad.%s.bias", slots[i].name);
        size_t rows = (size_t)slots[i].rows, stack = slots[i].per_expert ? (size_t)m->config.n_experts : 1;
        const float *golden = golden_f32(st, name, stack * rows) + (size_t)expert * rows;
        assert_gradient(model, name, bias->grad + slots[i].row, golden, rows);
    }
    return n > 0;
}

static int experts_of(const vm_model *m, int site) {
    return site == VM_SITE_EXPERT_IN || site == VM_SITE_EXPERT_OUT ? m->config.n_experts : 1;
}

static void check_weight_gradients(const char *name) {
    vm_safetensors *st = golden_open(name);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = 0, .train_all = true});
    vm_arena *arena = vm_arena_create();
    vm_prompt prompt = golden_prompt(st);
    vm_pass *pass;
    vm_param_list params;
    question_run r = golden_question(arena, &prompt, 0);
    vm_pass_options options = {.training = true, .sign = 1};
    float golden[SCRATCH];
    char key[128];
    size_t seen = 0;
    OK(vm_pass_create(m, NULL, &pass));
    OK(vm_pass_forward(pass, &r.q.batch, &options, r.log_probability, NULL, NULL));
    question_loss(&r, golden_i32(st, "right", 1));
    OK(vm_pass_backward(pass, r.d_log_probability, 0));
    for (int layer = 0; layer < m->config.n_layers; layer++) {
        for (int site = 0; site < VM_SITE_COUNT; site++)
            for (int e = 0; e < experts_of(m, site) && golden_site(st, m, layer, (vm_site)site, e, golden);
                 e++, seen++) {
                const vm_linear *l = vm_model_linear(m, layer, (vm_site)site, e);
                assert_gradient(name, l->weight->name, l->weight->grad, golden, vm_param_size(l->weight));
                seen += check_bias(name, st, m, layer, (vm_site)site, e, l->bias);
            }
        vm_vector vectors[VM_MAX_VECTORS];
        int n = vm_model_vectors(m, layer, vectors);
        for (int i = 0; i < n; i++, seen++) {
            size_t size = (size_t)vectors[i].n;
            snprintf(key, sizeof key, "grad.model.layers.%d.%s", layer, vectors[i].parameter);
            assert_gradient(name, key, vectors[i].param->grad, golden_f32(st, key, size), size);
        }
    }
    assert_gradient(name, "norm", m->final_norm.grad, golden_f32(st, "grad.model.norm.weight", DIM), DIM);
    assert_gradient(name, "embed_tokens", m->embedding_param->grad,
                    golden_f32(st, "grad.model.embed_tokens.weight", VOCAB * DIM), VOCAB * DIM);
    assert_int_equal(m->tied, vm_safetensors_find(st, "grad.lm_head.weight") == NULL);
    if (!m->tied)
        assert_gradient(name, "lm_head", m->head.weight->grad, golden_f32(st, "grad.lm_head.weight", VOCAB * DIM),
                        VOCAB * DIM);
    OK(vm_model_params(m, &params)); /* and these are all there are */
    assert_int_equal(params.count, seen + 2 + !m->tied);
    vm_free(params.items);
    vm_pass_free(pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void on_every_isa(void (*check)(const char *name), const char *const *names, int n_names) {
    const vm_kernels *tables[8];
    int n = vm_kernels_all(tables, 8);
    for (int i = 0; i < n; i++) {
        vm_kernels_force(tables[i]);
        for (int m = 0; m < n_names; m++) check(names[m]);
    }
    vm_kernels_force(NULL);
}

static void test_weights(void **state) {
    (void)state;
    on_every_isa(check_weight_gradients, tiny_models, TINY_MODELS);
}

/* ---- LoRA ---- */

enum { RANK = 4 };

/* Where peft keeps a slot's tensors: "base_model.model.model.layers.0.self_attn.q_proj" + ".lora_A.weight". */
static void peft_stem(const vm_slot *slot, char stem[160]) {
    static const char up[] = "experts.gate_up_proj", down[] = "experts.down_proj";
    int length = (int)strlen(slot->name);
    const char *nested = "";
    if (slot->per_expert && strstr(slot->name, up))
        length -= (int)strlen(up) - (int)strlen("experts"), nested = ".base_layer";
    else if (slot->per_expert)
        length -= (int)strlen(down) - (int)strlen("experts");
    snprintf(stem, 160, "base_model.model.%.*s%s", length, slot->name, nested);
}

/* A and B of one expert (or of a plain module: n 1, e 0) out of peft's stack, A expert-major and B rank-major. */
static void unstack(const vm_safetensors *st, const char *prefix, const vm_slot *slot, int n, int e, int in, float *a,
                    float *b) {
    char stem[160], key[256];
    peft_stem(slot, stem);
    snprintf(key, sizeof key, "%s%s.lora_A.weight", prefix, stem);
    memcpy(a, golden_f32(st, key, (size_t)(n * RANK * in)) + e * RANK * in, (size_t)(RANK * in) * sizeof *a);
    snprintf(key, sizeof key, "%s%s.lora_B.weight", prefix, stem);
    const float *stacked = golden_f32(st, key, (size_t)(slot->rows * RANK * n));
    for (int o = 0; o < slot->rows; o++) {
        float *row = b + vm_to_halves((size_t)o, (size_t)slot->rows, slot->heads) * RANK;
        for (int j = 0; j < RANK; j++) row[j] = stacked[(o * RANK + j) * n + e];
    }
}

/* Calls visit with every slot of the model and its projection. */
static void each_slot(vm_model *m, const vm_safetensors *st,
                      void (*visit)(const vm_safetensors *st, vm_linear *l, const vm_slot *slot, int index, int n,
                                    int e)) {
    for (int layer = 0; layer < m->config.n_layers; layer++)
        for (int site = 0; site < VM_SITE_COUNT; site++) {
            vm_slot slots[VM_MAX_LORA];
            int n = vm_model_slots(&m->config, layer, (vm_site)site, slots);
            for (int e = 0; e < experts_of(m, site); e++)
                for (int i = 0; i < n; i++)
                    visit(st, vm_model_linear(m, layer, (vm_site)site, e), &slots[i], i, experts_of(m, site), e);
        }
}

static void attach(const vm_safetensors *adapter, vm_linear *l, const vm_slot *slot, int index, int n, int e) {
    vm_lora *lora;
    OK(vm_linear_add_lora(l, slot->name, slot->row, slot->rows, RANK, 8.0f / RANK, &lora));
    assert_ptr_equal(lora, l->lora[index]);
    unstack(adapter, "", slot, n, e, l->in, lora->a.value, lora->b.value);
}

static void compare(const vm_safetensors *golden, vm_linear *l, const vm_slot *slot, int index, int n, int e) {
    float a[SCRATCH], b[SCRATCH];
    const vm_lora *lora = l->lora[index];
    assert_null(l->weight);
    unstack(golden, "grad.", slot, n, e, l->in, a, b);
    assert_gradient("LoRA", lora->a.name, lora->a.grad, a, vm_param_size(&lora->a));
    assert_gradient("LoRA", lora->b.name, lora->b.grad, b, vm_param_size(&lora->b));
}

static void assert_logits(vm_model *m, const vm_safetensors *st, const char *what) {
    vm_pass *pass;
    sequences s;
    float logits[MAX_TOKENS * VOCAB];
    vm_pass_options options = {.sign = 1};
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, 6, &s);
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
    double d = largest_difference(logits, golden_f32(st, "logits", (size_t)s.batch.n_tokens * VOCAB),
                                  (size_t)s.batch.n_tokens * VOCAB);
    if (!(d < 1e-4)) fail_msg("%s, %s: logits differ by %g", vm_kernels_get()->name, what, d);
    vm_pass_free(pass);
}

static void check_lora(const char *name) {
    char path[160];
    vm_safetensors *adapter_file, *st;
    vm_adapter *adapter;
    vm_arena *arena = vm_arena_create();
    vm_pass *pass;
    snprintf(path, sizeof path, "%s-lora", name);
    st = golden_open(path);
    OK(vm_adapter_open(golden_path(path), &adapter));
    snprintf(path, sizeof path, "%s-lora/adapter_model.safetensors", name);
    OK(vm_safetensors_open(golden_path(path), &adapter_file));

    vm_model *merged = load_model(name, (vm_model_options){.backward_from = -1, .adapter = adapter});
    assert_logits(merged, st, "merged adapter");
    vm_model_free(merged);

    vm_model *m = load_model(name, (vm_model_options){.backward_from = 0});
    each_slot(m, adapter_file, attach);
    m->first_trained = 0;
    OK(vm_model_refresh(m, NULL));
    assert_logits(m, st, "attached LoRA");
    vm_prompt prompt = golden_prompt(st);
    question_run r = golden_question(arena, &prompt, 0);
    vm_pass_options options = {.training = true, .sign = 1};
    OK(vm_pass_create(m, NULL, &pass));
    OK(vm_pass_forward(pass, &r.q.batch, &options, r.log_probability, NULL, NULL));
    question_loss(&r, golden_i32(st, "right", 1));
    assert_float_equal(r.loss, *golden_f32(st, "loss", 1), 2e-5);
    OK(vm_pass_backward(pass, r.d_log_probability, 0));
    each_slot(m, st, compare);
    assert_null(m->head.weight);
    assert_null(m->embedding_param);
    assert_null(m->final_norm.grad);
    vm_pass_free(pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_model_free(m);
    vm_adapter_free(adapter);
    vm_safetensors_free(adapter_file);
    vm_safetensors_free(st);
}

static void test_lora(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-llama", "tiny-moe", "tiny-qwen3moe", "tiny-mixtral", "tiny-gpt-oss"};
    on_every_isa(check_lora, names, sizeof names / sizeof *names);
}

/* ---- the ELBO ---- */

enum { WIDTH = 8, EXPERTS = 8 };

/* A vglr-fc router of all layers that have one; its values are the golden ones, or random where there is no file. */
static vm_router *make_router(const vm_model *m, const vm_safetensors *st, float prior_scale) {
    vm_router_config config = {.kind = "vglr-fc",
                               .n_experts = m->config.n_experts,
                               .dim = DIM,
                               .width = WIDTH,
                               .prior_scale = prior_scale,
                               .initial_scale = 0.3f,
                               .seed = 3,
                               .temperature = 1};
    vm_router *r;
    for (int l = m->config.dense_layers; l < m->config.n_layers; l++) config.layers[config.n_layers++] = l;
    OK(vm_router_create(&config, &r));
    vm_param_list list = vm_router_params(r);
    vm_rng rng = vm_rng_start(17, VM_RNG_INIT, 0);
    for (size_t i = 0; i < list.count; i++) {
        size_t n = vm_param_size(list.items[i]);
        if (st) memcpy(list.items[i]->value, golden_f32(st, list.items[i]->name, n), n * sizeof(float));
        for (size_t k = 0; !st && k < n; k++) list.items[i]->value[k] += 0.2f * vm_rng_normal(&rng);
    }
    return r;
}

static double metadata(const vm_safetensors *st, const char *key) {
    const char *text = vm_safetensors_metadata(st, key);
    if (!text) fail_msg("golden metadata %s is missing", key);
    return atof(text);
}

static void check_elbo(const char *name) {
    char key[160];
    snprintf(key, sizeof key, "%s-elbo", name);
    vm_safetensors *st = golden_open(key);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = 0});
    vm_router *router = make_router(m, st, (float)metadata(st, "prior_scale"));
    vm_param_list list = vm_router_params(router);
    vm_arena *arena = vm_arena_create();
    vm_prompt prompt = golden_prompt(st);
    vm_pass *pass;
    question_run r = golden_question(arena, &prompt, (uint32_t)metadata(st, "item"));
    int right = (int)metadata(st, "right");
    double weight = metadata(st, "beta") / (r.q.batch.n_tokens * 2);
    vm_pass_options options = {.training = true,
                               .router = router,
                               .seed = (uint64_t)metadata(st, "seed"),
                               .step = (uint64_t)metadata(st, "step"),
                               .sign = 1};
    OK(vm_pass_create(m, NULL, &pass));
    OK(vm_pass_forward(pass, &r.q.batch, &options, r.log_probability, NULL, NULL));
    question_loss(&r, &right);
    for (int i = 0; i < 3; i++) assert_float_equal(r.score[i], golden_f32(st, "scores", 3)[i], 2e-5);
    assert_float_equal(r.loss, *golden_f32(st, "ce", 1), 2e-5);
    double kl = *golden_f32(st, "kl", 1);
    assert_float_equal(vm_pass_kl(pass), kl, 1e-5 * kl);
    assert_float_equal(r.loss + weight * vm_pass_kl(pass), *golden_f32(st, "loss", 1), 5e-5);
    OK(vm_pass_backward(pass, r.d_log_probability, (float)weight));
    for (size_t i = 0; i < list.count; i++) {
        snprintf(key, sizeof key, "grad.%s", list.items[i]->name);
        assert_gradient("elbo", key, list.items[i]->grad, golden_f32(st, key, vm_param_size(list.items[i])),
                        vm_param_size(list.items[i]));
    }
    /* Inference: the logits at the last position of each sequence. */
    static const char *const ways[] = {"mean", "closed", "sample"};
    for (int way = 0; way < 3; way++) {
        sequences s;
        float logits[6 * VOCAB];
        options = (vm_pass_options){.router = router,
                                    .inference = (vm_inference)way,
                                    .samples = (int)metadata(st, "samples"),
                                    .seed = options.seed,
                                    .sign = 1};
        golden_sequences(st, 0, 6, &s);
        for (int i = 0; i < 6; i++) s.rows[i] = s.segments[i].start + s.segments[i].length - 1;
        s.batch.n_rows = 6;
        OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
        snprintf(key, sizeof key, "%s.logits", ways[way]);
        double d = largest_difference(logits, golden_f32(st, key, 6 * VOCAB), 6 * VOCAB);
        if (!(d < 1e-4)) fail_msg("%s: %s differ by %g", vm_kernels_get()->name, key, d);
    }
    vm_pass_free(pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_router_free(router);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void test_elbo(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-moe"};
    on_every_isa(check_elbo, names, 1);
}

/* ---- central differences ---- */

typedef struct objective {
    vm_model *m;
    vm_pass *pass;
    vm_pass_options options;
    const vm_batch *batch;
    question_run *r; /* NULL: the loss is the divergence from the teacher, weighted */
    double kl_weight;
    uint32_t experts[3 * MAX_TOKENS]; /* a bit for each chosen expert, by layer and token */
} objective;

/* The loss; which experts ran goes to o->experts, for the loss jumps where they change. */
static double loss_of(objective *o) {
    static const int right = 1;
    OK(vm_model_refresh(o->m, NULL));
    OK(vm_pass_forward(o->pass, o->batch, &o->options, o->r ? o->r->log_probability : NULL, NULL, NULL));
    if (o->r) question_loss(o->r, &right);
    memset(o->experts, 0, sizeof o->experts);
    const int32_t *chosen = vm_pass_facts(o->pass).chosen;
    for (int i = 0; i < o->m->config.n_layers * o->batch->n_tokens; i++)
        for (int k = 0; k < o->m->config.top_k; k++) {
            int32_t expert = chosen[i * o->m->config.top_k + k];
            if (expert >= 0) o->experts[i] |= 1u << expert;
        }
    return o->r ? o->r->loss + o->kl_weight * vm_pass_kl(o->pass)
                : (double)o->options.teacher_weight * vm_pass_divergence(o->pass);
}

/* The derivative along the unit vector `direction` by 4 points; the step is halved until no expert changes. Gives the
 * step, 0 if it never came to that. */
static double central_difference(objective *o, vm_param *p, const float *direction, double *out) {
    static const double at[4] = {-2, -1, 1, 2}, weight[4] = {1, -8, 8, -1};
    size_t n = vm_param_size(p);
    float *value = vm_malloc(n, sizeof *value);
    uint32_t before[3 * MAX_TOKENS];
    double step = 0;
    memcpy(value, p->value, n * sizeof *value);
    loss_of(o);
    memcpy(before, o->experts, sizeof before);
    for (double h = 0.016; h > 0.0015 && step == 0; h /= 2) {
        bool steady = true;
        *out = 0;
        for (int i = 0; i < 4 && steady; i++) {
            for (size_t k = 0; k < n; k++) p->value[k] = (float)((double)value[k] + at[i] * h * (double)direction[k]);
            *out += weight[i] * loss_of(o) / (12 * h);
            steady = memcmp(before, o->experts, sizeof before) == 0;
        }
        if (steady) step = h;
    }
    memcpy(p->value, value, n * sizeof *value);
    vm_free(value);
    return step;
}

/* Along the gradient itself (its size) and along random directions (its direction). */
static int check_differences(objective *o, vm_param *p) {
    size_t n = vm_param_size(p);
    float *direction = vm_malloc(n, sizeof *direction);
    double norm = 0;
    int checked = 0;
    vm_rng rng = vm_rng_start(23, VM_RNG_INIT, 0);
    for (size_t k = 0; k < n; k++) norm += (double)p->grad[k] * (double)p->grad[k];
    norm = sqrt(norm);
    for (int way = 0; way < 4; way++) {
        double length = 0, expected = 0, got = 0;
        for (size_t k = 0; k < n; k++) {
            direction[k] = way == 0 && norm > 0 ? p->grad[k] : vm_rng_normal(&rng);
            length += (double)direction[k] * (double)direction[k];
        }
        for (size_t k = 0; k < n; k++) {
            direction[k] = (float)((double)direction[k] / sqrt(length));
            expected += (double)direction[k] * (double)p->grad[k];
        }
        double step = central_difference(o, p, direction, &got);
        if (step == 0) continue;
        checked++;
        /* What the fifth derivative leaves, and the rounding of a loss whose log-probabilities are f32. */
        if (!(fabs(got - expected) < 1e-3 * norm + 1.5e-6 / step))
            fail_msg("%s, direction %d: %g, difference quotient %g, norm %g", p->name, way, expected, got, norm);
    }
    vm_free(direction);
    return checked;
}

/* most_idle: parameters without a gradient, those of experts that no token chose. */
static void check_all_differences(const char *name, int most_idle) {
    vm_safetensors *st = golden_open(name);
    vm_model *m = load_model(name, (vm_model_options){.backward_from = 0, .train_all = true});
    vm_router *router = make_router(m, NULL, 0.7f);
    vm_arena *arena = vm_arena_create();
    vm_prompt prompt = golden_prompt(st);
    question_run r = golden_question(arena, &prompt, 4);
    objective o = {.m = m,
                   .batch = &r.q.batch,
                   .r = &r,
                   .kl_weight = 0.02,
                   .options = {.training = true, .router = router, .seed = 8, .step = 2, .sign = 1, .facts = true}};
    vm_param_list lists[2] = {{NULL, 0}, vm_router_params(router)};
    OK(vm_pass_create(m, NULL, &o.pass));
    OK(vm_model_params(m, &lists[0]));
    loss_of(&o);
    OK(vm_pass_backward(o.pass, r.d_log_probability, (float)o.kl_weight));
    int checked = 0, idle = 0, all = 0;
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < lists[i].count; k++, all++) {
            const vm_param *p = lists[i].items[k];
            bool moves = false;
            for (size_t j = 0; j < vm_param_size(p); j++) moves |= p->grad[j] != 0;
            idle += !moves; /* an expert that no token chose */
            checked += check_differences(&o, lists[i].items[k]);
        }
    if (idle > most_idle) fail_msg("%s: %d parameters of %d have no gradient", name, idle, all);
    if (checked < 4 * all * 3 / 4) fail_msg("%s: only %d of %d directions kept their experts", name, checked, 4 * all);
    vm_free(lists[0].items);
    vm_pass_free(o.pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_router_free(router);
    vm_model_free(m);
    vm_safetensors_free(st);
}

static void test_differences(void **state) {
    (void)state;
    check_all_differences("tiny-moe", 8);
    check_all_differences("tiny-deepseek", 8);
    check_all_differences("tiny-qwen2moe", 8);
    check_all_differences("tiny-gpt-oss", 16);
}

/* tiny-mixtral as a file of this test, with sinks [4] in both layers, all of them `value`. */
static const char *write_sinks(float value) {
    static float sinks[4];
    const char *path = scratch_path("sinks.gguf");
    vm_gguf *g;
    vm_gguf_writer *w = vm_gguf_writer_create();
    for (int h = 0; h < 4; h++) sinks[h] = value;
    OK(vm_gguf_open(golden_path("tiny-mixtral.gguf"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        OK(vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data));
    }
    OK(vm_gguf_writer_tensor(w, "blk.0.attn_sinks.weight", VM_F32, 1, (int64_t[]){4}, sinks));
    OK(vm_gguf_writer_tensor(w, "blk.1.attn_sinks.weight", VM_F32, 1, (int64_t[]){4}, sinks));
    OK(vm_gguf_writer_save(w, path));
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
    return path;
}

/* A sink far below every logit changes nothing; one among them is trained like any other parameter. */
static void test_sinks(void **state) {
    (void)state;
    vm_safetensors *st = golden_open("tiny-mixtral");
    vm_arena *arena = vm_arena_create();
    vm_prompt prompt = golden_prompt(st);
    question_run r = golden_question(arena, &prompt, 4);
    vm_model *m;
    const char *path = write_sinks(-100);
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    assert_logits(m, st, "sinks that draw nothing");
    vm_model_free(m);
    unlink(path);
    path = write_sinks(0.5f);
    OK(vm_model_load(path, &(vm_model_options){.backward_from = 0, .train_all = true}, NULL, &m));
    objective o = {
        .m = m, .batch = &r.q.batch, .r = &r, .options = {.training = true, .seed = 8, .sign = 1, .facts = true}};
    OK(vm_pass_create(m, NULL, &o.pass));
    loss_of(&o);
    OK(vm_pass_backward(o.pass, r.d_log_probability, 0));
    for (int l = 0; l < 2; l++) {
        const float *grad = m->layers[l].sinks.grad;
        for (int h = 0; h < 4; h++) assert_true(fabsf(grad[h]) > 1e-6f);
        assert_true(check_differences(&o, &m->layers[l].sinks) >= 3);
    }
    vm_pass_free(o.pass);
    vm_free(prompt.ids);
    vm_arena_free(arena);
    vm_model_free(m);
    vm_safetensors_free(st);
    unlink(path);
}

/* tiny-moe taught by tiny-llama, whose logits are not divided: every LoRA of attention and experts, and the routers'
 * own weights. */
static void test_taught(void **state) {
    (void)state;
    vm_safetensors *st = golden_open("tiny-moe");
    vm_model *m = load_model("tiny-moe", (vm_model_options){.backward_from = 0}),
             *other = load_model("tiny-llama", (vm_model_options){.backward_from = -1});
    vm_pass *teacher;
    vm_param_list params;
    sequences s;
    golden_sequences(st, 0, 3, &s);
    OK(vm_lora_attach(m, "attention,experts", 2, 4, 5, NULL));
    for (int l = 0; l < 2; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
        const vm_gguf_tensor *t = vm_gguf_find_tensor(m->file, name);
        assert_int_equal(t->type, VM_F32);
        OK(vm_linear_train(&m->layers[l].ffn.router, "router", (const float *)(const void *)t->data));
    }
    OK(vm_model_params(m, &params));
    assert_int_equal(params.count, 2 * (1 + 2 * (6 + 2 * EXPERTS)));
    vm_rng rng = vm_rng_start(41, VM_RNG_INIT, 0);
    for (size_t i = 0; i < params.count; i++) /* B is zero as attached, and A's gradient with it */
        for (size_t k = 0; strstr(params.items[i]->name, "lora_B") && k < vm_param_size(params.items[i]); k++)
            params.items[i]->value[k] = 0.1f * vm_rng_normal(&rng);
    OK(vm_model_refresh(m, NULL));
    OK(vm_pass_create(other, NULL, &teacher));
    OK(vm_pass_forward(teacher, &s.batch, &(vm_pass_options){.sign = 1}, NULL, NULL, NULL));
    objective o = {.m = m,
                   .batch = &s.batch,
                   .options = {.training = true,
                               .teacher = teacher,
                               .teacher_weight = 1.0f / (float)s.batch.n_rows,
                               .sign = 1,
                               .facts = true}};
    OK(vm_pass_create(m, NULL, &o.pass));
    OK(vm_pass_forward(o.pass, &s.batch, &o.options, NULL, NULL, NULL));
    OK(vm_pass_backward(o.pass, NULL, 0));
    o.options.training = false; /* which gives the divergence without a way back */
    int checked = 0, large = 0;
    for (size_t i = 0; i < params.count; i++) {
        const vm_param *p = params.items[i];
        double norm = 0;
        for (size_t k = 0; k < vm_param_size(p); k++) norm += (double)p->grad[k] * (double)p->grad[k];
        large += norm > 0.01 * 0.01;
        checked += check_differences(&o, params.items[i]);
    }
    assert_true(large >= 70); /* far above what a difference quotient cannot see */
    if (checked < 3 * (int)params.count)
        fail_msg("only %d of %zu directions kept their experts", checked, 4 * params.count);
    vm_free(params.items);
    vm_pass_free(o.pass);
    vm_pass_free(teacher);
    vm_model_free(other);
    vm_model_free(m);
    vm_safetensors_free(st);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_weights),     cmocka_unit_test(test_lora),
                                       cmocka_unit_test(test_elbo),        cmocka_unit_test(test_sinks),
                                       cmocka_unit_test(test_differences), cmocka_unit_test(test_taught)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
