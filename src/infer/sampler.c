/* sampler.c: see sampler.h. Candidates come out of a heap, most likely first, for as long as any limit asks: a
 * vocabulary is seldom sorted. Nucleus (top-p): Holtzman et al. 2020; min-p: Nguyen et al. 2024; repeat penalty: Keskar
 * et al. 2019 (CTRL), the negative case as llama.cpp's. */
#include "infer/sampler.h"

#include "base/rng.h"
#include "base/status.h"

#include <math.h>
#include <stdbool.h>

vmoer_status vm_sampler_check(const vm_sampler_options *o) {
    if (!(o->temperature >= 0 && isfinite(o->temperature)))
        return vm_error(VMOER_ERROR_ARGUMENT, "temperature %g, must be 0 or more", o->temperature);
    if (o->top_k < 0) return vm_error(VMOER_ERROR_ARGUMENT, "top_k %d, must be 1 or more, or 0: all", o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "top_p %g, must be above 0 and at most 1", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return vm_error(VMOER_ERROR_ARGUMENT, "min_p %g, must be from 0 to 1", o->min_p);
    if (!(o->repeat_penalty > 0 && isfinite(o->repeat_penalty)))
        return vm_error(VMOER_ERROR_ARGUMENT, "repeat_penalty %g, must be above 0", o->repeat_penalty);
    if (o->repeat_last_n < -1)
        return vm_error(VMOER_ERROR_ARGUMENT, "repeat_last_n %d, must be 0 or more, or -1: all", o->repeat_last_n);
    return VMOER_OK;
}

static bool before(const vm_candidate *a, const vm_candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(vm_candidate *a, vm_candidate *b) {
    vm_candidate c = *a;
    *a = *b;
    *b = c;
}

/* list[n], which is a heap but for its first one, with the most likely at the front: list[(i - 1) / 2] comes before
 * list[i]. */
static void sink(vm_candidate *list, size_t n, size_t i) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&list[child + 1], &list[child])) child++;
        if (!before(&list[child], &list[i])) return;
        swap(&list[i], &list[child]);
    }
}

static void penalise(const vm_sampler_options *o, const float *logits, const int32_t *ids, size_t n,
                     vm_candidate *list) {
    size_t last = o->repeat_last_n < 0 || (size_t)o->repeat_last_n > n ? n : (size_t)o->repeat_last_n;
    for (size_t i = n - last; i < n; i++) {
        double logit = (double)logits[ids[i]];
        list[ids[i]].logit = logit > 0 ? logit / o->repeat_penalty : logit * o->repeat_penalty;
    }
}

/* Of list[n] the top_k first ones, and of these as many as top_p asks for, to list's front in order. */
static size_t cut(const vm_sampler_options *o, double most, size_t n, vm_candidate *list) {
    bool some = o->top_k > 0 && (size_t)o->top_k < n;
    size_t kept = 0, limit = some ? (size_t)o->top_k : n;
    if (limit == n && o->top_p >= 1) return n;
    /* The heap stands at the list's end and shrinks towards it; what came out goes where it began, so that both fit.
     * Its order is turned round. */
    for (size_t i = n / 2; i-- > 0;) sink(list, n, i);
    double total = 0, sum = 0;
    if (!some)
        for (size_t i = 0; i < n; i++) total += exp(list[i].logit - most);
    size_t left = n;
    while (kept < limit) {
        swap(&list[0], &list[--left]);
        sink(list, left, 0);
        const vm_candidate *c = &list[left];
        kept++;
        sum += exp(c->logit - most);
        if (!some && sum >= o->top_p * total) break;
    }
    for (size_t i = 0; i < kept && i < n - 1 - i; i++) swap(&list[i], &list[n - 1 - i]);
    if (!some) return kept;
    total = sum, sum = 0;
    for (size_t i = 0; i < kept; i++) {
        sum += exp(list[i].logit - most);
        if (sum >= o->top_p * total) return i + 1;
    }
    return kept;
}

size_t vm_sampler_candidates(const vm_sampler_options *o, const float *logits, int n_vocab, const int32_t *ids,
                             size_t n, vm_candidate *list) {
    size_t count = (size_t)n_vocab, best = 0, kept = 0;
    for (size_t i = 0; i < count; i++) list[i] = (vm_candidate){.logit = (double)logits[i], .id = (int32_t)i};
    if (o->repeat_penalty != 1) penalise(o, logits, ids, n, list);
    for (size_t i = 1; i < count; i++)
        if (list[i].logit > list[best].logit) best = i;
    double most = list[best].logit;
    if (o->temperature == 0) {
        list[0] = list[best];
        list[0].weight = 1;
        return 1;
    }
    count = cut(o, most, count, list);
    double least = o->min_p > 0 ? most + log(o->min_p) : -INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (list[i].logit < least) continue;
        list[kept] = list[i];
        list[kept].weight = exp((list[kept].logit - most) / o->temperature);
        kept++;
    }
    return kept;
}

int32_t vm_sampler_take(const vm_sampler_options *o, const float *logits, int n_vocab, const int32_t *ids, size_t n,
                        vm_candidate *list) {
    size_t count = vm_sampler_candidates(o, logits, n_vocab, ids, n, list), last = 0;
    uint32_t words[4];
    vm_rng_block(o->seed, VM_RNG_TOKEN, (uint32_t[4]){(uint32_t)n, (uint32_t)((uint64_t)n >> 32), 0, 0}, words);
    double total = 0, sum = 0, at = ((double)words[0] * 0x1p-32 + (double)(words[1] >> 11) * 0x1p-53);
    for (size_t i = 0; i < count; i++) total += list[i].weight;
    for (size_t i = 0; i < count; i++) {
        sum += list[i].weight;
        if (list[i].weight > 0) last = i;
        if (at * total < sum) return list[i].id;
    }
    return list[last].id; /* what rounding left over */
}
