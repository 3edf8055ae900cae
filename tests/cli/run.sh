#!/usr/bin/env bash
# run.sh BUILD_DIR CASE_FILE: runs a command-line case and compares what it printed with what stands in the file.
#   $ command       run by bash in an empty folder; $GOLDEN is tests/golden, $CASES is this folder
#   > line          expected on stdout;  >~ regex  the whole line matches;  >* any lines from here on
#   ! line          the same on stderr:  !~  !*
#   ? code          expected exit code, 0 where it is not said
# Anything else is comment. A command without > or ! lines must print nothing there.
set -uo pipefail
build=$(cd "$1" && pwd)
PATH="$build:$PATH"
case_file=$(realpath "$2")
CASES=$(dirname "$case_file")
GOLDEN=$(realpath "$CASES/../golden")
export PATH CASES GOLDEN LC_ALL=C.UTF-8
for name in ${!VMOER_@}; do [ "$name" = VMOER_ISA ] || unset "$name"; done # a developer's own settings would show in the output
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/cwd"
if [ -n "${TEST_EMULATOR:-}" ]; then # built for another machine: `vmoer` is a script that runs it
    mkdir "$work/bin"
    printf '#!/bin/sh\nexec %s "%s/vmoer" "$@"\n' "$TEST_EMULATOR" "$build" >"$work/bin/vmoer"
    chmod +x "$work/bin/vmoer"
    PATH="$work/bin:$PATH"
fi
failures=0 commands=0 command=

complain() {
    echo "$case_file:$line_number: $ $command"
    echo "    $1"
    failures=$((failures + 1))
}

# compare MARK FILE EXPECTED...: each expected entry is MARK, a kind (space, ~ or *) and the text.
compare() {
    local name=$1 file=$2 actual i=0 entry text
    shift 2
    mapfile -t actual <"$file"
    for entry in "$@"; do
        text=${entry:3}
        case ${entry:1:1} in
        '*') return ;;
        '~') [[ $i -lt ${#actual[@]} && ${actual[i]} =~ ^($text)$ ]] || { complain "$name line $((i + 1)): '${actual[i]-<nothing>}' does not match '$text'"; return; } ;;
        *) text=${entry:2}; [[ $i -lt ${#actual[@]} && ${actual[i]} == "$text" ]] || { complain "$name line $((i + 1)): '${actual[i]-<nothing>}' is not '$text'"; return; } ;;
        esac
        i=$((i + 1))
    done
    [ $i -eq ${#actual[@]} ] || complain "$name has an unexpected line: '${actual[i]}'"
}

finish() {
    [ -n "$command" ] || return
    (cd "$work/cwd" && bash -c "$command") >"$work/out" 2>"$work/err" </dev/null
    local code=$?
    [ $code -eq "$expected_code" ] || complain "exit code $code, expected $expected_code; stderr: $(head -c 300 "$work/err")"
    compare stdout "$work/out" "${out[@]}"
    compare stderr "$work/err" "${err[@]}"
    commands=$((commands + 1))
    command=
}

number=0
while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    case $line in
    '$ '*) finish; command=${line:2}; line_number=$number; out=() err=() expected_code=0 ;;
    '?'*) expected_code=${line:2} ;;
    '>'*) out+=("$line") ;;
    '!'*) err+=("$line") ;;
    esac
done <"$case_file"
finish
echo "$commands commands, $failures failures"
[ $failures -eq 0 ] && [ $commands -gt 0 ]
