/* test_attention.c: attention and its gradients on every table this CPU can run, held to sums in double taken key by
 * key, with sinks to transformers'; and the same bits for any number of threads, any company in the batch and any
 * brothers.
 */
#include "model_fixture.h"

enum { MAX_SEGMENTS = 16, MAX_TABLES = 8 };

typedef struct layout {
    int n_kv_heads, group, head_dim;
    float scale;
    int window;
    bool sinks;
    int lengths[MAX_SEGMENTS]; /* > 0: of a root, < 0: of a child of the last one, 0: the end */
} layout;

/* A block holds 48 rows: 48, 24, 16 or 12 tokens by the size of the group. */
static const layout layouts[] = {
    {1, 1, 16, 0.25f, 0, false, {1}},
    {1, 1, 16, 0.25f, 0, false, {48}},
    {1, 2, 32, 0.3f, 0, false, {49}},
    {2, 1, 64, 0.125f, 0, false, {200}},
    {3, 3, 64, 0.125f, 0, false, {63}},
    {3, 3, 64, 0.125f, 0, false, {17, -4, -4, -4, -4}},
    {3, 4, 80, 0.1f, 0, false, {65, -1, -30, -2}},
    {1, 3, 16, 0.25f, 0, false, {1, -1}},
    {1, 4, 8, 0.3f, 0, false, {7, -64, -13, -1}},
    {2, 2, 16, 0.2f, 0, false, {64, -200, 5, 63, -1, -2, -65, 1, 130, -3}},
    {3, 1, 32, 0.2f, 0, false, {33, 2, -1, -1, 16, -16, -17, 100, -49, -48, -47}},
    {1, 60, 4, 0.5f, 0, false, {3, -2}}, /* a token of more rows than a block */
    {2, 2, 16, 0.2f, 0, true, {64, -200, 5, 63, -1, -2}},
    {1, 4, 8, 0.3f, 1, false, {7, -64, -13}}, /* itself alone */
    {3, 1, 32, 0.2f, 20, false, {33, 2, -1, -1, 16, -16, -17, 100, -49, -48}},
    {2, 4, 64, 0.125f, 16, true, {17, -4, -4, 130, -30, 16, 15}},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

typedef struct batch {
    vm_attention a;
    vm_segment segments[MAX_SEGMENTS];
    size_t ld, ldo, qkv_size, out_size;
    float *qkv, *dout, *sinks;  /* inputs */
    float *out, *dqkv, *dsinks; /* results */
} batch;

static float *take(size_t n) {
    float *x = malloc(n * sizeof *x); /* exactly n, so that a sanitizer sees a step too far */
    assert_non_null(x);
    return x;
}

static batch make_batch(const layout *l) {
    batch b = {.a = {.n_heads = l->n_kv_heads * l->group,
                     .n_kv_heads = l->n_kv_heads,
                     .head_dim = l->head_dim,
                     .scale = l->scale,
                     .window = l->window}};
    int tokens = 0, root = 0;
    for (int s = 0; s < MAX_SEGMENTS && l->lengths[s]; s++) {
        bool child = l->lengths[s] < 0;
        if (!child) root = s;
        b.segments[s] = (vm_segment){tokens, abs(l->lengths[s]), child ? root : -1};
        tokens += abs(l->lengths[s]);
        b.a.n_segments++;
    }
    b.ldo = (size_t)(b.a.n_heads * l->head_dim);
    b.ld = b.ldo + (size_t)(2 * l->n_kv_heads * l->head_dim);
    b.qkv_size = (size_t)tokens * b.ld, b.out_size = (size_t)tokens * b.ldo;
    b.qkv = take(b.qkv_size), b.dqkv = take(b.qkv_size);
    b.dout = take(b.out_size), b.out = take(b.out_size);
    b.sinks = take((size_t)b.a.n_heads), b.dsinks = take((size_t)b.a.n_heads);
    for (int h = 0; h < b.a.n_heads; h++) b.sinks[h] = 1.5f * (float)(h % 3) - 1;
    b.a.sinks = l->sinks ? b.sinks : NULL;
    return b;
}

static batch random_batch(const layout *l, uint32_t stream) {
    batch b = make_batch(l);
    vm_rng rng = vm_rng_start(11, VM_RNG_INIT, stream);
    for (size_t i = 0; i < b.qkv_size; i++) b.qkv[i] = vm_rng_normal(&rng);
    for (size_t i = 0; i < b.out_size; i++) b.dout[i] = vm_rng_normal(&rng);
    return b;
}

static void free_batch(batch *b) {
    free(b->qkv), free(b->dqkv), free(b->dout), free(b->out), free(b->sinks), free(b->dsinks);
}

/* Results and scratch start as NaN: what is not written, or read unwritten, is seen. */
static void run(batch *b, int threads) {
    vm_arena *scratch = vm_arena_create();
    vm_pool *pool = NULL;
    assert_non_null(scratch);
    void *dirt = vm_arena_alloc(scratch, 4 << 20, 1);
    assert_non_null(dirt);
    memset(dirt, 0xff, 4 << 20);
    memset(b->out, 0xff, b->out_size * sizeof(float));
    memset(b->dqkv, 0xff, b->qkv_size * sizeof(float));
    if (threads) OK(vm_pool_create(threads, &pool));
    b->a.segments = b->segments;
    vm_arena_reset(scratch);
    OK(vm_attention_forward(&b->a, pool, scratch, b->qkv, b->out));
    vm_arena_reset(scratch);
    for (int h = 0; h < b->a.n_heads; h++) b->dsinks[h] = 0.25f; /* added to */
    OK(vm_attention_backward(&b->a, pool, scratch, b->qkv, b->dout, b->dqkv, b->a.sinks ? b->dsinks : NULL));
    vm_pool_free(pool);
    vm_arena_free(scratch);
}

static void on_every_isa(void (*check)(const layout *l)) {
    const vm_kernels *tables[MAX_TABLES];
    int n = vm_kernels_all(tables, MAX_TABLES);
    for (int t = 0; t < n; t++) {
        vm_kernels_force(tables[t]);
        for (int i = 0; i < N_LAYOUTS; i++) check(&layouts[i]);
    }
    vm_kernels_force(NULL);
}

/* ---- the truth ---- */

static double dot(const float *x, const float *y, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

/* One query: out[hd], dq[hd], and its part of the gradients of keys and values (dqkv) and of the sinks. */
static void true_row(const batch *b, const vm_segment *own, int token, int head, double *out, double *dqkv,
                     double *dsinks) {
    int hd = b->a.head_dim, all[512], n = 0;
    size_t k = b->ldo + (size_t)(head / (b->a.n_heads / b->a.n_kv_heads) * hd), v = k + (size_t)(b->a.n_kv_heads * hd),
           at = (size_t)(head * hd);
    double p[512], dp[512], sum = 0, mean = 0;
    if (own->parent >= 0)
        for (int i = 0; i < b->segments[own->parent].length; i++) all[n++] = b->segments[own->parent].start + i;
    for (int i = own->start; i <= token; i++) all[n++] = i;
    const int *keys = all;
    if (b->a.window && n > b->a.window) keys += n - b->a.window, n = b->a.window;
    if (b->a.sinks) sum = exp((double)b->a.sinks[head]);
    const float *q = b->qkv + (size_t)token * b->ld + at, *dout = b->dout + (size_t)token * b->ldo + at;
    for (int j = 0; j < n; j++) {
        p[j] = exp((double)b->a.scale * dot(q, b->qkv + (size_t)keys[j] * b->ld + k, hd));
        sum += p[j];
    }
    for (int j = 0; j < n; j++) {
        p[j] /= sum;
        dp[j] = dot(dout, b->qkv + (size_t)keys[j] * b->ld + v, hd);
        mean += p[j] * dp[j];
    }
    if (b->a.sinks) dsinks[head] -= exp((double)b->a.sinks[head]) / sum * mean;
    for (int j = 0; j < n; j++) {
        size_t row = (size_t)keys[j] * b->ld;
        double ds = (double)b->a.scale * p[j] * (dp[j] - mean);
        for (int i = 0; i < hd; i++) {
            out[(size_t)token * b->ldo + at + (size_t)i] += p[j] * (double)b->qkv[row + v + (size_t)i];
            dqkv[row + v + (size_t)i] += p[j] * (double)dout[i];
            dqkv[row + k + (size_t)i] += ds * (double)q[i];
            dqkv[(size_t)token * b->ld + at + (size_t)i] += ds * (double)b->qkv[row + k + (size_t)i];
        }
    }
}

/* By element: `budget` of what a sum of such terms is at most, measured by the largest. */
static void assert_close(const float *got, const double *truth, size_t n, double budget, const layout *l,
                         const char *what) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(truth[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - truth[i]) <= budget * largest))
            fail_msg("%s, %d x %d heads of %d, first length %d: %s %zu is %g, true %g, largest %g",
                     vm_kernels_get()->name, l->n_kv_heads, l->group, l->head_dim, l->lengths[0], what, i,
                     (double)got[i], truth[i], largest);
}

static void check_truth(const layout *l) {
    batch b = random_batch(l, 0);
    double *out = calloc(b.out_size, sizeof *out), *dqkv = calloc(b.qkv_size, sizeof *dqkv);
    double dsinks[64];
    for (int h = 0; h < b.a.n_heads; h++) dsinks[h] = 0.25;
    assert_true(out && dqkv);
    for (int s = 0; s < b.a.n_segments; s++)
        for (int t = b.segments[s].start; t < b.segments[s].start + b.segments[s].length; t++)
            for (int h = 0; h < b.a.n_heads; h++) true_row(&b, &b.segments[s], t, h, out, dqkv, dsinks);
    run(&b, 0);
    assert_close(b.out, out, b.out_size, 2e-6, l, "output");
    assert_close(b.dqkv, dqkv, b.qkv_size, 2e-6, l, "gradient");
    if (b.a.sinks) assert_close(b.dsinks, dsinks, (size_t)b.a.n_heads, 2e-6, l, "gradient of sink");
    free(out);
    free(dqkv);
    free_batch(&b);
}

static void test_truth(void **state) {
    (void)state;
    on_every_isa(check_truth);
}

/* ---- sinks by transformers (tools/golden_sinks.py) ---- */

static const float *golden_of(const vm_safetensors *st, int window, const char *what, size_t n) {
    char name[32];
    snprintf(name, sizeof name, "%d.%s", window, what);
    return golden_f32(st, name, n);
}

static void check_sinks(const vm_safetensors *st, int window) {
    static const char *const what[] = {"out", "dqkv", "dsinks"};
    batch b = make_batch(&(layout){2, 3, 8, 0.35355339f, window, true, {19}});
    size_t heads = (size_t)b.a.n_heads;
    memcpy(b.qkv, golden_of(st, window, "qkv", b.qkv_size), b.qkv_size * sizeof *b.qkv);
    memcpy(b.dout, golden_of(st, window, "dout", b.out_size), b.out_size * sizeof *b.dout);
    memcpy(b.sinks, golden_of(st, window, "sinks", heads), heads * sizeof *b.sinks);
    run(&b, 0);
    for (size_t h = 0; h < heads; h++) b.dsinks[h] -= 0.25f;
    const float *got[] = {b.out, b.dqkv, b.dsinks};
    size_t n[] = {b.out_size, b.qkv_size, heads};
    for (int i = 0; i < 3; i++) {
        double d = relative_difference(got[i], golden_of(st, window, what[i], n[i]), n[i]);
        if (!(d < 2e-6))
            fail_msg("%s, window %d: %s differs by %g of its size", vm_kernels_get()->name, window, what[i], d);
    }
    free_batch(&b);
}

static void test_sinks(void **state) {
    (void)state;
    const vm_kernels *tables[MAX_TABLES];
    int n = vm_kernels_all(tables, MAX_TABLES);
    vm_safetensors *st = golden_open("sinks");
    for (int t = 0; t < n; t++) {
        vm_kernels_force(tables[t]);
        check_sinks(st, 0);
        check_sinks(st, 5);
    }
    vm_kernels_force(NULL);
    vm_safetensors_free(st);
}

/* ---- the same bits ---- */

static void check_threads(const layout *l) {
    batch b = random_batch(l, 1);
    size_t n_sinks = l->sinks ? (size_t)b.a.n_heads : 0;
    float *out = take(b.out_size), *dqkv = take(b.qkv_size), dsinks[64];
    static const int threads[] = {1, 2, 5};
    for (int i = 0; i < 3; i++) {
        run(&b, threads[i]);
        if (i) {
            assert_memory_equal(out, b.out, b.out_size * sizeof *out);
            assert_memory_equal(dqkv, b.dqkv, b.qkv_size * sizeof *dqkv);
            assert_memory_equal(dsinks, b.dsinks, n_sinks * sizeof *dsinks);
        }
        memcpy(dsinks, b.dsinks, n_sinks * sizeof *dsinks);
        memcpy(out, b.out, b.out_size * sizeof *out);
        memcpy(dqkv, b.dqkv, b.qkv_size * sizeof *dqkv);
    }
    free(out);
    free(dqkv);
    free_batch(&b);
}

static void test_threads(void **state) {
    (void)state;
    on_every_isa(check_threads);
}

/* Segment `from` of one batch and `to` of another, which hold the same tokens: rows of `width` there and here. */
static void copy_rows(const batch *a, int from, const float *x, const batch *b, int to, float *y, size_t width) {
    memcpy(y + (size_t)b->segments[to].start * width, x + (size_t)a->segments[from].start * width,
           (size_t)a->segments[from].length * width * sizeof *y);
}

/* Segments of the layout alone in a batch give in it what they give among the others: the outputs, the queries'
 * gradients and, if all of a family are there, the keys'. */
static void assert_alone(const layout *l, const batch *all, const int *segments, int n, bool whole) {
    layout part = *l;
    memset(part.lengths, 0, sizeof part.lengths);
    for (int i = 0; i < n; i++) part.lengths[i] = l->lengths[segments[i]];
    batch b = make_batch(&part);
    for (int i = 0; i < n; i++) {
        copy_rows(all, segments[i], all->qkv, &b, i, b.qkv, b.ld);
        copy_rows(all, segments[i], all->dout, &b, i, b.dout, b.ldo);
    }
    run(&b, 0);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < b.segments[i].length; t++) {
            size_t here = (size_t)(b.segments[i].start + t), there = (size_t)(all->segments[segments[i]].start + t);
            assert_memory_equal(b.out + here * b.ldo, all->out + there * b.ldo, b.ldo * sizeof(float));
            assert_memory_equal(b.dqkv + here * b.ld, all->dqkv + there * b.ld, (whole ? b.ld : b.ldo) * sizeof(float));
        }
    free_batch(&b);
}

static void check_company(const layout *l) {
    batch all = random_batch(l, 2);
    run(&all, 2);
    for (int root = 0, next; root < all.a.n_segments; root = next) {
        int family[MAX_SEGMENTS], n = 0;
        for (next = root; next < all.a.n_segments && (next == root || all.segments[next].parent == root); next++)
            family[n++] = next;
        assert_alone(l, &all, family, n, true);
        for (int c = 1; c < n; c++) assert_alone(l, &all, (int[]){root, family[c]}, 2, n == 2);
        assert_alone(l, &all, &root, 1, n == 1);
    }
    free_batch(&all);
}

static void test_company(void **state) {
    (void)state;
    on_every_isa(check_company);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth),
        cmocka_unit_test(test_sinks),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
