#!/usr/bin/env bash
# bad.sh BUILD_DIR: every file and folder in bad/ is answered as bad/expected.txt says. A row is
#     FILE | VERB | EXIT CODE | MESSAGE
# with the message behind "vmoer ...: ", whole, or as far as "..."; of what is accepted (0) a part of the JSON result,
# without its spaces. The verbs stand in run() below. Fails where a file has no row, or a row no file.
set -uo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/bad" || exit 1
out=$(mktemp)
trap 'rm -f "$out" "$out".*' EXIT
rows=0 failures=0

vmoer() { ${TEST_EMULATOR:-} "$build/vmoer" "$@"; }

run() {
    case $1 in
    verify) vmoer verify -q -o json -m "$2" ;;
    router) vmoer verify -q -o json -m gguf/good.gguf --router "$2" ;;
    run) vmoer run -q -o json -n 1 -p c -m "$2" ;;
    tokens) vmoer tokenize -o json -m "$2" ab ;;
    template) vmoer tokenize -o json --chat text/good.json -m "$2" ;;
    chat) vmoer tokenize -o json --chat "$2" -m template/good.gguf ;;
    text) vmoer tokenize -o json -m gguf/good.gguf <"$2" ;;
    *) echo "vmoer $1: no verb" >&2 ;;
    esac >"$out" 2>"$out.err"
}

complain() {
    echo "$file: $1"
    failures=$((failures + 1))
}

while IFS= read -r row; do
    case $row in '' | '#'*) continue ;; esac
    file=${row%% | *} row=${row#* | }
    verb=${row%% | *} row=${row#* | }
    code=${row%% | *} want=${row#* | }
    rows=$((rows + 1))
    [ -e "$file" ] || [ -h "$file" ] || { complain "there is no such file"; continue; }
    echo "$file" >>"$out.named"
    run "$verb" "$file"
    got=$?
    [ $got -eq "$code" ] || complain "exit code $got, expected $code: $(head -c 300 "$out.err")"
    text=$(<"$out.err")
    text=${text#vmoer *: }
    if [ "$code" -eq 0 ]; then
        text=$(tr -d ' \n' <"$out")
        [[ $text == *"$want"* ]] || complain "'$want' is not in $text"
    elif [[ $want == *... ]]; then
        [[ $text == "${want%...}"* ]] || complain "'$text' does not begin with '${want%...}'"
    else
        [ "$text" = "$want" ] || complain "'$text' is not '$want'"
    fi
done <expected.txt

# A folder's row is for all its files, a first shard's for the others.
while IFS= read -r file; do
    path=$file
    [[ $file != folder/* ]] || path=$(dirname "$file")
    grep -qxF -e "$path" -e "${path%-0000?-of-*}-00001-of-00002.gguf" "$out.named" || complain "has no row in expected.txt"
done < <(find . -mindepth 2 ! -type d -printf '%P\n')

echo "$rows files, $failures failures"
[ $failures -eq 0 ] && [ $rows -gt 0 ]
