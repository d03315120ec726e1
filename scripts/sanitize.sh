#!/usr/bin/env bash
# Builds the tests with sanitizers and passes them: nothing may be read or written out of bounds, used after its end, overflow, leak, or be
# touched by two threads at once.
#   ./scripts/sanitize.sh [asan|tsan] [TEST…]     asan (address, undefined behaviour and leaks) when none is named
# TEST is a test program such as data_loader_test; `ci` stands for those that CI runs; all of them when none is named.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_TEST_PACKAGES

# What CI runs of the thread sanitizer's: where threads of our own are. The fuzzer and tests/simt run the address sanitizer there.
ci="data_loader_test data_data_faults_test data_survey_test engine_communicators_test engine_gradient_sums_test engine_progress_test train_ranks_test"

preset=asan
case "${1:-}" in
  asan | tsan) preset=$1; shift ;;
esac
[ "${1:-}" != ci ] || set -- $ci
build=build/$preset
mkdir -p "$build"

export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
run=()
if [ "$preset" = tsan ]; then
  need_packages $DINO_TSAN_PACKAGES
  # GCC's OpenMP is not compiled for the thread sanitizer, which therefore sees none of its barriers. LLVM's has the same functions, and a
  # tool, Archer, that tells the sanitizer of them: it stands in for GCC's, also in oneDNN. Where it is not to be had one thread computes,
  # so that what is left are threads of our own (loader, ranks, signals, progress).
  llvm=$(dirname "$(ls /usr/lib/llvm-*/lib/libarcher.so 2>/dev/null | sort -V | tail -n 1)")
  if [ -e "$llvm/libarcher.so" ] && [ -e "$llvm/libomp.so.5" ]; then
    mkdir -p "$build/openmp"
    ln -sf "$llvm/libomp.so.5" "$build/openmp/libgomp.so.1"
    openmp=(LD_LIBRARY_PATH="$PWD/$build/openmp${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_TOOL_LIBRARIES="$llvm/libarcher.so")
  else
    echo "sanitize.sh: there is no libarcher.so of LLVM's OpenMP; one thread computes"
    export OMP_NUM_THREADS=1
  fi
  # GCC 12's thread sanitizer does not know every place at which newer kernels put libraries.
  if setarch -R true 2>/dev/null; then run=(setarch -R); fi
fi

cmake --preset "$preset" -DDINO_BENCHMARKS=OFF -DDINO_CUDA=OFF >"$build/configure.log" || {
  cat "$build/configure.log" >&2
  exit 1
}
# What is left out, and why.
grep -o 'Left out.*' "$build/configure.log" || true
# The program itself is built as well, where tests run it.
${run[@]+"${run[@]}"} cmake --build "$build" --parallel "$(nproc)" ${@:+--target "$@"}
filter=()
[ $# -eq 0 ] || filter=(-R "^($(IFS='|'; echo "$*")):")
${run[@]+"${run[@]}"} env ${openmp[@]+"${openmp[@]}"} ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" "${filter[@]}"
