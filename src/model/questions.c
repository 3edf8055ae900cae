/* questions.c: see questions.h. */
#include "model/questions.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

static int choice_tokens(const vm_prompt *p, int c) { return p->start[c + 1] - p->start[c]; }

int vm_prompt_inputs(const vm_prompt *p) { return p->start[p->n_choices] - p->n_choices; }

static vmoer_status check(const vm_prompt *p, uint32_t item) {
    if (p->n_context < 1 || p->start[p->n_choices] > UINT16_MAX)
        return vm_error(VMOER_ERROR_LIMIT, "question %u: %d tokens, must be 1 to %d", item, p->start[p->n_choices],
                        UINT16_MAX);
    for (int c = 0; c < p->n_choices; c++)
        if (choice_tokens(p, c) < 1) return vm_error(VMOER_ERROR_DATA, "question %u: choice %d has no tokens", item, c);
    return VMOER_OK;
}

typedef struct builder {
    int32_t *ids, *positions, *rows, *target_row, *target_id, *first_choice, *root, *entropy_row, *target_choice;
    vm_token_key *keys;
    vm_segment *segments;
    float *scale;
    vm_questions *q;
} builder;

static bool allocate(vm_arena *arena, builder *b, int n, size_t tokens, size_t choices, size_t targets) {
#define TAKE(field, count) ((b->field = vm_arena_alloc(arena, (count) + 1, sizeof *b->field)) != NULL)
    size_t segments = (size_t)n + choices;
    return TAKE(ids, tokens) && TAKE(positions, tokens) && TAKE(keys, tokens) && TAKE(segments, segments) &&
           TAKE(rows, (size_t)n + targets) && TAKE(target_row, targets) && TAKE(target_id, targets) &&
           TAKE(target_choice, targets) && TAKE(first_choice, (size_t)n + 1) && TAKE(root, (size_t)n) &&
           TAKE(entropy_row, (size_t)n) && TAKE(scale, choices);
#undef TAKE
}

static void add_segment(builder *b, const int32_t *ids, int length, int position, int parent, uint32_t item, int part) {
    vm_batch *batch = &b->q->batch;
    b->segments[batch->n_segments++] = (vm_segment){batch->n_tokens, length, parent};
    for (int i = 0; i < length; i++, batch->n_tokens++) {
        b->ids[batch->n_tokens] = ids[i];
        b->positions[batch->n_tokens] = position + i;
        b->keys[batch->n_tokens] = (vm_token_key){item, (uint16_t)part, (uint16_t)(position + i)};
    }
}

static void add_target(builder *b, int row, int32_t id, int choice) {
    vm_batch *batch = &b->q->batch;
    b->target_row[batch->n_targets] = row;
    b->target_id[batch->n_targets] = id;
    b->target_choice[batch->n_targets++] = choice;
}

static void add_question(builder *b, const vm_question *question, vm_format format) {
    const vm_prompt *p = question->prompt;
    vm_batch *batch = &b->q->batch;
    int root = batch->n_segments, first = b->q->n_choices;
    b->root[b->q->n] = root;
    b->first_choice[b->q->n] = first;
    add_segment(b, p->ids, p->n_context, 0, -1, question->item, 0);
    b->entropy_row[batch->n_entropies++] = batch->n_rows;
    b->rows[batch->n_rows] = batch->n_tokens - 1;
    for (int c = 0; c < p->n_choices; c++) {
        add_target(b, batch->n_rows, p->ids[p->start[c]], first + c);
        b->scale[first + c] = format == VM_FORMAT_CLOZE ? 1.0f / (float)choice_tokens(p, c) : 1.0f;
    }
    batch->n_rows++;
    for (int c = 0; c < p->n_choices; c++) {
        int inputs = choice_tokens(p, c) - 1;
        if (inputs == 0) continue;
        int token = batch->n_tokens;
        add_segment(b, p->ids + p->start[c], inputs, p->n_context, root, question->item, 1 + c);
        for (int i = 0; i < inputs; i++) {
            b->rows[batch->n_rows] = token + i;
            add_target(b, batch->n_rows++, p->ids[p->start[c] + i + 1], first + c);
        }
    }
    b->q->n_choices += p->n_choices;
    b->q->n++;
}

vmoer_status vm_questions_build(vm_arena *arena, const vm_question *questions, int n, vm_format format,
                                vm_questions *out) {
    size_t tokens = 0, choices = 0, targets = 0;
    for (int i = 0; i < n; i++) {
        const vm_prompt *p = questions[i].prompt;
        VM_TRY(check(p, questions[i].item));
        tokens += (size_t)vm_prompt_inputs(p);
        choices += (size_t)p->n_choices;
        targets += (size_t)(p->start[p->n_choices] - p->n_context);
    }
    memset(out, 0, sizeof *out);
    builder b = {.q = out};
    if (!allocate(arena, &b, n, tokens, choices, targets))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a batch of %d questions", n);
    for (int i = 0; i < n; i++) add_question(&b, &questions[i], format);
    b.first_choice[n] = out->n_choices;
    out->batch.ids = b.ids, out->batch.positions = b.positions, out->batch.keys = b.keys,
    out->batch.segments = b.segments;
    out->batch.rows = b.rows, out->batch.target_row = b.target_row, out->batch.target_id = b.target_id;
    out->batch.entropy_row = b.entropy_row;
    out->first_choice = b.first_choice, out->root = b.root;
    out->target_choice = b.target_choice, out->scale = b.scale;
    return VMOER_OK;
}

vmoer_status vm_sequence_build(vm_arena *arena, const int32_t *ids, int length, int past, vm_batch *out) {
    size_t n = (size_t)length;
    int32_t *positions = vm_arena_alloc(arena, n, sizeof *positions), *row = vm_arena_alloc(arena, 1, sizeof *row);
    vm_token_key *keys = vm_arena_alloc(arena, n, sizeof *keys);
    vm_segment *segment = vm_arena_alloc(arena, 1, sizeof *segment);
    if (!positions || !row || !keys || !segment) return vm_error(VMOER_ERROR_MEMORY, "no memory for %d tokens", length);
    for (int i = 0; i < length; i++) {
        uint32_t position = (uint32_t)(past + i);
        positions[i] = past + i;
        keys[i] = (vm_token_key){position >> 16, 0, (uint16_t)position};
    }
    *segment = (vm_segment){0, length, -1};
    *row = length - 1;
    *out = (vm_batch){.n_tokens = length,
                      .ids = ids,
                      .positions = positions,
                      .keys = keys,
                      .n_segments = 1,
                      .segments = segment,
                      .n_rows = 1,
                      .rows = row};
    return VMOER_OK;
}

void vm_questions_score(const vm_questions *q, const float *log_probability, double *score) {
    for (int c = 0; c < q->n_choices; c++) score[c] = 0;
    for (int i = 0; i < q->batch.n_targets; i++) score[q->target_choice[i]] += (double)log_probability[i];
    for (int c = 0; c < q->n_choices; c++) score[c] *= (double)q->scale[c];
}

void vm_questions_score_backward(const vm_questions *q, const double *d_score, float *d_log_probability) {
    for (int i = 0; i < q->batch.n_targets; i++) {
        int c = q->target_choice[i];
        d_log_probability[i] = (float)d_score[c] * q->scale[c];
    }
}

void vm_choice_softmax(const double *score, int n, double temperature, double *p) {
    double top = score[0], sum = 0;
    for (int c = 1; c < n; c++) top = score[c] > top ? score[c] : top;
    for (int c = 0; c < n; c++) sum += p[c] = exp((score[c] - top) / temperature);
    for (int c = 0; c < n; c++) p[c] /= sum;
}

double vm_choice_entropy(const double *p, int n) {
    double entropy = 0;
    for (int c = 0; c < n; c++)
        if (p[c] > 0) entropy -= p[c] * log(p[c]);
    return entropy;
}

void vm_choices_add(const vm_questions *q, const double *score, double temperature, double weight, vm_choices *out) {
    for (int i = 0; i < q->n; i++) {
        int first = q->first_choice[i], k = q->first_choice[i + 1] - first;
        double p[VM_MAX_CHOICES];
        vm_choice_softmax(score + first, k, temperature, p);
        for (int c = 0; c < k; c++) {
            out->score[first + c] += weight * score[first + c];
            out->probability[first + c] += weight * p[c];
        }
        out->entropy[i] += weight * vm_choice_entropy(p, k);
    }
}

double vm_choices_information(const vm_questions *q, const vm_choices *choices, int question) {
    int first = q->first_choice[question], k = q->first_choice[question + 1] - first;
    return fmax(0, vm_choice_entropy(choices->probability + first, k) - choices->entropy[question]);
}

vmoer_status vm_questions_run(vm_pass *p, vm_arena *arena, const vm_questions *q, const vm_pass_options *o,
                              double temperature, vm_choices *out) {
    size_t C = (size_t)q->n_choices, n = (size_t)q->n;
    int passes = vm_passes(o);
    float *log_probability = vm_arena_alloc(arena, (size_t)q->batch.n_targets, sizeof *log_probability);
    float *entropy = vm_arena_alloc(arena, n, sizeof *entropy), *vocabulary = o->facts ? entropy : NULL;
    double *score = vm_arena_alloc(arena, C, sizeof *score), *means = vm_arena_alloc(arena, 2 * (C + n), sizeof *means);
    if (!log_probability || !entropy || !score || !means)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %d answers", q->n);
    memset(means, 0, 2 * (C + n) * sizeof *means);
    *out = (vm_choices){means, means + C, means + 2 * C, means + 2 * C + n};
    for (int s = 0; s < passes; s++) {
        VM_TRY(s ? vm_pass_again(p, o->step + (uint64_t)s, log_probability, vocabulary)
                 : vm_pass_forward(p, &q->batch, o, log_probability, vocabulary, NULL));
        vm_questions_score(q, log_probability, score);
        for (int c = 0; c < q->n_choices; c++)
            if (!isfinite(score[c])) return vm_error(VMOER_ERROR_NUMERIC, "a choice's score is not a finite number");
        vm_choices_add(q, score, temperature, 1.0 / passes, out);
        for (int i = 0; vocabulary && i < q->n; i++) out->vocabulary_entropy[i] += (double)vocabulary[i] / passes;
    }
    return VMOER_OK;
}
