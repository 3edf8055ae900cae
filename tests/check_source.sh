#!/usr/bin/env bash
# check_source.sh SOURCE_DIR: the tree keeps the law of dependence, and tools/check_source.sh sees each kind of violation.
set -euo pipefail
source=$1
check=$source/tools/check_source.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$check" "$source"

# planted FILE CONTENT EXPECTED: the checker names EXPECTED for a tree of that one file.
planted() {
    rm -rf "$work/tree"
    mkdir -p "$(dirname "$work/tree/$1")"
    printf '%b' "$2" >"$work/tree/$1"
    if "$check" "$work/tree" >"$work/out"; then
        if [ -n "$3" ]; then echo "not seen in $1: $3"; exit 1; fi
    elif [ -z "$3" ]; then
        echo "refused without need: $1"; cat "$work/out"; exit 1
    elif ! grep -q -F "$3" "$work/out"; then
        echo "$1: expected '$3', got:"; cat "$work/out"; exit 1
    fi
}
planted src/io/a.c '#include "base/status.h"\n' ''
planted src/io/a.c '#include "kernels/kernels.h"\n' 'io may not include kernels'
planted src/kernels/avx2/a.c '#include "io/gguf.h"\n' 'kernels may not include io'
planted src/router/a.c '#include "model/model.h"\n' 'router may not include model'
planted src/train/a.c '  #  include "infer/session.h"\n' 'train may not include infer'
planted src/infer/a.c '#include "train/adamw.h"\n' 'infer may not include train'
planted src/eval/a.c '#include "io/dataset.h"\n' 'eval may not include io'
planted src/report/a.c '#include "model/model.h"\n' 'report may not include model'
planted src/model/a.c '#include <vmoer/vmoer.h>\n' 'model may not include vmoer/vmoer.h'
planted src/model/a.c '#include "vmoer/vmoer_errors.h"\n' ''
planted src/model/a.c '#include "../io/gguf.h"\n' 'include goes up'
planted src/model/a.c '#include "model.h"\n' 'not relative to src/'
planted src/model/a.c '#include <io/gguf.h>\n' 'own header in angle brackets'
planted src/misc/a.c '\n' 'in no known room'
planted cli/a.c '#include "base/status.h"\n' 'cli may not include base'
planted cli/a.c '#include <vmoer/vmoer.h>\n#include "options.h"\n' ''
planted src/base/a.c "$(printf 'int a;\\n%.0s' $(seq 801))" 'more than 800 lines'
planted src/base/a.c "$(printf 'int a;\\n%.0s' $(seq 800))" ''
planted src/base/a.c '/* TO''DO: later */\n' 'left-over'
planted src/base/a.c 'int a;\t\n' 'tab'
planted src/base/a.c 'int a; \n' 'space at the line end'
planted src/base/a.c 'int a;' 'no newline at the end'
planted src/base/a.h "/* $(printf 'x%.0s' $(seq 200)) */\n" 'longer than 160 columns'
echo "every planted violation was seen"
