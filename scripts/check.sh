#!/usr/bin/env bash
# What a change must pass: format, lint, build, tests. --fast leaves the lint out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_TEST_PACKAGES clang-format clang-tidy
fast=${1:-}

sources=$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' '*.hpp' '*.c')
echo "format"
clang-format --dry-run --Werror $sources
./scripts/test.sh
if [ "$fast" != --fast ]; then
  echo "lint"
  git ls-files '*.cpp' | grep -v -e '^tests/' -e '^benchmarks/' -e '^examples/' | xargs -P "$(nproc)" -n 1 clang-tidy -p build --quiet
fi
