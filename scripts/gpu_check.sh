#!/usr/bin/env bash
# The one command for a machine with an NVIDIA GPU, from a checkout (which it builds) or from a bundle (scripts/bundle.sh):
#   every test case with the tag [device] on the GPU, against the oracles and the recordings;
#   a short training run on the CPU and on the GPU from one seed, compared step by step;
#   the speed of the training step beside PyTorch's, where there is PyTorch, and of every operation beside cuDNN's;
#   compute-sanitizer over the kernels' tests;
#   a table of all that, last. Logs are in gpu_check/.
#   ./scripts/gpu_check.sh [--quick]     --quick leaves the benchmarks and the sanitizer out
#   ./scripts/gpu_check.sh --rehearse    without a GPU: the same steps on the CPU at small sizes, to see that all of this works
#   DINO_PYTHON=/opt/torch/bin/python ./scripts/gpu_check.sh     a Python that has PyTorch
# Ends with 0 when everything passed, 1 when something failed, 77 (SKIPPED, with the reason) where there is no GPU. Takes at most ten
# minutes after the build; what is left over of them goes to the sanitizer.
set -uo pipefail
cd "$(dirname "$0")/.."
quick=no
rehearse=no
for argument in "$@"; do
  case "$argument" in
    --quick) quick=yes ;;
    --rehearse) rehearse=yes ;;
    *) echo "gpu_check.sh: unknown option $argument; expected --quick or --rehearse" >&2; exit 2 ;;
  esac
done
readonly kSkipped=77
begin=$(date +%s)

if [ $rehearse = yes ]; then
  tests=.
elif [ -f CMakeLists.txt ]; then
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
rm -rf "$logs" && mkdir -p "$logs"

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
if [ $rehearse = no ]; then
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.used,compute_cap,clocks.max.sm,power.limit --format=csv ||
      echo "nvidia-smi fails"
  fi
  "$start" "$tests/device_test" -# --list-tags "[device]" >"$logs/files.txt" 2>&1
  if grep -q '^SKIPPED' "$logs/files.txt"; then
    cat "$logs/files.txt"
    exit $kSkipped
  fi
fi
# On a GPU the official network and step; in a rehearsal, small ones.
export device=cuda
step=(--arch vit_small --batch 64)
step_fp32=(--arch vit_small --batch 32)
steps=(--steps 20 --warmup 5)
operations=()
amp=amp compile=--compile
if [ $rehearse = yes ]; then
  device=cpu
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  step=(--arch vit_tiny --depth 1 --global_crops_size 32 --local_crops_size 16 --local_crops_number 2 --out_dim 64 --batch 2)
  step_fp32=("${step[@]}")
  steps=(--steps 2 --warmup 1)
  operations=(--shape tiny --repetitions 1 --seconds 0.1)
  amp=bf16 compile=
fi

# --------------------------------------------------------------------------------------------------------------- the stages
rows=()
failed=0
left() { echo $((590 - ($(date +%s) - begin))); }
print_table() {
  echo
  printf '%-28s %-24s %7s  %s\n' stage result time detail
  printf '%s\n' "${rows[@]}"
  echo "$(($(date +%s) - begin)) s in all; logs in $logs"
}
child=
trap 'kill $child 2>/dev/null; print_table; echo "FAILED: stopped"; exit 1' INT TERM
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
  timeout "$limit" "$@" >"$log" 2>&1 &
  child=$!
  wait $child
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

if [ $rehearse = no ]; then
  # A process for each file of tests: after an access to wrong addresses a process can do nothing more on the GPU.
  files=$(grep -o '\[#[a-z0-9_]*\]' "$logs/files.txt" | tr -d '[#]' | sort -u)
  [ -n "$files" ] || { echo "FAILED: device_test lists no tests"; exit 1; }
  for file in $files; do
    stage "$file" 120 "$start" "$tests/device_test" -# -w NoTests "[#$file][device]"
  done
fi

# One photograph many times: the crops differ. The same seed, so the same crops, weights and draws; fp32, so that the two differ by
# the order of their sums alone.
compare_training() {
  local run work=$logs/training
  rm -rf "$work" && mkdir -p "$work"
  for _ in $(seq 64); do echo "$PWD/tests/golden/photo.jpg"; done >"$work/pictures.txt"
  for run in cpu cuda; do
    "$start" ./dino_cuda train --data_path "$work/pictures.txt" --output_dir "$work/$run" \
      --device "$([ $run = cpu ] && echo cpu || echo "$device")" --precision fp32 \
      --arch vit_tiny --patch_size 8 --embed_dim 96 --num_heads 3 --depth 3 --global_crops_size 48 --local_crops_size 24 \
      --local_crops_number 4 --out_dim 2048 --head_hidden_dim 256 --batch_size_per_gpu 8 --epochs 3 --warmup_epochs 1 --lr 0.002 \
      --seed 7 || return 1
    sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$work/$run/log.jsonl" >"$work/$run.txt"
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

# A number of a report in JSON.
number() { sed -n "s/.*\"$2\": *\([0-9.eE+-]*\).*/\1/p" "$logs/$1.log" 2>/dev/null | tail -n 1; }
# What a report of a step says.
detail_step() {
  local rate memory
  rate=$(number "$1" images_per_second) memory=$(number "$1" peak_memory_bytes)
  if [ -n "$rate" ] && [ -n "$memory" ]; then
    awk -v rate="$rate" -v memory="$memory" 'BEGIN { printf "%.1f images/s, %.2f GiB at most\n", rate, memory / 2^30 }'
  else
    grep -v '^[[:space:]=]*$' "$logs/$1.log" | tail -n 1
  fi
}
detail_step_bf16() { detail_step step_bf16; }
detail_step_fp32() { detail_step step_fp32; }
detail_step_nccl() {
  printf '%s' "$(detail_step step_nccl)"
  awk -v with="$(number step_nccl step_ms)" -v without="$(number step_bf16 step_ms)" \
    'BEGIN { if (with > 0 && without > 0) printf ", %.3f times the time without NCCL\n", with / without; else print "" }'
}
detail_pytorch_eager() { detail_step pytorch_eager; }
detail_pytorch_compiled() { detail_step pytorch_compiled; }
# pytorch NAME SECONDS OPTION…: PyTorch's step.
pytorch() {
  local name=$1 limit=$2
  shift 2
  # shellcheck disable=SC2016
  stage "$name" "$limit" bash -c '
    if ! "$0" -c "import torch" 2>/dev/null; then
      echo "no PyTorch: $0 -c \"import torch\" fails; try DINO_PYTHON=PROGRAM"
      exit 77
    fi
    if [ "$device" = cuda ] && ! "$0" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
      echo "this PyTorch has no CUDA"
      exit 77
    fi
    exec "$0" scripts/pytorch_step.py --device "$device" "$@"' "${DINO_PYTHON:-python3}" "$@"
}
# How many times as fast as PyTorch, and with which part of its memory.
compare_steps() {
  local name found=$kSkipped
  for name in eager compiled; do
    if [ -z "$(number "pytorch_$name" images_per_second)" ] || [ -z "$(number step_bf16 images_per_second)" ]; then
      printf 'no times of both for %s; ' "$name"
      continue
    fi
    found=0
    awk -v ours="$(number step_bf16 images_per_second)" -v theirs="$(number pytorch_$name images_per_second)" \
      -v our_memory="$(number step_bf16 peak_memory_bytes)" -v their_memory="$(number pytorch_$name peak_memory_bytes)" -v name="$name" \
      'BEGIN { printf "%.2f times %s with %.2f of its memory; ", ours / theirs, name, our_memory / their_memory }'
  done
  echo
  return $found
}
# The rows beside cuDNN.
detail_operations() {
  grep -o '×[0-9.]* cuDNN' "$1" | tr -d '×' | awk '
    { rows++; if ($1 + 0 >= 1) ahead++ }
    END { if (rows > 0) printf "%d rows beside cuDNN, ahead of it in %d\n", rows, ahead; else print "no row beside cuDNN" }'
}

if [ "$quick" = no ]; then
  bench=("$start" ./dino_cuda bench step --device "$device" --json "${steps[@]}")
  stage step_bf16 60 "${bench[@]}" "${step[@]}" --precision bf16
  stage step_fp32 60 "${bench[@]}" "${step_fp32[@]}" --precision fp32
  # The sums of the gradients over one rank, within the graph of the step.
  if [ $rehearse = no ]; then stage step_nccl 60 "${bench[@]}" "${step[@]}" --precision bf16 --communicator nccl; fi
  pytorch pytorch_eager 60 "${step[@]}" "${steps[@]}" --precision $amp
  stage operations 150 "$start" ./dino_cuda bench --device "$device" "${operations[@]}" --json "$logs/operations.json"
  # A library's wrong access ends the use of the GPU for the whole process.
  if [ ! -s "$logs/operations.json" ]; then
    stage operations_alone 60 "$start" ./dino_cuda bench --device "$device" "${operations[@]}" --alone --json "$logs/operations.json"
  fi
  pytorch pytorch_compiled 150 "${step[@]}" "${steps[@]}" --precision bf16 --attention sdpa $compile
  export -f number compare_steps
  export kSkipped
  stage comparison 10 bash -c compare_steps

  sanitizer=""
  for candidate in compute-sanitizer/compute-sanitizer "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      sanitizer=$candidate
      break
    fi
  done
  for tool in memcheck racecheck; do
    if [ $rehearse = yes ]; then
      stage $tool 10 sh -c "echo this is a rehearsal; exit $kSkipped"
    elif [ -n "$sanitizer" ]; then
      # Errors that calls return are the program's business, and some tests provoke them.
      stage $tool 120 "$start" "$sanitizer" --tool $tool --error-exitcode 1 --report-api-errors no --target-processes all \
        "$tests/device_test" -w NoTests "[device]"
    else
      stage $tool 10 sh -c "echo compute-sanitizer is not installed; exit $kSkipped"
    fi
  done
fi

# ---------------------------------------------------------------------------------------------------------------- the table
for log in "$logs/operations.log" "$logs/operations_alone.log"; do
  if [ -s "$log" ]; then
    echo
    cat "$log"
  fi
done
print_table
[ $failed -eq 0 ] && echo "PASSED" || echo "FAILED"
exit $failed
