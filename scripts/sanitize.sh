#!/usr/bin/env bash
# Builds the tests with sanitizers and passes them: nothing may be read or written out of bounds, used after its end, overflow, leak, or be
# touched by two threads at once.
#   ./scripts/sanitize.sh [asan|tsan] [TEST…]     asan (address, undefined behaviour and leaks) when none is named
# TEST is a test program such as data_loader_test; all of them when none is named.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_TEST_PACKAGES

preset=asan
case "${1:-}" in
  asan | tsan) preset=$1; shift ;;
esac
build=build/$preset
mkdir -p "$build"
cmake --preset "$preset" -DDINO_BENCHMARKS=OFF -DDINO_CUDA=OFF >"$build/configure.log" || {
  cat "$build/configure.log" >&2
  exit 1
}
# The program itself is built as well, where tests run it.
cmake --build "$build" ${@:+--target "$@"}
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
# GCC's OpenMP is not compiled for the thread sanitizer, which therefore does not see its barriers: one thread computes, so that what is
# left are our own threads (loader, signals, progress).
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
[ "$preset" = asan ] || export OMP_NUM_THREADS=1
filter=()
[ $# -eq 0 ] || filter=(-R "^($(IFS='|'; echo "$*")): ")
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} ctest --test-dir "$build" --output-on-failure --no-tests=error --timeout 1800 "${filter[@]}"
