#!/usr/bin/env bash
# demo.sh VMOER MODEL ADAPTER OUT: before and after a variational router, in minutes. Every stage is a folder of OUT; a stage that
# was stopped goes on. Out-of-distribution sets are cut to OOD_SAMPLE items by a hash of their text.
set -euo pipefail
vmoer=$1 model=$2 adapter=$3 out=$4

ID_TASK=openbookqa
OOD_TASKS=arc_easy,arc_challenge,medmcqa,mmlu_professional_law
OOD_SAMPLE=250
ROUTER=vglr-fc
LAYERS=auto
PRIOR_SCALE=1
BETA=0.1
INITIAL_SCALE=0.5
EPOCHS=1
STEPS=100
BATCH_SIZE=16
LEARNING_RATE=1e-3
TRAIN_ON=train
INFERENCE=auto
SEED=0

mkdir -p "$out"
started=$SECONDS
stage() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)) >&2; }

# evaluate NAME LABEL ARGS...: the ID test set and the OoD sets
evaluate() {
    local name=$1 label=$2
    shift 2
    stage "$label on $ID_TASK"
    "$vmoer" eval -m "$model" --adapter "$adapter" --label "$label" --seed $SEED "$@" --tasks $ID_TASK --n_choices 4 \
        --output_path "$out/$name-id" >"$out/$name-id.md"
    stage "$label out of distribution"
    "$vmoer" eval -m "$model" --adapter "$adapter" --label "$label" --seed $SEED "$@" --tasks $OOD_TASKS --sample $OOD_SAMPLE --n_choices 4 \
        --output_path "$out/$name-ood" >"$out/$name-ood.md"
    "$vmoer" ood -q --id_run "$out/$name-id" "$out/$name-ood" --output_path "$out/$name-detection" >"$out/$name-detection.md"
}

evaluate map MAP

stage "training $ROUTER"
router=$out/router/router.safetensors
if [ ! -f "$router" ] || [ ! -f "$out/router/training.json" ]; then
    "$vmoer" calibrate -m "$model" --adapter "$adapter" --router $ROUTER --layers $LAYERS --tasks $ID_TASK --prior_scale $PRIOR_SCALE \
        --beta $BETA --initial_scale $INITIAL_SCALE --epochs $EPOCHS --steps $STEPS --batch_size $BATCH_SIZE --learning_rate $LEARNING_RATE \
        --train_on $TRAIN_ON --seed $SEED --resume --output_path "$out/router" >"$out/router.md"
fi
label=$(echo $ROUTER | tr '[:lower:]' '[:upper:]')
evaluate $ROUTER "$label" --router "$router" --inference $INFERENCE

stage report
"$vmoer" report -q "$out" --output_path "$out/report.html" --title "MAP and $label on SmolLM2-135M as a Mixture-of-Experts" >/dev/null

for part in id ood; do
    cat "$out/map-$part.md"
    tail -n +3 "$out/$ROUTER-$part.md"
    echo
done
for name in map $ROUTER; do
    cat "$out/$name-detection.md"
    echo
done
echo "report: $out/report.html ($((SECONDS - started)) s)"
