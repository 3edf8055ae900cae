/* cluster.c: see cluster.h. */
#include "train/cluster.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CLUSTER_ROUNDS = 12 };

typedef struct ranked {
    float value;
    int32_t a, b;
} ranked;

/* Falling value; ties by the indices, so that the order is the same everywhere. */
static int by_value(const void *x, const void *y) {
    const ranked *p = x, *q = y;
    if (p->value != q->value) return p->value > q->value ? -1 : 1;
    if (p->a != q->a) return p->a < q->a ? -1 : 1;
    return (p->b > q->b) - (p->b < q->b);
}

/* Brings the k first of r[n] by that order to r[0..k), in no order of their own. */
static void select_first(ranked *r, size_t n, size_t k) {
    size_t low = 0, high = n;
    while (low < k && k < high) { /* all before low come before all of [low, high), those before all from high on */
        ranked pivot = r[low + (high - low - 1) / 2]; /* never the last: both parts below have an element */
        size_t i = low, j = high - 1;
        for (;;) {
            while (by_value(&r[i], &pivot) < 0) i++;
            while (by_value(&r[j], &pivot) > 0) j--;
            if (i >= j) break;
            ranked other = r[i];
            r[i++] = r[j];
            r[j--] = other;
        }
        if (k <= j)
            high = j + 1;
        else
            low = j + 1;
    }
}

/* pattern[F, T] = 1 where the neuron is among the strongest tenth of the token; count[F] how often. */
static vmoer_status patterns(const float *active, int n_tokens, int n_neurons, float *pattern, ranked *count) {
    size_t T = (size_t)n_tokens, F = (size_t)n_neurons;
    ranked *r = vm_malloc(F, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "no memory to rank %d neurons", n_neurons);
    for (size_t f = 0; f < F; f++) count[f] = (ranked){0, (int32_t)f, 0};
    for (size_t t = 0; t < T; t++) {
        for (size_t f = 0; f < F; f++)
            r[f] = (ranked){fmaxf(active[t * F + f], 0), (int32_t)f, 0}; /* a NaN has no place in the order: 0 */
        select_first(r, F, F / 10);
        for (size_t i = 0; i < F / 10; i++) {
            pattern[(size_t)r[i].a * T + t] = 1;
            count[r[i].a].value += 1;
        }
    }
    vm_free(r);
    return VMOER_OK;
}

static void normalise(float *x, int n) {
    const vm_kernels *kernels = vm_kernels_get();
    float square = kernels->dot(x, x, n);
    if (square > 0)
        for (int i = 0; i < n; i++) x[i] /= sqrtf(square);
}

/* assigned[n] from similarity[n, experts]: the best pairs first, an expert takes expert_width neurons. */
static void assign(const float *similarity, int n, int experts, int expert_width, ranked *pairs, int32_t *assigned,
                   int *room) {
    size_t count = (size_t)n * (size_t)experts;
    for (size_t i = 0; i < count; i++)
        pairs[i] = (ranked){similarity[i], (int32_t)(i / (size_t)experts), (int32_t)(i % (size_t)experts)};
    qsort(pairs, count, sizeof *pairs, by_value);
    for (int i = 0; i < n; i++) assigned[i] = -1;
    for (int e = 0; e < experts; e++) room[e] = expert_width;
    for (size_t i = 0; i < count; i++)
        if (assigned[pairs[i].a] < 0 && room[pairs[i].b] > 0) {
            assigned[pairs[i].a] = pairs[i].b;
            room[pairs[i].b]--;
        }
}

vmoer_status vm_cluster_neurons(vm_pool *pool, const float *active, int n_tokens, int n_neurons, int shared,
                                int experts, int expert_width, uint64_t seed, int32_t *order) {
    size_t T = (size_t)n_tokens, F = (size_t)n_neurons, n = F - (size_t)shared, E = (size_t)experts;
    float *pattern = vm_calloc(F * T, sizeof *pattern), *routed = vm_malloc(n * T, sizeof *routed);
    float *centre = vm_calloc(E * T, sizeof *centre), *similarity = vm_malloc(n * E, sizeof *similarity);
    ranked *count = vm_malloc(F, sizeof *count), *pairs = vm_malloc(n * E, sizeof *pairs);
    int32_t *assigned = vm_malloc(n, sizeof *assigned), *first = vm_malloc(n, sizeof *first);
    int *room = vm_malloc(E, sizeof *room);
    vm_panel centres = {.data = vm_malloc(1, vm_panel_bytes(VM_COMPUTE_F32, n_tokens, experts))};
    vmoer_status status = VMOER_OK;
    if (!pattern || !routed || !centre || !similarity || !count || !pairs || !assigned || !first || !room ||
        !centres.data) {
        status = vm_error(VMOER_ERROR_MEMORY, "no memory to cluster %d neurons by %d tokens", n_neurons, n_tokens);
        goto done;
    }
    VM_GOTO(patterns(active, n_tokens, n_neurons, pattern, count));
    qsort(count, F, sizeof *count, by_value);
    for (size_t i = 0; i < F; i++) order[i] = count[i].a; /* most often active first */
    for (size_t i = 0; i < n; i++) {
        memcpy(routed + i * T, pattern + (size_t)order[(size_t)shared + i] * T, T * sizeof *routed);
        normalise(routed + i * T, n_tokens);
        first[i] = (int32_t)i;
    }
    vm_rng rng = vm_rng_start(seed, VM_RNG_CLUSTER, 0);
    vm_rng_shuffle(&rng, first, n);
    for (size_t e = 0; e < E; e++) memcpy(centre + e * T, routed + (size_t)first[e] * T, T * sizeof *centre);
    for (int iteration = 0; iteration < CLUSTER_ROUNDS; iteration++) {
        vm_panel_pack(pool, &centres, VM_COMPUTE_F32, n_tokens, experts, centre, 1, T, NULL);
        vm_gemm_job job = {
            .m = (int)n, .a = routed, .a_m_stride = T, .a_k_stride = 1, .b = &centres, .c = similarity, .ldc = E};
        VM_GOTO(vm_gemm(pool, &job, 1));
        assign(similarity, (int)n, experts, expert_width, pairs, assigned, room);
        memset(centre, 0, E * T * sizeof *centre);
        for (size_t i = 0; i < n; i++)
            vm_kernels_get()->axpy(1.0f, routed + i * T, centre + (size_t)assigned[i] * T, n_tokens);
        for (size_t e = 0; e < E; e++) normalise(centre + e * T, n_tokens);
    }
    for (size_t e = 0, place = (size_t)shared; e < E; e++)
        for (size_t i = 0; i < n; i++)
            if (assigned[i] == (int32_t)e) first[place++ - (size_t)shared] = order[(size_t)shared + i];
    memcpy(order + shared, first, n * sizeof *order);
done:
    vm_free(pattern);
    vm_free(routed);
    vm_free(centre);
    vm_free(similarity);
    vm_free(count);
    vm_free(pairs);
    vm_free(assigned);
    vm_free(first);
    vm_free(room);
    vm_free(centres.data);
    return status;
}
