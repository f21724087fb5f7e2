#!/usr/bin/env bash
# tests/packaging/conan.sh: `conan create .` without the network, by a profile that takes every requirement from the system
# ([platform_requires]): as the recipe is by default, and with all its options. Conan itself comes from PyPI into build/conan.
# The last line is "N passed, M failed".
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
version=2.34.0
conan=build/conan/bin/conan
if [ "$("$conan" --version 2>/dev/null)" != "Conan version $version" ]; then
  python3 -m venv build/conan && build/conan/bin/pip install -q "conan==$version" || exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CONAN_HOME=$folder/home

macro() {  # HEADER NAME: what the preprocessor makes of NAME
  printf '#include <%s>\n%s\n' "$1" "$2" | "${CXX:-c++}" -std=c++20 -E -P -x c++ - | tail -n 1 | tr -d ' "'
}
version_of() { macro "$1" "$2_VERSION_MAJOR.$2_VERSION_MINOR.$2_VERSION_PATCH"; }

"$conan" profile detect >/dev/null 2>&1 || exit 1
cat >"$folder/profile" <<PROFILE || exit 1
include(default)
[settings]
build_type=Debug
compiler.cppstd=20
[platform_requires]
zlib/$(macro zlib.h ZLIB_VERSION)
openblas/$(pkg-config --modversion openblas)
xtensor/$(version_of xtensor/xtensor_config.hpp XTENSOR)
xtensor-blas/$(version_of xtensor-blas/xblas_config.hpp XTENSOR_BLAS)
[conf]
tools.cmake.cmake_layout:test_folder=$folder/test
PROFILE
sed -n '/platform_requires/,/conf/p' "$folder/profile"

passed=0 failed=0
create() {  # NAME OPTION...
  if "$conan" create . --no-remote --profile "$folder/profile" "${@:2}" >"$folder/log" 2>&1; then
    echo "ok      conan create, $1"
    passed=$((passed + 1))
  else
    tail -n 40 "$folder/log"
    echo "FAILED  conan create, $1"
    failed=$((failed + 1))
  fi
}
create "as it is"
create "all options" -o '&:with_openblas=True' -o '&:with_xtensor=True'
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
