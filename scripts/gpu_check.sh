#!/usr/bin/env bash
# The one command for a machine with an NVIDIA GPU, from a checkout (which it builds) or from a bundle (scripts/bundle.sh):
#   every test case with the tag [device] on the GPU, against the oracles and the recordings;
#   a short training run on the CPU and on the GPU from one seed, compared step by step;
#   compute-sanitizer over the kernels' tests;
#   the speed of the training step and of every operation;
#   a table of all that, last. Logs are in gpu_check/.
#   ./scripts/gpu_check.sh [--quick]     --quick leaves the sanitizer and the benchmarks out
# Ends with 0 when everything passed, 1 when something failed, 77 (SKIPPED, with the reason) where there is no GPU. Takes at most ten
# minutes after the build.
set -uo pipefail
cd "$(dirname "$0")/.."
quick=no
for argument in "$@"; do
  case "$argument" in
    --quick) quick=yes ;;
    *) echo "gpu_check.sh: unknown option $argument; expected --quick" >&2; exit 2 ;;
  esac
done
readonly kSkipped=77
begin=$(date +%s)

if [ -f CMakeLists.txt ]; then
  # Before the long build; the program itself says more.
  if ! command -v nvidia-smi >/dev/null && ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
    echo "SKIPPED: there is no NVIDIA driver here (neither nvidia-smi nor libcuda.so.1)"
    exit $kSkipped
  fi
  [ -x /usr/local/cuda/bin/nvcc ] && export PATH=$PATH:/usr/local/cuda/bin
  if ! command -v nvcc >/dev/null; then
    echo "SKIPPED: there is no CUDA toolkit (nvcc) to build with; try a bundle (scripts/bundle.sh)"
    exit $kSkipped
  fi
  ./scripts/build.sh -DDINO_TESTS=ON -DDINO_BENCHMARKS=ON -DDINO_CUDA=ON || exit 1
  tests=build/tests/device
  begin=$(date +%s)
else
  tests=.
fi
export DINO_GOLDEN_DIR=$PWD/tests/golden
logs=$PWD/gpu_check
mkdir -p "$logs"

# Where this machine's C library is too old for a bundle's programs, the bundle's own is used.
start=$logs/start
if [ -d lib/glibc ] && ! ./dino_cuda --version >/dev/null 2>&1; then
  printf '#!/bin/sh\nexec "%s/lib/glibc/ld-linux-x86-64.so.2" --library-path "%s/lib:%s/lib/glibc" "$@"\n' "$PWD" "$PWD" "$PWD" >"$start"
else
  printf '#!/bin/sh\nexec "$@"\n' >"$start"
fi
chmod +x "$start"
"$start" ./dino_cuda --version || { echo "FAILED: the program does not start"; exit 1; }

# ------------------------------------------------------------------------------------------------------------- the machine
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.used,compute_cap,clocks.max.sm,power.limit --format=csv ||
    echo "nvidia-smi fails"
fi
"$start" "$tests/device_test" -# --list-tags "[device]" >"$logs/files.txt" 2>&1
if grep -q '^SKIPPED' "$logs/files.txt"; then
  cat "$logs/files.txt"
  exit $kSkipped
fi

# --------------------------------------------------------------------------------------------------------------- the stages
rows=()
failed=0
left() { echo $((590 - ($(date +%s) - begin))); }
# stage NAME SECONDS COMMAND…: runs it with a time limit, its output in a log; the last line of the log, or what detail_NAME makes of
# it, goes to the table.
stage() {
  local name=$1 limit=$2 log=$logs/$1.log began status result detail
  shift 2
  began=$(date +%s)
  [ "$limit" -lt "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    rows+=("$(printf '%-28s %-24s %5d s  %s' "$name" "SKIPPED" 0 "the ten minutes are over")")
    return
  fi
  timeout "$limit" "$@" >"$log" 2>&1
  status=$?
  case $status in
    0) result=passed ;;
    "$kSkipped") result=SKIPPED ;;
    124)
      # The sanitizers' speed depends on the card; what they have seen until then counts.
      if [[ $name = *check ]] && ! grep -q 'Invalid\|Race reported\|hazard\|Error: ' "$log"; then
        result="clean for $limit s"
      else
        result="FAILED, over $limit s"
      fi
      ;;
    *) result="FAILED, status $status" ;;
  esac
  if [[ $result = FAILED* ]]; then
    failed=1
    tail -n 40 "$log"
  fi
  if declare -F "detail_$name" >/dev/null; then
    detail=$("detail_$name" "$log")
  else
    detail=$(grep -v '^[[:space:]=]*$' "$log" | tail -n 1)
  fi
  rows+=("$(printf '%-28s %-24s %5d s  %s' "$name" "$result" $(($(date +%s) - began)) "${detail:0:100}")")
  echo "${rows[-1]}"
}

# A process for each file of tests: after an access to wrong addresses a process can do nothing more on the GPU.
files=$(grep -o '\[#[a-z0-9_]*\]' "$logs/files.txt" | tr -d '[#]' | sort -u)
[ -n "$files" ] || { echo "FAILED: device_test lists no tests"; exit 1; }
for file in $files; do
  stage "$file" 120 "$start" "$tests/device_test" -# -w NoTests "[#$file][device]"
done

# One photograph many times: the crops differ. The same seed, so the same crops, weights and draws; fp32, so that the two differ by
# the order of their sums alone.
compare_training() {
  local device work=$logs/training
  rm -rf "$work" && mkdir -p "$work"
  for _ in $(seq 64); do echo "$PWD/tests/golden/photo.jpg"; done >"$work/pictures.txt"
  for device in cpu cuda; do
    "$start" ./dino_cuda train --data_path "$work/pictures.txt" --output_dir "$work/$device" --device $device --precision fp32 \
      --arch vit_tiny --patch_size 8 --embed_dim 96 --num_heads 3 --depth 3 --global_crops_size 48 --local_crops_size 24 \
      --local_crops_number 4 --out_dim 2048 --head_hidden_dim 256 --batch_size_per_gpu 8 --epochs 3 --warmup_epochs 1 --lr 0.002 \
      --seed 7 || return 1
    sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$work/$device/log.jsonl" >"$work/$device.txt"
  done
  # The runs part slowly, as any two that round differently. A wrong gradient shows in the first steps.
  paste "$work/cpu.txt" "$work/cuda.txt" | awk '
    NF != 2 || $1 + 0 <= 0 || $2 + 0 <= 0 { printf "step %d: not two losses: %s\n", NR - 1, $0; bad = 1; next }
    { apart = ($2 - $1) / $1; if (apart < 0) apart = -apart
      printf "step %2d: CPU %.6f, GPU %.6f, apart by %.1e\n", NR - 1, $1, $2, apart
      if (apart > largest) largest = apart
      if (!(apart <= (NR <= 8 ? 1e-4 : 1e-2))) bad = 1 }
    END { if (NR != 24) { printf "expected 24 steps; got %d\n", NR; bad = 1 }
          printf "%d steps on CPU and GPU, losses apart by at most %.1e\n", NR, largest; exit bad }'
}
export -f compare_training
export logs start
stage training 120 bash -c compare_training

if [ "$quick" = no ]; then
  detail_step() { sed -n 's/.*"images_per_second": *\([0-9.]*\).*/\1 images\/s/p' "$1" | tail -n 1; }
  detail_step_fp32() { detail_step "$1"; }
  bench=("$start" ./dino_cuda bench step --device cuda --arch vit_small --json)
  stage step 60 "${bench[@]}" --batch 64 --steps 20 --warmup 5
  stage step_fp32 60 "${bench[@]}" --batch 32 --precision fp32 --steps 10 --warmup 3

  if "$start" ./dino_cuda bench --help 2>&1 | grep -q -e '--device'; then
    stage operations 150 "$start" ./dino_cuda bench --device cuda --json "$logs/operations.json"
  fi

  sanitizer=""
  for candidate in compute-sanitizer/compute-sanitizer "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      sanitizer=$candidate
      break
    fi
  done
  for tool in memcheck racecheck; do
    if [ -n "$sanitizer" ]; then
      # Errors that calls return are the program's business, and some tests provoke them.
      stage $tool 120 "$start" "$sanitizer" --tool $tool --error-exitcode 1 --report-api-errors no --target-processes all \
        "$tests/device_test" -w NoTests "[device]"
    else
      stage $tool 10 sh -c "echo compute-sanitizer is not installed; exit $kSkipped"
    fi
  done
fi

# ---------------------------------------------------------------------------------------------------------------- the table
echo
printf '%-28s %-24s %7s  %s\n' stage result time detail
printf '%s\n' "${rows[@]}"
echo "$(($(date +%s) - begin)) s in all; logs in $logs"
[ $failed -eq 0 ] && echo "PASSED" || echo "FAILED"
exit $failed
