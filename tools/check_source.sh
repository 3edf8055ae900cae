#!/usr/bin/env bash
# check_source.sh [TREE]: the law of dependence between rooms, and what every source file keeps to.
#   - who may include whom (docs/ARCHITECTURE.md); paths relative to src/ and include/
#   - at most 800 lines a file; no tab in C; no space at a line's end, a newline at the file's end; headers, which are laid out
#     by hand, at most 160 columns wide (the rest is for ./dev fmt)
#   - no left-overs
# One line a finding on stdout; exit code 1 where there is one.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"

files=$({ find include src cli tests fuzz tools bench -type f \( -name '*.[ch]' -o -name '*.inc' -o -name '*.sh' -o -name '*.py' \) 2>/dev/null || true; } | LC_ALL=C sort)
[ -n "$files" ] || { echo "check_source: no source files found"; exit 1; }

# shellcheck disable=SC2086
LC_ALL=C awk '
function finding(text) { printf "%s:%d: %s\n", FILENAME, FNR, text; found = 1 }
function room_of(path,    part) { split(path, part, "/"); return part[1] == "src" ? part[2] : part[1] }
BEGIN {
    may["include"] = "vmoer"
    may["base"] = "base vmoer" # for the hooks: types only
    may["io"] = "base io"
    may["kernels"] = "base kernels"
    may["router"] = "base io kernels router"
    may["model"] = "base io kernels router model"
    may["train"] = "base io kernels router model eval train vmoer" # eval: measures of the held-out part; vmoer: params
    may["infer"] = "base io kernels router model infer"
    may["eval"] = "base eval"
    may["report"] = "base eval report vmoer"
    may["api"] = "base io kernels router model train infer eval report api vmoer"
    may["cli"] = "vmoer"
    may["tools"] = may["fuzz"] = may["api"]
    may["tests"] = may["bench"] = may["api"] " bench" # bench/shapes.h
    for (room in may) { n = split(may[room], names, " "); for (i = 1; i <= n; i++) allowed[room, names[i]] = 1 }
    leftover = "(^|[^A-Za-z_])(TO" "DO|FIX" "ME|XX" "X|HA" "CK)([^A-Za-z_]|$)"
}
FNR == 1 { is_c = FILENAME ~ /\.(c|h|inc)$/; room = room_of(FILENAME); if (!(room in may)) finding("a file in no known room") }
FNR == 801 { finding("more than 800 lines: wants to be two files") }
FILENAME ~ /\.h$/ && length > 160 { finding("longer than 160 columns") }
is_c && /\t/ { finding("tab") }
/[ \t]$/ { finding("space at the line end") }
$0 ~ leftover { finding("left-over: " $0) }
is_c && /^[ \t]*#[ \t]*include[ \t]*["<]/ {
    quoted = $0 ~ /include[ \t]*"/
    path = $0
    sub(/^[^"<]*["<]/, "", path); sub(/[">].*$/, "", path)
    split(path, part, "/")
    if (path ~ /\.\./) finding("include goes up: " path)
    else if (path ~ /^vmoer\//) {
        if (path != "vmoer/vmoer_errors.h" && !((room, "vmoer") in allowed)) finding(room " may not include " path)
    } else if (!quoted) {
        if (part[1] in may && path ~ /\// && part[1] != "include") finding("own header in angle brackets: " path)
    } else if (path !~ /\//) {
        if (room != "include" && room != "cli" && room != "tests" && room != "fuzz") finding("path is not relative to src/: " path)
    } else if (!((room, part[1]) in allowed)) finding(room " may not include " part[1] ": " path)
}
END { exit found }
' $files && status=0 || status=1
for file in $files; do
    [ -z "$(tail -c 1 "$file")" ] || { echo "$file: no newline at the end"; status=1; }
done
exit "$status"
