#!/usr/bin/env bash
# What vaelib costs a compiler at -O2: the seconds that `#include <vaelib/vae.hpp>` and README's first program take
# beyond a file of the same standard headers. User time, the least of several interleaved rounds.
# usage: bench/compile_time.sh [rounds: 5]      CXX names the compiler (c++).
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
compiler=${CXX:-c++}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

printf '#include <vaelib/vae.hpp>\nint main() {}\n' >"$folder/include.cpp"
awk '/^```cpp/ { inside = 1; next } /^```/ && inside { exit } inside' README.md >"$folder/program.cpp"
# the standard headers that the headers of vae.hpp name
"$compiler" -std=c++20 -I include -MM "$folder/include.cpp" | grep -o 'include/vaelib/[^ ]*' |
  xargs grep -hoE '^#include <[a-z_]+(\.h)?>' | sort -u >"$folder/standard.cpp"
echo 'int main() {}' >>"$folder/standard.cpp"

TIMEFORMAT=%U
for _ in $(seq "$rounds"); do
  for file in standard include program; do
    { time "$compiler" -std=c++20 -O2 -I include -c "$folder/$file.cpp" -o "$folder/$file.o"; } 2>>"$folder/$file.seconds"
  done
done
least() { sort -n "$folder/$1.seconds" | head -n 1; }
"$compiler" --version | head -n 1
for file in standard include program; do
  awk -v name="$file" -v took="$(least "$file")" -v base="$(least standard)" \
    'BEGIN { printf "%-9s %6.2f s  +%.2f s\n", name, took, took - base }'
done
