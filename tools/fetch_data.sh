#!/usr/bin/env bash
# fetch_data.sh DIR: the data sets' official files, laid out as the loaders expect them. Goes on where it was stopped.
# No hash is pinned, for none of these archives was in hand when this was written, and no address here has been tried by us:
# each is the one its authors give. What comes is recorded in DIR/SHA256SUMS at the first download and compared after that.
set -euo pipefail
if [ "${1:---help}" = --help ]; then
    sed -n '2,4s/^# //p' "$0"
    exit 0
fi
mkdir -p "$1/archives"
cd "$1"

# fetch NAME URL: into archives/NAME
fetch() {
    local sum
    if [ ! -f "archives/$1" ]; then
        echo "fetching $2" >&2
        curl --fail --location --retry 3 --continue-at - --output "archives/$1.part" "$2"
        mv "archives/$1.part" "archives/$1"
    fi
    sum=$(sha256sum "archives/$1")
    if ! grep -q " archives/$1\$" SHA256SUMS 2>/dev/null; then
        echo "$sum" >>SHA256SUMS
        echo "recorded: $sum" >&2
    elif ! grep -q -x -F "$sum" SHA256SUMS; then
        echo "fetch_data: archives/$1 is not the file of the first download (SHA256SUMS); remove one of them" >&2
        return 1
    fi
}

# unpack ARCHIVE FOLDER PATTERN...: those members, without their folders
unpack() {
    local archive=archives/$1 folder=$2
    shift 2
    mkdir -p "$folder"
    unzip -q -o -j "$archive" "$@" -d "$folder"
}

failed=
openbookqa() {
    fetch OpenBookQA-V1-Sep2018.zip https://ai2-public-datasets.s3.amazonaws.com/open-book-qa/OpenBookQA-V1-Sep2018.zip || return 1
    unpack OpenBookQA-V1-Sep2018.zip openbookqa '*/Data/Main/train.jsonl' '*/Data/Main/test.jsonl' || return 1
    # Our training pool is the official training set alone, kept as two files; the official dev set is not used.
    [ "$(wc -l <openbookqa/train.jsonl)" -ne 4957 ] || {
        tail -n 500 openbookqa/train.jsonl >openbookqa/dev.jsonl
        head -n 4457 openbookqa/train.jsonl >openbookqa/train.part && mv openbookqa/train.part openbookqa/train.jsonl
    }
}
arc() {
    fetch ARC-V1-Feb2018.zip https://ai2-public-datasets.s3.amazonaws.com/arc/ARC-V1-Feb2018.zip || return 1
    unpack ARC-V1-Feb2018.zip arc '*/ARC-*-Train.jsonl' '*/ARC-*-Test.jsonl'
}
sciq() {
    fetch SciQ.zip https://ai2-public-datasets.s3.amazonaws.com/sciq/SciQ.zip || return 1
    unpack SciQ.zip sciq '*/train.json' '*/test.json' '*/valid.json'
}
medmcqa() {
    fetch medmcqa.zip 'https://drive.google.com/uc?export=download&id=15VkJdq5eyWIkfb_aoD3oS8i4tScbHYky' || return 1
    unpack medmcqa.zip medmcqa '*dev.json' '*train.json'
}
mmlu() {
    fetch mmlu.tar https://people.eecs.berkeley.edu/~hendrycks/data.tar || return 1
    mkdir -p mmlu
    tar -xf archives/mmlu.tar --strip-components=1 -C mmlu data/test data/val data/dev
}
# Each archive has train and dev with their labels; the test labels are not public.
piqa() {
    fetch physicaliqa-train-dev.zip https://storage.googleapis.com/ai2-mosaic/public/physicaliqa/physicaliqa-train-dev.zip || return 1
    unpack physicaliqa-train-dev.zip piqa '*/train.jsonl' '*/train-labels.lst' '*/dev.jsonl' '*/dev-labels.lst'
}
social_iqa() {
    fetch socialiqa-train-dev.zip https://storage.googleapis.com/ai2-mosaic/public/socialiqa/socialiqa-train-dev.zip || return 1
    unpack socialiqa-train-dev.zip social_iqa '*/train.jsonl' '*/train-labels.lst' '*/dev.jsonl' '*/dev-labels.lst'
}
for set in openbookqa arc sciq medmcqa mmlu piqa social_iqa; do
    "$set" || failed="$failed $set"
done
echo "$PWD"
[ -z "$failed" ] || { echo "fetch_data: not fetched:$failed" >&2; exit 1; }
