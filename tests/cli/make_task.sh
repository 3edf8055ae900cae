#!/usr/bin/env bash
# make_task.sh DIR: a small synthetic task in OpenBookQA's layout, so that the whole path runs where the real data is not.
# Sums in words with four choices: 120 training, 30 dev and 40 test questions, the same at every run.
set -euo pipefail
mkdir -p "$1/openbookqa"
awk -v dir="$1/openbookqa" 'BEGIN {
    n = split("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen", word, " ")
    state = 1
    for (i = 0; i < 190; i++) {
        a = draw(10); b = draw(10); right = draw(4); line = ""
        for (c = 0; c < 4; c++) {
            value = c == right ? a + b : (a + b + 1 + (c + 3 * i) % 7 + (c > right)) % n
            line = line sprintf("%s{\"text\": \"%s\", \"label\": \"%s\"}", c ? ", " : "", word[value + 1], substr("ABCD", c + 1, 1))
        }
        split_name = i < 120 ? "train" : i < 150 ? "dev" : "test"
        printf "{\"id\": \"sum-%d\", \"question\": {\"stem\": \"In lesson %d, how much is %s and %s\", \"choices\": [%s]}, \"answerKey\": \"%s\"}\n",
            i, i, word[a + 1], word[b + 1], line, substr("ABCD", right + 1, 1) > dir "/" split_name ".jsonl"
    }
}
function draw(below) { state = (state * 1103 + 12345) % 65536; return int(state / 65536 * below) }'
