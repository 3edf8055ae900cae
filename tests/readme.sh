#!/usr/bin/env bash
# readme.sh BUILD_DIR SOURCE_DIR: README's table says what the committed figures of the experiment say; and that the tool that asks would notice.
set -euo pipefail
tool="${TEST_EMULATOR:-} $(cd "$1" && pwd)/readme_table"
source=$(cd "$2" && pwd)
figures=$source/tests/golden/experiment.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*"; exit 1; }

{
    echo "before"
    echo "<!-- table of docs/experiment.json: tools/readme_table.c -->"
    echo "an old table"
    echo "<!-- end of the table -->"
    echo "after"
} >"$work/README.md"
! $tool check "$figures" "$work/README.md" 2>/dev/null || fail "an old table was not noticed"
$tool write "$figures" "$work/README.md"
$tool check "$figures" "$work/README.md"
cat >"$work/expected" <<'END'
before
<!-- table of docs/experiment.json: tools/readme_table.c -->
| MAP / router | openbookqa ACC | NLL | ECE | ECE floor, 95% | arc_easy ECE | OoD AUROC, choice entropy | Jaccard, sigma .01 |
|---|---|---|---|---|---|---|---|
| published / map | 0.125 [0.000, 0.375] | 1.447 [1.316, 1.591] | 0.358 [0.248, 0.506] | 0.456 | 0.250 [0.125, 0.375] | 0.391 [0.117, 0.688] | 0.994 |
| published / temperature | 0.125 [0.000, 0.375] | 10.152 [6.877, 13.629] | 0.886 [0.672, 0.997] | 0.114 | | 0.359 [0.084, 0.633] | 0.994 |
| published / vglr-fc | 0.125 [0.000, 0.375] | 1.440 [1.317, 1.567] | 0.357 [0.247, 0.506] | 0.456 | 0.250 [0.125, 0.375] | | 0.996 |
| nll / map | 0.125 [0.000, 0.375] | 1.447 [1.316, 1.591] | 0.358 [0.248, 0.506] | 0.456 | 0.250 [0.125, 0.375] | | 0.994 |
<!-- end of the table -->
after
END
diff "$work/expected" "$work/README.md"
sed -i 's/0\.994/0.995/' "$work/README.md"
! $tool check "$figures" "$work/README.md" 2>"$work/error" || fail "a wrong figure was not noticed"
grep -q "0.995.*0.994" "$work/error"
echo "no marks" >"$work/README.md"
! $tool check "$figures" "$work/README.md" 2>/dev/null || fail "a README without a table was not noticed"
# What is extracted is extracted once: of the figures nothing more goes.
$tool extract "$figures" "$work/figures.json"
$tool extract "$work/figures.json" "$work/again.json"
cmp "$work/figures.json" "$work/again.json"

$tool check "$source/docs/experiment.json" "$source/README.md"
