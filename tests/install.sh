#!/usr/bin/env bash
# install.sh BUILD_DIR SOURCE_DIR CC CXX: installs into an empty prefix, then does what a newcomer does: compiles README's first
# program through pkg-config, as C and as C++, shared and static, and asks it a question. TEST_EMULATOR runs what is
# built for another machine.
set -euo pipefail
build=$1 source=$2 cc=$3 cxx=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/usr" >"$work/log" || { cat "$work/log"; exit 1; }

awk '/^```c$/ { take = 1; next } /^```/ { if (take) exit } take' "$source/README.md" >"$work/first.c"
[ -s "$work/first.c" ] || { echo "README.md has no C program"; exit 1; }
# The header's own copy of the program is the same one.
sed -n '/^ \*     #include <vmoer\/vmoer.h>/,/^ \*     }/p' "$source/include/vmoer/vmoer.h" | sed 's/^ \*     //' | diff "$work/first.c" -
cp "$work/first.c" "$work/first.cpp"

library=$(dirname "$(find "$work/usr" -name vmoer.pc)")
export PKG_CONFIG_PATH=$library
dynamic=$(pkg-config --cflags --libs vmoer)
whole=$(pkg-config --static --cflags --libs vmoer | sed "s| -lvmoer| $(dirname "$library")/libvmoer.a|")
# shellcheck disable=SC2086
{
    "$cc" -std=c11 -Wall -Wextra -Werror "$work/first.c" -o "$work/first-c" $dynamic
    "$cxx" -std=c++11 -Wall -Wextra -Werror "$work/first.cpp" -o "$work/first-cpp" $dynamic
    "$cc" -std=c11 "$work/first.c" -o "$work/first-static" $whole
}
LD_LIBRARY_PATH=$(dirname "$library")
export LD_LIBRARY_PATH
model=$source/tests/golden/tiny-moe.gguf
run() { ${TEST_EMULATOR:-} "$@"; }
run "$work/first-c" "$model" | tee "$work/c"
run "$work/first-cpp" "$model" | diff "$work/c" -
run "$work/first-static" "$model" | diff "$work/c" -
grep -q -E '^.+ \([0-9]+%\)$' "$work/c"
unset LD_LIBRARY_PATH
run "$work/usr/bin/vmoer" --version
bash -n "$work/usr/share/bash-completion/completions/vmoer"
for file in share/man/man1/vmoer.1 include/vmoer/vmoer.h include/vmoer/vmoer_errors.h; do [ -s "$work/usr/$file" ] || { echo "$file is missing"; exit 1; }; done
