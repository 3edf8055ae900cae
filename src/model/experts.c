/* experts.c: see experts.h. Forward and backward side by side. */
#include "model/experts.h"

#include "base/status.h"

#include <string.h>

enum {
    PANEL = 16,
    FETCH_BYTES = 256 << 10, /* two such matrices leave room for the rows in a second-level cache of 1 MB */
    BLOCK_ROWS = 128,        /* most rows of a task of the first stage: what lies between its products stays in cache */
    STRIP = 32,              /* rows and columns that the fastest kernels take at once */
    OWN_TOKENS = 256,        /* fewer a thread leave too few rows an expert */
    PARTS_PER_THREAD = 2     /* of the second stage */
};

static vmoer_status no_memory(void) { return vm_error(VMOER_ERROR_MEMORY, "no memory for the experts of a layer"); }

/* Rows [first, first + rows) of all T K rows, every one of `expert`: part `part` of its `parts` blocks, after which
 * next_expert's follow. */
typedef struct block {
    int expert, first, rows;
    int part, parts, next_expert;
} block;

/* One thread's own; BLOCK_ROWS rows each. */
typedef struct workspace {
    vm_rows input;         /* of D + R: the block's rows of the job's input, and the LoRA's middles */
    float *wide;           /* of 2 w: gate and up, or their gradients */
    float *active, *inner; /* of w */
} workspace;

typedef struct experts_job {
    const vm_ffn *f;
    const vm_ffn_acts *a;
    bool backward;
    const float *dy; /* [T, D]; backward */
    int n_tokens;
    const block *blocks;
    workspace *work; /* [threads] */
    vm_rows input;   /* [T, D]: u; backward: dy */
    vm_rows inner;  /* [T K, w + R]: SwiGLU; backward [T K, 2 w + R]: the gradient of gate and up; and LoRA's middles */
    float *gate;    /* [T K] by row */
    float *dgate;   /* [T K] by row; backward */
    float *dhidden; /* [T K, 2 w]; NULL: nothing in the first matrices is trained */
    float *scaled;  /* [T K, w] g SwiGLU; NULL: nothing in the second matrices is trained */
    float *t_scaled;               /* [T K, R] g t_out */
    float *dt_in, *dt_out;         /* [T K, R] of either's LoRA; backward */
    float *out;                    /* [T, D]: y; backward: du */
    int token_parts, column_parts; /* what is cut into tasks of the second stage */
} experts_job;

/* ---- which rows are whose ---- */

static vmoer_status group(const vm_ffn *f, vm_arena *arena, int n_tokens, vm_ffn_acts *a) {
    size_t rows = (size_t)n_tokens * (size_t)f->top_k;
    a->begin = vm_arena_alloc(arena, (size_t)f->n_experts + 1, sizeof *a->begin);
    a->row_token = vm_arena_alloc(arena, rows + 1, sizeof *a->row_token);
    a->row_of = vm_arena_alloc(arena, rows + 1, sizeof *a->row_of);
    if (!a->begin || !a->row_token || !a->row_of) return no_memory();
    memset(a->begin, 0, ((size_t)f->n_experts + 1) * sizeof *a->begin);
    for (size_t i = 0; i < rows; i++) a->begin[a->chosen[i] + 1]++;
    for (int e = 0; e < f->n_experts; e++) a->begin[e + 1] += a->begin[e];
    for (size_t i = 0; i < rows; i++) {
        int32_t row = a->begin[a->chosen[i]]++;
        a->row_token[row] = (int32_t)(i / (size_t)f->top_k);
        a->row_of[i] = row;
    }
    memmove(a->begin + 1, a->begin, (size_t)f->n_experts * sizeof *a->begin);
    a->begin[0] = 0;
    return VMOER_OK;
}

/* The first row of expert e whose token is at least `token`. */
static int row_from(const vm_ffn_acts *a, int e, int token) {
    int low = a->begin[e], high = a->begin[e + 1];
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (a->row_token[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Is it cheaper that every thread reads all weights, for its own tokens, than that the tokens' rows travel between the
 * threads? */
static bool by_tokens(const vm_ffn *f, int n_tokens) { return f->n_experts * f->width <= 4 * n_tokens; }

static int part_begin(int n, int part, int parts) { return (int)((int64_t)n * part / parts); }

/* Every expert's rows of each range of tokens in blocks of equal height, of whole strips but for the last. Blocks of a
 * range follow each other: they are one thread's, whose cache holds the range's tokens. */
static block *make_blocks(const vm_ffn *f, vm_arena *scratch, const vm_ffn_acts *a, int n_tokens, int threads,
                          int *count) {
    int ranges = by_tokens(f, n_tokens) && n_tokens / threads >= OWN_TOKENS ? threads : 1;
    int most = a->begin[f->n_experts] / STRIP + ranges * f->n_experts;
    block *blocks = vm_arena_alloc(scratch, (size_t)most, sizeof *blocks);
    *count = 0;
    for (int r = 0; blocks && r < ranges; r++)
        for (int e = 0; e < f->n_experts; e++) {
            int first = row_from(a, e, part_begin(n_tokens, r, ranges)),
                rows = row_from(a, e, part_begin(n_tokens, r + 1, ranges)) - first;
            int parts = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
            int height = parts ? ((rows + parts - 1) / parts + STRIP - 1) / STRIP * STRIP : 0;
            parts = height ? (rows + height - 1) / height : 0;
            for (int part = 0; part < parts; part++) {
                int done = part * height, left = rows - done;
                blocks[(*count)++] = (block){e, first + done, left < height ? left : height, part, parts, e};
            }
        }
    /* Of few tokens most experts have no rows: what is fetched ahead is of one that has. */
    for (int i = *count - 2; blocks && i >= 0; i--)
        blocks[i].next_expert = blocks[i + 1].part ? blocks[i + 1].next_expert : blocks[i + 1].expert;
    return blocks;
}

/* ---- what both ways need ---- */

static bool rows_alloc(vm_arena *arena, vm_compute type, size_t m, int k, vm_rows *out) {
    void *memory = vm_arena_alloc(arena, 1, vm_rows_bytes(type, (int)m, k));
    *out = vm_rows_at(type, k, memory);
    return memory != NULL;
}

static void round_rows(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const experts_job *j = context;
    size_t k = (size_t)j->input.k;
    const float *x = j->backward ? j->dy : j->a->u;
    vm_rows_set(&j->input, (int)begin, (int)(end - begin), j->input.k, x + begin * k, k);
}

static vmoer_status start(experts_job *j, vm_pool *pool, vm_arena *scratch, int *n_blocks) {
    const vm_ffn *f = j->f;
    int n_tokens = j->n_tokens;
    const vm_linear *first = j->backward ? &f->expert_out[0] : &f->expert_in[0],
                    *second = j->backward ? &f->expert_in[0] : &f->expert_out[0];
    vm_compute type = first->compute;
    size_t rows = (size_t)j->a->begin[f->n_experts], w = (size_t)f->width;
    int threads = vm_pool_threads(pool), rank = vm_linear_rank(first), rank2 = vm_linear_rank(second);
    bool ok = (j->blocks = make_blocks(f, scratch, j->a, n_tokens, threads, n_blocks)) != NULL;
    j->work = vm_arena_alloc(scratch, (size_t)threads, sizeof *j->work);
    j->gate = vm_arena_floats(scratch, rows, 1, &ok);
    ok = ok && j->work && rows_alloc(scratch, type, (size_t)n_tokens, f->dim, &j->input) &&
         rows_alloc(scratch, type, rows, (j->backward ? 2 * f->width : f->width) + rank2, &j->inner);
    for (int t = 0; ok && t < threads; t++) {
        workspace *s = &j->work[t];
        ok = rows_alloc(scratch, type, BLOCK_ROWS, f->dim + rank, &s->input);
        s->wide = vm_arena_floats(scratch, BLOCK_ROWS, 2 * w, &ok);
        s->active = vm_arena_floats(scratch, BLOCK_ROWS, w, &ok);
        s->inner = vm_arena_floats(scratch, BLOCK_ROWS, w, &ok);
    }
    if (!ok) return no_memory();
    for (size_t i = 0; i < rows; i++) j->gate[j->a->row_of[i]] = j->a->gates[i];
    vm_pool_run_range(pool, (size_t)n_tokens, STRIP, round_rows, j);
    return VMOER_OK;
}

/* With LoRA: t[m, R] = scale * rows B, which then are the rows' last columns. */
static void append_middles(const vm_linear *l, const vm_panel *b, const vm_rows *rows, int first, int m, float *t) {
    if (!l->n_lora) return;
    vm_multiply(&(vm_product){.a = rows, .first = first, .m = m, .b = b, .columns = b->n, .c = t, .ldc = (size_t)b->n});
    vm_linear_scale(l, m, t);
    vm_rows_set_tail(rows, first, m, b->k, t, (size_t)b->n);
}

/* While an expert's panel is multiplied, the next one's comes into the second-level cache, if it has room for both:
 * some columns of it, or one of `parts` parts. Of larger ones only what is multiplied first. */
static void fetch_next(vm_product *p, const vm_panel *next, int part, int parts) {
    size_t panels = (size_t)(p->columns + PANEL - 1) / PANEL, bytes = vm_panel_bytes(next->type, next->k, PANEL);
    const unsigned char *data = (const unsigned char *)next->data + (size_t)(p->column / PANEL) * bytes;
    p->fetched = panels * bytes <= FETCH_BYTES;
    size_t first = p->fetched ? panels * (size_t)part / (size_t)parts : 0,
           end = p->fetched   ? panels * (size_t)(part + 1) / (size_t)parts
                 : panels < 2 ? panels
                              : 2;
    p->next = data + first * bytes;
    p->next_bytes = (end - first) * bytes;
}

/* C[rows, n] of a block's rows of the input and its expert's matrix in `experts`, forward or backward. */
static void multiply_input(const workspace *s, const block *b, const vm_linear *experts, bool backward, float *c) {
    const vm_linear *l = &experts[b->expert], *next = &experts[b->next_expert];
    const vm_panel *panel = backward ? &l->backward : &l->forward;
    vm_product p = {.a = &s->input, .m = b->rows, .b = panel, .columns = panel->n, .c = c, .ldc = (size_t)panel->n};
    fetch_next(&p, backward ? &next->backward : &next->forward, b->part, b->parts);
    vm_multiply(&p);
    for (size_t i = 0; !backward && l->bias && i < (size_t)b->rows; i++)
        vm_kernels_get()->axpy(1.0f, l->bias->value, c + i * (size_t)l->out, l->out);
}

/* y[.., columns] += g bias for rows [first, first + rows) of an expert. */
static void add_bias(const experts_job *j, const vm_linear *l, int first, int rows, int column, int columns) {
    for (int i = first; l->bias && i < first + rows; i++)
        vm_kernels_get()->axpy(j->gate[i], l->bias->value + column,
                               j->out + (size_t)j->a->row_token[i] * (size_t)l->out + column, columns);
}

/* The second stage: some tokens and columns of the output, all experts' products added in turn. */
static void add_part(void *context, int task, int worker) {
    (void)worker;
    const experts_job *j = context;
    const vm_ffn *f = j->f;
    int token_part = task / j->column_parts, column_part = task % j->column_parts,
        strips = (f->dim + STRIP - 1) / STRIP;
    int token = part_begin(j->n_tokens, token_part, j->token_parts),
        last_token = part_begin(j->n_tokens, token_part + 1, j->token_parts);
    int column = part_begin(strips, column_part, j->column_parts) * STRIP,
        end = part_begin(strips, column_part + 1, j->column_parts) * STRIP,
        columns = (end < f->dim ? end : f->dim) - column;
    for (int t = token; !f->shared_width && t < last_token; t++)
        memset(j->out + (size_t)t * (size_t)f->dim + column, 0, (size_t)columns * sizeof *j->out);
    vm_product waiting = {.m = 0}; /* for the one after it, which it fetches */
    for (int e = 0; e < f->n_experts; e++) {
        const vm_linear *l = j->backward ? &f->expert_in[e] : &f->expert_out[e];
        int first = row_from(j->a, e, token), rows = row_from(j->a, e, last_token) - first;
        if (rows == 0) continue;
        const vm_panel *b = j->backward ? &l->backward : &l->forward;
        if (waiting.m) {
            fetch_next(&waiting, b, 0, 1);
            vm_multiply(&waiting);
        }
        if (!j->backward) add_bias(j, l, first, rows, column, columns);
        waiting = (vm_product){.a = &j->inner,
                               .first = first,
                               .m = rows,
                               .b = b,
                               .column = column,
                               .columns = columns,
                               .c = j->out + column,
                               .ldc = (size_t)f->dim,
                               .c_index = j->a->row_token + first,
                               .scale = j->backward ? NULL : j->gate + first,
                               .accumulate = true};
    }
    if (!waiting.m) return;
    fetch_next(&waiting, waiting.b, 0, 1);
    vm_multiply(&waiting);
}

/* The second stage is cut by tokens too, whose rows of the output are in the thread's cache then, or by columns. */
static void run(experts_job *j, vm_pool *pool, int n_blocks, vm_task_fn block_task) {
    const vm_ffn *f = j->f;
    vm_pool_run(pool, n_blocks, block_task, j);
    if (!j->out) return;
    int strips = (f->dim + STRIP - 1) / STRIP, parts = vm_pool_threads(pool) * PARTS_PER_THREAD;
    bool tokens = by_tokens(f, j->n_tokens);
    j->token_parts = !tokens ? 1 : parts < j->n_tokens ? parts : j->n_tokens;
    j->column_parts = tokens ? 1 : parts < strips ? parts : strips;
    vm_pool_run(pool, j->token_parts * j->column_parts, add_part, j);
}

/* ---- forward ---- */

static void forward_block(void *context, int task, int worker) {
    const experts_job *j = context;
    const vm_ffn_acts *a = j->a;
    const block *b = &j->blocks[task];
    const vm_linear *in = &j->f->expert_in[b->expert], *out = &j->f->expert_out[b->expert];
    workspace *s = &j->work[worker];
    int m = b->rows, width = j->f->width;
    size_t first = (size_t)b->first, w = (size_t)width;
    float *hidden = a->hidden ? a->hidden + first * 2 * w : s->wide;
    vm_rows_gather(&s->input, 0, m, &j->input, a->row_token + first);
    append_middles(in, &in->lora_a, &s->input, 0, m, a->t_in + first * (size_t)vm_linear_rank(in));
    multiply_input(s, b, j->f->expert_in, false, hidden);
    for (size_t i = 0; i < (size_t)m; i++)
        vm_activate(j->f->activation, hidden + i * 2 * w, hidden + i * 2 * w + w, s->active + i * w, width);
    vm_rows_set(&j->inner, b->first, m, width, s->active, w);
    append_middles(out, &out->lora_a, &j->inner, b->first, m, a->t_out + first * (size_t)vm_linear_rank(out));
}

vmoer_status vm_experts_forward(const vm_ffn *f, vm_pool *pool, vm_arena *keep, vm_arena *scratch, int n_tokens,
                                vm_ffn_acts *a, float *y) {
    size_t rows = (size_t)n_tokens * (size_t)f->top_k;
    vm_arena *arena = keep ? keep : scratch;
    bool ok = true;
    VM_TRY(group(f, arena, n_tokens, a));
    a->hidden = keep ? vm_arena_floats(keep, rows, 2 * (size_t)f->width, &ok) : NULL;
    a->t_in = vm_arena_floats(arena, rows, (size_t)vm_linear_rank(&f->expert_in[0]), &ok);
    a->t_out = vm_arena_floats(arena, rows, (size_t)vm_linear_rank(&f->expert_out[0]), &ok);
    if (!ok) return no_memory();
    experts_job j = {.f = f, .a = a, .n_tokens = n_tokens, .out = y};
    int n_blocks;
    VM_TRY(start(&j, pool, scratch, &n_blocks));
    run(&j, pool, n_blocks, forward_block);
    return VMOER_OK;
}

/* ---- backward ---- */

/* dactive is taken for g = 1, since <dactive, active> + <dy, bias> is the gate's gradient, and multiplied by g then. */
static void backward_block(void *context, int task, int worker) {
    const experts_job *j = context;
    const vm_ffn_acts *a = j->a;
    const vm_kernels *kernels = vm_kernels_get();
    const block *b = &j->blocks[task];
    const vm_linear *in = &j->f->expert_in[b->expert], *out = &j->f->expert_out[b->expert];
    workspace *s = &j->work[worker];
    int m = b->rows, width = j->f->width;
    size_t first = (size_t)b->first, w = (size_t)width;
    vm_rows_gather(&s->input, 0, m, &j->input, a->row_token + first);
    append_middles(out, &out->lora_b, &s->input, 0, m, j->dt_out + first * (size_t)vm_linear_rank(out));
    multiply_input(s, b, j->f->expert_out, true, s->inner);
    float *dhidden = j->dhidden ? j->dhidden + first * 2 * w : s->wide;
    for (size_t i = 0; i < (size_t)m; i++) {
        const float *gate = a->hidden + (first + i) * 2 * w;
        float *active = s->active + i * w, *dactive = s->inner + i * w, *dgate = dhidden + i * 2 * w;
        float g = j->gate[first + i];
        vm_activate(j->f->activation, gate, gate + w, active, width);
        j->dgate[first + i] = kernels->dot(dactive, active, width);
        if (out->bias)
            j->dgate[first + i] +=
                kernels->dot(j->dy + (size_t)a->row_token[first + i] * (size_t)out->out, out->bias->value, out->out);
        for (size_t x = 0; x < w; x++) dactive[x] *= g;
        vm_activate_backward(j->f->activation, gate, gate + w, dactive, dgate, dgate + w, width);
        if (j->scaled)
            for (size_t x = 0; x < w; x++) j->scaled[(first + i) * w + x] = g * active[x];
    }
    size_t rank = (size_t)vm_linear_rank(out);
    for (size_t i = 0; j->scaled && i < (size_t)m; i++)
        for (size_t r = 0, at = (first + i) * rank; r < rank; r++, at++)
            j->t_scaled[at] = j->gate[first + i] * a->t_out[at];
    if (!j->out && !in->n_lora) return;
    vm_rows_set(&j->inner, b->first, m, 2 * width, dhidden, 2 * w);
    append_middles(in, &in->lora_b, &j->inner, b->first, m, j->dt_in + first * (size_t)vm_linear_rank(in));
}

/* The gradients of the experts' own parameters. The second matrices' take g from their other side: g SwiGLU for SwiGLU
 * and g t for t. */
static vmoer_status parameters(const experts_job *j, vm_pool *pool, vm_arena *scratch, const float *dy) {
    const vm_ffn *f = j->f;
    const vm_ffn_acts *a = j->a;
    size_t w = (size_t)f->width, D = (size_t)f->dim, rank_in = (size_t)vm_linear_rank(&f->expert_in[0]),
           rank_out = (size_t)vm_linear_rank(&f->expert_out[0]);
    vm_linear_call *calls = vm_arena_alloc(scratch, 2 * (size_t)f->n_experts, sizeof *calls);
    if (!calls) return no_memory();
    int count = 0;
    for (int e = 0; e < f->n_experts; e++) {
        size_t first = (size_t)a->begin[e];
        if (j->scaled)
            calls[count++] = (vm_linear_call){.l = &f->expert_out[e],
                                              .m = a->begin[e + 1] - a->begin[e],
                                              .x = j->scaled + first * w,
                                              .ldx = w,
                                              .dy = dy,
                                              .dy_index = a->row_token + first,
                                              .bias_scale = j->gate + first,
                                              .ldy = D,
                                              .t = j->t_scaled + first * rank_out,
                                              .dt = rank_out ? j->dt_out + first * rank_out : NULL};
        if (j->dhidden)
            calls[count++] = (vm_linear_call){.l = &f->expert_in[e],
                                              .m = a->begin[e + 1] - a->begin[e],
                                              .x = a->u,
                                              .ldx = D,
                                              .index = a->row_token + first,
                                              .dy = j->dhidden + first * 2 * w,
                                              .ldy = 2 * w,
                                              .t = a->t_in + first * rank_in,
                                              .dt = rank_in ? j->dt_in + first * rank_in : NULL};
    }
    return vm_linear_backward(pool, scratch, calls, count);
}

vmoer_status vm_experts_backward(const vm_ffn *f, vm_pool *pool, vm_arena *scratch, int n_tokens, const vm_ffn_acts *a,
                                 const float *dy, float *dgate, float *du) {
    size_t rows = (size_t)a->begin[f->n_experts], w = (size_t)f->width;
    bool ok = true;
    experts_job j = {.f = f, .a = a, .backward = true, .n_tokens = n_tokens, .dy = dy, .out = du};
    j.dgate = vm_arena_floats(scratch, rows, 1, &ok);
    j.dt_in = vm_arena_floats(scratch, rows, (size_t)vm_linear_rank(&f->expert_in[0]), &ok);
    j.dt_out = vm_arena_floats(scratch, rows, (size_t)vm_linear_rank(&f->expert_out[0]), &ok);
    if (vm_linear_trainable(&f->expert_in[0])) j.dhidden = vm_arena_floats(scratch, rows, 2 * w, &ok);
    if (vm_linear_trainable(&f->expert_out[0])) {
        j.scaled = vm_arena_floats(scratch, rows, w, &ok);
        j.t_scaled = vm_arena_floats(scratch, rows, (size_t)vm_linear_rank(&f->expert_out[0]), &ok);
    }
    if (!ok) return no_memory();
    int n_blocks;
    VM_TRY(start(&j, pool, scratch, &n_blocks));
    run(&j, pool, n_blocks, backward_block);
    for (size_t i = 0; i < rows; i++) dgate[i] = j.dgate[a->row_of[i]];
    return j.dhidden || j.scaled ? parameters(&j, pool, scratch, dy) : VMOER_OK;
}
