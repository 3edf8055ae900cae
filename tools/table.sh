#!/usr/bin/env bash
# table.sh VMOER MODEL ASSETS OUT: the table of docs/EXPERIMENTS.md. Two MAP adapters (as published: a fixed number of epochs, the last
# checkpoint; NLL-stopped: the lowest held-out NLL) x five routers. Every stage is a folder of OUT; a stage that was stopped goes on.
# Hyper-parameters were chosen on the held-out part (docs/PREREGISTRATION.md); test sets are read by the eval stages alone.
set -euo pipefail
vmoer=$1 model=$2 assets=$3 out=$4

ID_TASK=openbookqa
OOD_TASKS=arc_easy,arc_challenge,medmcqa,mmlu_professional_law
OOD_SAMPLE=250
LAYERS=${LAYERS:-auto}
PRIOR_SCALE=${PRIOR_SCALE:-1}
BETA=${BETA:-0.1}
INITIAL_SCALE=${INITIAL_SCALE:-0.5}
LEARNING_RATE=${LEARNING_RATE:-1e-3}
STEPS=${STEPS:-132}
TRAIN_ON=${TRAIN_ON:-train}

# evaluate MAP NAME LABEL ARGS...
evaluate() {
    local map=$1 name=$2 label=$3
    shift 3
    local run=$out/$map-$name
    "$vmoer" eval -m "$model" --adapter "$assets/map-$map" --label "$map / $label" "$@" --tasks $ID_TASK --n_choices 4 --output_path "$run-id" >"$run-id.md"
    "$vmoer" eval -m "$model" --adapter "$assets/map-$map" --label "$map / $label" "$@" --tasks $OOD_TASKS --sample $OOD_SAMPLE --n_choices 4 \
        --output_path "$run-ood" >"$run-ood.md"
    "$vmoer" ood -q --id_run "$run-id" "$run-ood" --output_path "$run-detection" >"$run-detection.md"
}

# router MAP KIND LABEL: trains it (or fits it) and evaluates
router() {
    local map=$1 kind=$2 label=$3 dir=$out/$1-$2-router
    [ -f "$dir/done" ] || "$vmoer" calibrate -m "$model" --adapter "$assets/map-$map" --router "$kind" --layers "$LAYERS" --tasks $ID_TASK --prior_scale "$PRIOR_SCALE" \
        --beta "$BETA" --initial_scale "$INITIAL_SCALE" --learning_rate "$LEARNING_RATE" --steps "$STEPS" --train_on "$TRAIN_ON" --resume \
        --output_path "$dir" >"$dir.md"
    touch "$dir/done"
    evaluate "$map" "$kind" "$label" --router "$dir/router.safetensors"
}

mkdir -p "$out"
for map in published nll; do
    evaluate $map map MAP
    router $map temperature "temperature scaling"
    router $map residual "residual router (control)"
    router $map vglr-mf VGLR-MF
    router $map vglr-fc VGLR-FC
done
"$vmoer" report -q "$out" --output_path "$out/report.html" --title "VGLR on SmolLM2-135M as a Mixture-of-Experts" >/dev/null
echo "report: $out/report.html"
