#!/usr/bin/env bash
# api.sh LIBRARY INCLUDE_DIR CC CXX: the library exports exactly what vmoer.h declares, all of it named vmoer_*; the headers
# compile by themselves as strict C and as C++.
set -euo pipefail
library=$1 include=$2 cc=$3 cxx=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -D --defined-only "$library" | awk '{print $NF}' | grep -v -E '^(_init|_fini|_edata|_end|__bss_start)$' | LC_ALL=C sort >"$work/exported"
grep -h '^VMOER_API' "$include"/vmoer/*.h | grep -o 'vmoer_[a-z0-9_]* *(' | tr -d ' (' | LC_ALL=C sort >"$work/declared"
[ -s "$work/declared" ] || { echo "no declaration found"; exit 1; }
diff "$work/declared" "$work/exported" || { echo "left: declared in vmoer.h; right: exported by the library"; exit 1; }
if grep -v '^vmoer_' "$work/exported"; then echo "exported under a foreign name"; exit 1; fi

for header in "$include"/vmoer/*.h; do
    echo "#include <vmoer/$(basename "$header")>" >"$work/header.c"
    cp "$work/header.c" "$work/header.cpp"
    "$cc" -std=c11 -pedantic -Wall -Wextra -Wstrict-prototypes -Werror -I"$include" -fsyntax-only "$work/header.c"
    "$cxx" -std=c++11 -pedantic -Wall -Wextra -Werror -I"$include" -fsyntax-only "$work/header.cpp"
done
echo "$(wc -l <"$work/exported") symbols"
