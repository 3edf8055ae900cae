/* objective.c: see objective.h. */
#include "train/objective.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

enum { PASS_TOKENS = 4096 }; /* a larger batch is split into passes; where depends on the questions alone */

vmoer_status vm_examples_add(vm_examples *e, const vm_tokenizer *t, const vm_dataset *d, vm_format format) {
    size_t n = vm_dataset_count(d), prompts = e->n, answers = e->n; /* capacities: vm_grow may give more, unused */
    if (!vm_grow((void **)&e->prompts, &prompts, e->n + n, sizeof *e->prompts) ||
        !vm_grow((void **)&e->answers, &answers, e->n + n, sizeof *e->answers))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %zu questions", n);
    for (size_t i = 0; i < n; i++, e->n++) {
        const vm_item *item = vm_dataset_at(d, i);
        VM_TRY_IN(vm_prompt_build(t, vm_dataset_task(d), item, format, &e->prompts[e->n]), "%s", item->id);
        e->answers[e->n] = item->answer;
    }
    return VMOER_OK;
}

void vm_examples_free(vm_examples *e) {
    for (size_t i = 0; i < e->n; i++) vm_prompt_free(&e->prompts[i]);
    vm_free(e->prompts);
    vm_free(e->answers);
    memset(e, 0, sizeof *e);
}

/* How many of the questions from `first` on go into one pass; counts their input tokens. */
static int pass_size(const vm_examples *e, const int32_t *items, int first, int n, int *tokens) {
    int count = 0;
    *tokens = 0;
    while (first + count < n) {
        int more = vm_prompt_inputs(&e->prompts[items ? items[first + count] : first + count]);
        if (count && *tokens + more > PASS_TOKENS) break;
        *tokens += more;
        count++;
    }
    return count;
}

static vmoer_status build(const vm_examples *e, const int32_t *items, int first, int n, vm_format format,
                          vm_arena *arena, vm_questions *q) {
    vm_question *questions = vm_arena_alloc(arena, (size_t)n, sizeof *questions);
    if (!questions) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d questions", n);
    for (int i = 0; i < n; i++) {
        int32_t item = items ? items[first + i] : first + i;
        questions[i] = (vm_question){&e->prompts[item], (uint32_t)item};
    }
    return vm_questions_build(arena, questions, n, format, q);
}

/* Probabilities over the choices of question i of q, from its scores: p[k]. Returns k. */
static int choice_probabilities(const vm_questions *q, const double *score, int i, double p[VM_MAX_CHOICES]) {
    int first = q->first_choice[i], k = q->first_choice[i + 1] - first;
    vm_choice_softmax(score + first, k, 1.0, p);
    return k;
}

/* d CE / d score = p - [right], times the question's weight[n]; adds to the sums in out. */
static void cross_entropy(const vm_examples *e, const int32_t *items, const vm_questions *q, const double *score,
                          const double *weight, double *d_score, vm_loss *out) {
    for (int i = 0; i < q->n; i++) {
        double p[VM_MAX_CHOICES];
        int first = q->first_choice[i], k = choice_probabilities(q, score, i, p), best = 0,
            right = e->answers[items[i]];
        for (int c = 0; c < k; c++) {
            d_score[first + c] = weight[i] * (p[c] - (c == right));
            if (p[c] > p[best]) best = c;
        }
        out->ce += weight[i] * -log(fmax(p[right], 1e-300));
        out->acc += weight[i] * (best == right);
    }
}

/* Every token of the questions becomes a row, none a target; the teacher runs them. rows: in the arena. */
static vmoer_status ask_teacher(const vm_objective *o, vm_arena *arena, vm_batch *b) {
    int32_t *rows = vm_arena_alloc(arena, (size_t)b->n_tokens, sizeof *rows);
    if (!rows) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d tokens", b->n_tokens);
    for (int i = 0; i < b->n_tokens; i++) rows[i] = i;
    b->rows = rows;
    b->n_rows = b->n_tokens;
    b->n_targets = 0;
    return vm_pass_forward(o->teacher, b, &(vm_pass_options){0}, NULL, NULL, NULL);
}

static vmoer_status distill_pass(const vm_objective *o, const vm_examples *e, const int32_t *items, int n,
                                 uint64_t step, double weight, vm_arena *arena, vm_loss *out) {
    vm_questions q;
    VM_TRY(build(e, items, 0, n, o->format, arena, &q));
    VM_TRY(ask_teacher(o, arena, &q.batch));
    vm_pass_options options = {.training = true,
                               .seed = o->seed,
                               .step = step,
                               .sign = 1.0f,
                               .memory = o->memory,
                               .teacher = o->teacher,
                               .teacher_weight = (float)weight};
    VM_TRY(vm_pass_forward(o->pass, &q.batch, &options, NULL, NULL, NULL));
    VM_TRY(vm_pass_backward(o->pass, NULL, 0));
    out->ce += weight * vm_pass_divergence(o->pass);
    return VMOER_OK;
}

/* What the draws of one group of questions share. */
typedef struct group {
    vm_questions q;
    float *log_probability, *d_log_probability; /* [targets] */
    double *score, *d_score;                    /* [choices] */
    double *weight;                             /* [n] of each question in this draw's loss */
} group;

static vmoer_status open_group(const vm_objective *o, const vm_examples *e, const int32_t *items, int n,
                               vm_arena *arena, group *g) {
    VM_TRY(build(e, items, 0, n, o->format, arena, &g->q));
    g->log_probability = vm_arena_alloc(arena, (size_t)g->q.batch.n_targets, sizeof *g->log_probability);
    g->d_log_probability = vm_arena_alloc(arena, (size_t)g->q.batch.n_targets, sizeof *g->d_log_probability);
    g->score = vm_arena_alloc(arena, (size_t)g->q.n_choices, sizeof *g->score);
    g->d_score = vm_arena_alloc(arena, (size_t)g->q.n_choices, sizeof *g->d_score);
    g->weight = vm_arena_alloc(arena, (size_t)n, sizeof *g->weight);
    return g->log_probability && g->d_log_probability && g->score && g->d_score && g->weight
               ? VMOER_OK
               : vm_error(VMOER_ERROR_MEMORY, "no memory for %d questions", n);
}

/* Draws come in antithetic pairs; a pair's number enters beside the step. */
static vmoer_status forward_draw(const vm_objective *o, group *g, int draw, uint64_t step) {
    vm_pass_options options = {.training = true,
                               .router = o->router,
                               .seed = o->seed,
                               .step = step | (uint64_t)(draw / 2) << 32,
                               .sign = draw % 2 ? -1.0f : 1.0f,
                               .memory = o->memory,
                               .states = o->states};
    VM_TRY(vm_pass_forward(o->pass, &g->q.batch, &options, g->log_probability, NULL, NULL));
    vm_questions_score(&g->q, g->log_probability, g->score);
    return VMOER_OK;
}

/* share[draws, n]: what part of a question's probability of the right answer, summed over the draws, is each draw's:
 * -ln mean_s p_s has the gradient sum_s share_s grad(-ln p_s). Adds that loss to out->ce. */
static vmoer_status mixture_shares(const vm_objective *o, const vm_examples *e, const int32_t *items, group *g,
                                   uint64_t step, double weight, double *share, vm_loss *out) {
    int n = g->q.n;
    for (int draw = 0; draw < o->draws; draw++) {
        VM_TRY(forward_draw(o, g, draw, step));
        for (int i = 0; i < n; i++) {
            double p[VM_MAX_CHOICES];
            choice_probabilities(&g->q, g->score, i, p);
            share[draw * n + i] = fmax(p[e->answers[items[i]]], 1e-300);
        }
    }
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int draw = 0; draw < o->draws; draw++) sum += share[draw * n + i];
        for (int draw = 0; draw < o->draws; draw++) share[draw * n + i] /= sum;
        out->ce += weight * -log(sum / o->draws);
    }
    return VMOER_OK;
}

/* One group of questions, every draw. weight: of a question in the loss. */
static vmoer_status step_group(const vm_objective *o, const vm_examples *e, const int32_t *items, int n, uint64_t step,
                               double weight, double kl_weight, vm_arena *arena, vm_loss *out) {
    group g;
    double *share = NULL;
    VM_TRY(open_group(o, e, items, n, arena, &g));
    if (o->mixture && o->draws > 1) { /* one draw is its own mixture */
        share = vm_arena_alloc(arena, (size_t)o->draws * (size_t)n, sizeof *share);
        if (!share) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d questions", n);
        VM_TRY(mixture_shares(o, e, items, &g, step, weight, share, out));
    }
    double ce = out->ce;
    for (int draw = 0; draw < o->draws; draw++) {
        for (int i = 0; i < n; i++) g.weight[i] = weight * (share ? share[draw * n + i] : 1.0 / o->draws);
        VM_TRY(forward_draw(o, &g, draw, step));
        cross_entropy(e, items, &g.q, g.score, g.weight, g.d_score, out);
        out->kl += vm_pass_kl(o->pass) * kl_weight;
        vm_questions_score_backward(&g.q, g.d_score, g.d_log_probability);
        VM_TRY(vm_pass_backward(o->pass, g.d_log_probability, (float)(o->beta * kl_weight)));
    }
    if (share) out->ce = ce; /* the mixture's is counted already */
    return VMOER_OK;
}

vmoer_status vm_objective_step(const vm_objective *o, const vm_examples *e, const int32_t *items, int n, uint64_t step,
                               vm_loss *out) {
    memset(out, 0, sizeof *out);
    vm_arena *arena = vm_arena_create();
    if (!arena) return vm_error(VMOER_ERROR_MEMORY, "no memory for a step");
    int layers = o->router ? vm_router_get_config(o->router)->n_layers : 0, all = 0;
    for (int i = 0; i < n; i++) all += vm_prompt_inputs(&e->prompts[items[i]]);
    /* Each pass's KL enters with 1 / (all tokens x layers x draws): the sum over passes is KLbar. */
    double kl_weight = layers ? 1.0 / ((double)all * layers * o->draws) : 0;
    vmoer_status status = VMOER_OK;
    for (int first = 0, count, tokens; first < n && status == VMOER_OK; first += count) {
        count = pass_size(e, items, first, n, &tokens);
        vm_arena_reset(arena);
        status = o->teacher ? distill_pass(o, e, items + first, count, step, 1.0 / all, arena, out)
                            : step_group(o, e, items + first, count, step, 1.0 / n, kl_weight, arena, out);
    }
    vm_arena_free(arena);
    out->loss = out->ce + o->beta * out->kl;
    out->kl_sum = out->kl * all * layers / n;
    if (status == VMOER_OK && !isfinite(out->loss))
        return vm_error(VMOER_ERROR_NUMERIC, "the loss is not a finite number");
    return status;
}

vmoer_status vm_objective_divergence(const vm_objective *o, const vm_examples *e, const vm_pass_options *options,
                                     double *out) {
    vm_arena *arena = vm_arena_create();
    if (!arena) return vm_error(VMOER_ERROR_MEMORY, "no memory to compare with the teacher");
    vmoer_status status = VMOER_OK;
    vm_pass_options compare = *options;
    compare.teacher = o->teacher;
    double sum = 0, all = 0;
    for (int first = 0, count, tokens; first < (int)e->n; first += count) {
        vm_questions q;
        count = pass_size(e, NULL, first, (int)e->n, &tokens);
        vm_arena_reset(arena);
        VM_GOTO(build(e, NULL, first, count, o->format, arena, &q));
        VM_GOTO(ask_teacher(o, arena, &q.batch));
        VM_GOTO(vm_pass_forward(o->pass, &q.batch, &compare, NULL, NULL, NULL));
        sum += vm_pass_divergence(o->pass);
        all += tokens;
    }
    *out = sum / all;
done:
    vm_arena_free(arena);
    return status;
}

vmoer_status vm_objective_predict(const vm_objective *o, const vm_examples *e, const vm_pass_options *options,
                                  double *p) {
    vm_arena *arena = vm_arena_create();
    if (!arena) return vm_error(VMOER_ERROR_MEMORY, "no memory to predict");
    vmoer_status status = VMOER_OK;
    for (int first = 0, count, tokens; first < (int)e->n; first += count) {
        vm_questions q;
        vm_choices choices;
        count = pass_size(e, NULL, first, (int)e->n, &tokens);
        vm_arena_reset(arena);
        VM_GOTO(build(e, NULL, first, count, o->format, arena, &q));
        VM_GOTO(vm_questions_run(o->pass, arena, &q, options, 1.0, &choices));
        for (int i = 0; i < count; i++) {
            int c = q.first_choice[i];
            memcpy(p + (size_t)(first + i) * VM_MAX_CHOICES, choices.probability + c,
                   (size_t)(q.first_choice[i + 1] - c) * sizeof *p);
        }
    }
done:
    vm_arena_free(arena);
    return status;
}
