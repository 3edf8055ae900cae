#!/usr/bin/env bash
# models.sh BUILD_DIR SOURCE_DIR [--write]: what works on which architecture, measured (unit/models_table.c), and that docs/MODELS.md says so: the same rows
# and cells. Errors within their bounds differ from CPU to CPU in the last digit; --write puts those of this one into the document.
set -euo pipefail
build=$(cd "$1" && pwd)
source=$(cd "$2" && pwd)
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bash "$here/cli/make_task.sh" "$work/data"
mkdir "$work/files"
${TEST_EMULATOR:-} "$build/tests/models_table" "$work/data" "$work/files" >"$work/out" 2>"$work/log" || { cat "$work/log" "$work/out"; exit 1; }
grep '^|' "$work/out" >"$work/table"
doc=$source/docs/MODELS.md
if [ "${3:-}" = --write ]; then
    { sed '/^| model/,$d' "$doc"; sed 's/^| not read/\n## Not read, and why\n\n&/' "$work/table"; } >"$work/doc" && cp "$work/doc" "$doc"
fi
digits() { sed -E 's/ [0-9]e[-+][0-9]+ / # /g'; }
diff <(grep '^|' "$doc" | digits) <(digits <"$work/table")
