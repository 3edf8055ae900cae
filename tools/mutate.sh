#!/usr/bin/env bash
# mutate.sh [NAME...]: do the tests notice? Plants known bugs, one at a time, in a copy of the tree, and asks that at least one
# test fails for each. A pattern that does not stand exactly once in its file is an error: the code moved on, so must the list.
# Exit code 0: every mutant was noticed. ./dev mutate sets data and model as for the tests.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)

# mutant NAME FILE OLD NEW: literal text, within one line
names=() files=() olds=() news=()
mutant() { names+=("$1") files+=("$2") olds+=("$3") news+=("$4"); }

mutant kl-sign src/router/vglr.c 'return 0.5 * sum;' 'return -0.5 * sum;'
mutant kl-without-half src/router/vglr.c 'return 0.5 * sum;' 'return sum;'
mutant kl-mean-gradient src/router/vglr.c 'ddmu[i] = dl[i] + w * x->dmu[i];' 'ddmu[i] = dl[i] - w * x->dmu[i];'
mutant covariance-off-diagonal-dropped src/router/vglr.c 'l[i] += c->kernels->dot(row, eps, i + 1);' \
    'l[i] += row[i] * eps[i];'
mutant choice-gradient-dropped src/router/vtsr.c 'dl[i] += relaxed[i] * (p[i] * dp[i] - mean);' 'dl[i] += 0 * (relaxed[i] - mean);'
mutant temperature-bound-flat src/router/vtsr.c 'slope = 1.0f - d.bend * d.bend' 'slope = 1.0f'
mutant head-drawn-too src/router/expert_sample.c 'scores[best] = KEPT * (float)left;' 'scores[best] += (float)left;'
mutant gumbel-of-the-wrong-side src/router/route.c '(float)-log(-log(((double)w + 0.5) * 0x1p-32))' '(float)log(-log(((double)w + 0.5) * 0x1p-32))'
mutant swag-variance-whole src/router/swag.c 'sqrtf(0.5f * variance[i])' 'sqrtf(variance[i])'
mutant swag-layers-apart src/router/swag.c '{UINT32_MAX, low' '{(uint32_t)layer, low'
mutant swag-deviation-from-the-last-mean src/router/swag.c 'deviation[i] = w[i] - mean[i];' 'deviation[i] = before;'
mutant swag-rate-falls-on src/train/trainer.c 'r->step < r->hold ? r->step : r->hold' 'r->step'
mutant gathered-not-kept src/train/checkpoint.c 'N_PARTS : VALUE + 1' 'N_PARTS : VALUE'
mutant dropout-unscaled src/router/dropout.c '0.0f : scale * x[i]' '0.0f : x[i]'
mutant member-of-the-question-alone src/router/weights.c 'item + c->in->step' 'item + 0 * c->in->step'
mutant draws-of-earlier-weights src/router/infer.c 'vm_weight_table_free(atomic_exchange(&r->layers[i].weights, NULL));' '(void)0;'
mutant draw-of-another-column src/kernels/strips.inc 'vec_load(e + strip_row(j < below ? j : i))' 'vec_load(e + strip_row(j))'
mutant covariance-beyond-the-rank src/kernels/strips.inc 'j <= k && j <= i && j < rank; j++' 'j <= k && j <= i && j < n; j++'
mutant flips-uncounted src/api/quick.c '*flips += answer != q->answer[i];' '*flips += 0;'
mutant common-mode-kept src/kernels/strips.inc 'vec_sub(squares, vec_div(common, vec_set((float)g->n)))' 'squares'
mutant gate-not-renormalised src/model/ffn.c 'f->renormalise ? p[chosen[k]] / sum : p[chosen[k]]' 'p[chosen[k]]'
mutant rope-turns-back src/model/pass.c 'rope(p, a->qkv, 1.0f);' 'rope(p, a->qkv, -1.0f);'
mutant norm-epsilon-sign src/kernels/elementwise.inc 'dot(x, x, n) / (float)n + eps' 'dot(x, x, n) / (float)n - eps'
mutant label-shifted src/train/objective.c 'right = e->answers[items[i]];' 'right = (e->answers[items[i]] + 1) % k;'
mutant antithetic-draw-repeated src/train/objective.c '.sign = draw % 2 ? -1.0f : 1.0f' '.sign = 1.0f'
mutant ece-bin-edge src/eval/metrics.c 'confidence > (double)(b + 1) / VM_ECE_BINS) b++' 'confidence >= (double)(b + 1) / VM_ECE_BINS) b++'
mutant conformal-rank-of-n src/eval/conformal.c '((double)n + 1) * (1 - alpha)' '(double)n * (1 - alpha)'
mutant aps-without-its-draw src/eval/conformal.c 'before + uniform[i] * p[c]' 'before + p[c]'
mutant length-not-taken-out src/api/ood.c 'line.slope * sides[k]->log_length[i]' '0 * line.slope'
mutant matched-with-anybody src/eval/controls.c '> 1.1 * fmin' '> 11 * fmin'
mutant covariance-unshrunk src/eval/distance.c 'weight * mu;' '0 * mu;'
mutant auroc-ties-lost src/eval/ood.c 'above_id - id[i] * .5' 'above_id - id[i] * 1.'
mutant seeds-not-drawn src/eval/compare.c 'sum += seeds->weight[r * seeds->n + s] * runs' 'sum += runs'
mutant adamw-bias-correction src/train/optimizer.c '(float)(rate / s->correction1)' '(float)rate'
mutant distillation-gradient-sign src/model/head.c 'z[v] -= zt[v]' 'z[v] = zt[v] - z[v]'
mutant teacher-logits-undivided src/model/head.c 'float scale = s->m->config.logit_scale;' 'float scale = j->p->m->config.logit_scale;'
mutant head-piece-of-another-sum src/model/head.c 'softmax(z, columns) - lse)' 'softmax(z, columns) - 0 * lse)'
mutant distillation-mean-over-questions src/train/objective.c '1.0 / all, arena' '1.0 / n, arena'
mutant state-of-another-question src/model/states.c 'if (e->hash != hash || e->n != n || memcmp(e->ids, ids, (size_t)n * sizeof *ids) != 0) return false;' \
    'if (e->n != n) return false;'
mutant states-of-any-layer src/model/pass.c 'p->lowest != vm_states_layer(o->states) ||' ''
mutant choice-of-another-parent src/model/pass.c 'own->parent += shift' 'own->parent += 0'
mutant neurons-of-down-unmoved src/train/recipe.c 'dense[d * F + (size_t)order[i]]' 'dense[d * F + i]'
mutant changed-tensor-copied src/train/export.c 'memcmp(row, value, cols * sizeof *row) != 0' 'row[0] != value[0]'
mutant recovery-unread src/train/recipe.c '.adapter = r->recovery, ' ''

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$source"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work" 2>/dev/null || true
cd "$work"

build() { cmake --build build >build.log 2>&1; }
tests() { ctest --test-dir build -j2 --stop-on-failure --output-on-failure >test.log 2>&1; }

# plant FILE OLD NEW: fails unless OLD stands there exactly once
plant() {
    [ "$(grep -c -F -- "$2" "$1")" = 1 ] || return 1
    OLD=$2 NEW=$3 awk '{ i = index($0, ENVIRON["OLD"]); if (i) $0 = substr($0, 1, i - 1) ENVIRON["NEW"] substr($0, i + length(ENVIRON["OLD"])); print }' \
        "$1" >planted && cat planted >"$1"
}

cmake -S . -B build -G Ninja >/dev/null
build || { tail -20 build.log; echo "mutate: the tree does not build"; exit 1; }
tests || { tail -20 test.log; echo "mutate: the tests fail before anything is planted"; exit 1; }

bad=0
for i in "${!names[@]}"; do
    name=${names[i]} file=${files[i]}
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    cp "$file" saved
    if ! plant "$file" "${olds[i]}" "${news[i]}"; then
        echo "ERROR     $name: not exactly once in $file: ${olds[i]}"
        bad=1
    elif ! build; then
        echo "ERROR     $name: does not build"
        bad=1
    elif tests; then
        echo "UNNOTICED $name"
        bad=1
    else
        echo "noticed   $name: $(sed -n 's/.*- \([a-z_0-9]*\) (.*/\1/p' test.log | head -1)"
    fi
    cat saved >"$file"
done
exit $bad
