#!/usr/bin/env bash
# Fuzzes everything that reads files from elsewhere (tests/fuzz) with libFuzzer, address and undefined-behaviour sanitizer.
#   ./scripts/fuzz.sh [SECONDS] [TARGET…]      each target for so long (60), two on each core; all targets when none is named
# What is found stays in build/fuzz/found/TARGET; after mending it, its file goes to tests/fuzz/findings/TARGET, which the tests replay.
# Ends with 1 when something was found. New inputs that reach new code are kept in build/fuzz/corpus/TARGET for the next call.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_FUZZ_PACKAGES

seconds=60
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
mkdir -p build/fuzz/logs
cmake -S tests/fuzz -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER="$(command -v clang++-14 || command -v clang++)" >build/fuzz/logs/configure.log || {
  cat build/fuzz/logs/configure.log >&2
  exit 1
}
cmake --build build/fuzz >build/fuzz/logs/build.log || {
  cat build/fuzz/logs/build.log >&2
  exit 1
}
build/fuzz/make_seeds build/fuzz/seeds
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(basename -s .cpp -a tests/fuzz/targets/*.cpp))

# The targets' files lie in memory where there is such a place.
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" dino_fuzz_XXXXXX)
trap 'rm -rf "$work"' EXIT
export work seconds
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0:max_allocation_size_mb=1024 UBSAN_OPTIONS=print_stacktrace=1

run_target() {
  local name=$1 log=build/fuzz/logs/$1.log known=() options=()
  [ -x "build/fuzz/fuzz_$name" ] || { echo "fuzz.sh: there is no target $name in tests/fuzz/targets" >&2; return 1; }
  mkdir -p "build/fuzz/corpus/$name" "build/fuzz/found/$name" "$work/$name"
  [ ! -d "tests/fuzz/findings/$name" ] || known=("tests/fuzz/findings/$name")
  [ ! -f "build/fuzz/seeds/$name.dict" ] || options=("-dict=build/fuzz/seeds/$name.dict")
  # What the program prints goes to the log; limits hold for inputs of at most 64 KB.
  TMPDIR=$work/$name "build/fuzz/fuzz_$name" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1536 -malloc_limit_mb=512 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name/" ${options[@]+"${options[@]}"} \
    "build/fuzz/corpus/$name" "build/fuzz/seeds/$name" ${known[@]+"${known[@]}"} >"$log" 2>&1
  local status=$? executions edges all found
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1 | grep -o '[0-9]*' || true)
  all=$(sed -n 's/.*Loaded [0-9]* modules *(\([0-9]*\) inline.*/\1/p' "$log" | head -n 1)
  printf '%-14s %-8s %10s executions  %5s of %5s edges\n' "$name" "$([ $status -eq 0 ] && echo passed || echo FAILED)" "${executions:-?}" \
    "${edges:-?}" "${all:-?}"
  [ $status -ne 0 ] || return 0
  grep -m 1 -A 12 'ERROR\|does not hold\|runtime error\|uncaught' "$log" || tail -n 20 "$log"
  # Where only what is printed outlives the machine, the file must be in it.
  found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  [ ! -f "$found" ] || echo "base64 -d <<< $(gzip -9 <"$found" | base64 -w 0) | gunzip > found"
  return 1
}
export -f run_target
printf '%s\n' "${targets[@]}" | xargs -P $((2 * $(nproc))) -I {} bash -c 'run_target {}'
