#!/usr/bin/env bash
# reproduce.sh BUILD_DIR: an experiment that is killed at random moments, again and again, ends with the files of one that was not.
set -euo pipefail
build=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in ${!VMOER_@}; do [ "$name" = VMOER_ISA ] || unset "$name"; done
run=(${TEST_EMULATOR:-} "$build/vmoer")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
bash "$here/cli/make_task.sh" data >/dev/null
mkdir data/arc
for part in Train Test; do
    file=$(echo $part | tr TR tr)
    sed 's/lesson/chapter/; s/"sum-/"arc-/' "data/openbookqa/$file.jsonl" >"data/arc/ARC-Easy-$part.jsonl"
done

run+=(reproduce -q -m "$here/golden/tiny-moe.gguf" --data data --quick --seeds 2 --nll_routers map,vglr-fc --output_path)
# The files that must be equal: all but times, estimates and what a killed writer leaves.
list() { (cd "$1" && find . -type f ! -name 'timings*.json' ! -name plan.json ! -name '*.tmp' ! -name '*.html' | sort); }

"${run[@]}" whole >whole.md
RANDOM=${SEED:-5}
for kill in 1 2 3 4 5 6; do
    "${run[@]}" killed >killed.md &
    pid=$!
    stages=$(list killed 2>/dev/null | grep -c stage.json || true)
    wanted=$((stages + 1 + RANDOM % 12)) # somewhere after so many more stages
    while [ "$(list killed 2>/dev/null | grep -c stage.json || true)" -lt $wanted ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    sleep "0.0$((RANDOM % 10))"
    { kill -KILL $pid && wait $pid; } 2>/dev/null || true
    [ ! -f killed/results.json ] || break
done
[ $kill -gt 1 ] || { echo "it was over before it could be killed"; exit 1; }
"${run[@]}" killed >killed.md
diff <(list whole) <(list killed)
n=0
while read -r file; do
    cmp "whole/$file" "killed/$file"
    n=$((n + 1))
done < <(list whole)
cmp whole.md killed.md
[ $n -gt 100 ] || { echo "only $n files"; exit 1; }
# A third time there is nothing to do, and nothing changes.
"${run[@]}" killed >killed.md
cmp whole/results.json killed/results.json
# Two shards beside each other, then the whole: the same again.
"${run[@]}" shards --shard 0/2 >/dev/null & first=$!
"${run[@]}" shards --shard 1/2 >/dev/null
wait $first
[ ! -f shards/results.json ] || { echo "a shard wrote results.json"; exit 1; }
"${run[@]}" shards >shards.md
cmp whole/results.json shards/results.json
cmp whole.md shards.md
echo "$n files equal after $kill kills"
