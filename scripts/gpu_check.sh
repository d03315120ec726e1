#!/usr/bin/env bash
# The one command for a machine with an NVIDIA GPU, from a checkout (which it builds) or from a bundle (scripts/bundle.sh):
#   the program's self-test, and every test case with the tag [device], on the GPU, against the oracles and the recordings;
#   a short training run on the CPU and on the GPU from one seed, compared step by step;
#   the speed of training from pictures on the disk; of the training step beside PyTorch's, where there is PyTorch; and of every
#   operation beside cuDNN's;
#   compute-sanitizer over the kernels' tests;
#   a table of all that, last. Logs are in gpu_check/ (the table, as far as it has come, in table.txt and, with the machine and the
#   commit, in results.json), and packed in gpu_check.tar.gz.
#   ./scripts/gpu_check.sh [--quick]     --quick leaves the benchmarks and the sanitizer out
#   ./scripts/gpu_check.sh --seconds 480 in less than the ten minutes, the build not counted
#   ./scripts/gpu_check.sh --only 'training|.*attention.*'       some stages, by the table's names
#   ./scripts/gpu_check.sh --rehearse    without a GPU: the same steps on the CPU at small sizes, to see that all of this works
#   DINO_PYTHON=/opt/torch/bin/python ./scripts/gpu_check.sh     a Python that has PyTorch
# Ends with 0 when everything passed, 1 when something failed, 77 (SKIPPED, with the reason) where there is no GPU. A stage that fails or
# hangs does not keep the others from running. What counts most comes first; what is left over of the time goes to the sanitizer.
set -uo pipefail
[ -z "${DINO_GOLDEN_DIR:-}" ] || DINO_GOLDEN_DIR=$(realpath "$DINO_GOLDEN_DIR")
cd "$(dirname "$0")/.." || exit 1
quick=no
rehearse=no
only='.*'
seconds=590
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=yes ;;
    --rehearse) rehearse=yes ;;
    --seconds) seconds=${2:-}; shift ;;
    --only) only=${2:-}; shift ;;
    *) echo "gpu_check.sh: unknown option $1; expected --quick, --seconds N, --only STAGES or --rehearse" >&2; exit 2 ;;
  esac
  shift
done
[[ $seconds =~ ^[1-9][0-9]*$ && -n $only ]] || { echo "gpu_check.sh: --seconds takes a number, --only a pattern of stages" >&2; exit 2; }
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
export DINO_GOLDEN_DIR=${DINO_GOLDEN_DIR:-$PWD/tests/golden}
[ -f "$DINO_GOLDEN_DIR/photo.jpg" ] || { echo "FAILED: there are no recordings in $DINO_GOLDEN_DIR; try DINO_GOLDEN_DIR=CHECKOUT/tests/golden"; exit 1; }
logs=$PWD/gpu_check
rm -rf "$logs" "$logs.tar.gz" && mkdir -p "$logs"

# NVIDIA's libraries that lie neither beside the program nor in a toolkit: those that PyTorch's packages bring along.
python=${DINO_PYTHON:-python3}
packaged=$(timeout 30 "$python" -c '
import glob, sysconfig
print(":".join(sorted({f for name in ("purelib", "platlib") for f in glob.glob(sysconfig.get_path(name) + "/nvidia/*/lib")})))' 2>/dev/null)
[ -z "$packaged" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$packaged

# Where this machine's C library is too old for a bundle's programs, the bundle's own is used.
start=$logs/start
if [ -d lib/glibc ] && ! ./dino_cuda --version >/dev/null 2>&1; then
  printf '#!/bin/sh\nexec "%s/lib/glibc/ld-linux-x86-64.so.2" --library-path "%s/lib:%s/lib/glibc:%s" "$@"\n' "$PWD" "$PWD" "$PWD" "${LD_LIBRARY_PATH:-}" >"$start"
else
  printf '#!/bin/sh\nexec "$@"\n' >"$start"
fi
chmod +x "$start"
"$start" ./dino_cuda --version || { echo "FAILED: the program does not start"; exit 1; }

# ------------------------------------------------------------------------------------------------------------- the machine
watcher=
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null' EXIT
# A driver that hangs must not hang this.
ask() { timeout --kill-after=5 "$@" 2>&1 </dev/null; }
card=
tests_listed=
if [ $rehearse = no ]; then
  if command -v nvidia-smi >/dev/null; then
    card=$(ask 20 nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.used,compute_cap,clocks.max.sm,power.limit --format=csv) ||
      echo "nvidia-smi fails"
    echo "$card"
  fi
  ask 90 "$start" "$tests/device_test" -# --list-tags "[device]" >"$logs/files.txt"
  tests_listed=$?
  if grep -q '^SKIPPED' "$logs/files.txt"; then
    cat "$logs/files.txt"
    exit $kSkipped
  fi
  # What the card does all the while. As long as somebody holds it, processes that come and go need not wake it up.
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu,memory.used --format=csv --loop=2 \
      >"$logs/card.csv" 2>&1 </dev/null &
    watcher=$!
  fi
fi
# On a GPU the official network and step; in a rehearsal, small ones.
export device=cuda
step=(--arch vit_small --batch 64)
step_fp32=(--arch vit_small --batch 32)
steps=(--steps 20 --warmup 5)
# As many images as a step has: kernels that take microseconds say nothing of a GPU.
operations=(--images 64)
loading=(--arch vit_small --batch_size_per_gpu 64) loading_steps=150
amp=amp compile=--compile
if [ $rehearse = yes ]; then
  device=cpu
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  step=(--arch vit_tiny --depth 1 --global_crops_size 32 --local_crops_size 16 --local_crops_number 2 --out_dim 64 --batch 2)
  step_fp32=("${step[@]}")
  steps=(--steps 2 --warmup 1)
  loading=(--arch vit_tiny --depth 1 --global_crops_size 32 --local_crops_size 16 --local_crops_number 2 --out_dim 64 --batch_size_per_gpu 2)
  loading_steps=6
  operations=(--shape tiny --repetitions 1 --seconds 0.1)
  amp=bf16 compile=
fi

# --------------------------------------------------------------------------------------------------------------- the stages
rows=()
failed=0
left() { echo $((seconds - ($(date +%s) - begin))); }
print_table() {
  echo
  printf '%-28s %-24s %7s  %s\n' stage result time detail
  printf '%s\n' "${rows[@]}"
  echo "$(($(date +%s) - begin)) s in all; logs in $logs and $logs.tar.gz"
}
# Ends what a stage has left behind: a program that waits for a GPU for ever does not heed SIGTERM. timeout leads a group of its own.
child=
end_stage() { [ -z "$child" ] || kill -KILL -- "-$child" 2>/dev/null; child=; }
pack_logs() { tar -czf "$logs.tar.gz" -C "$(dirname "$logs")" "$(basename "$logs")" 2>/dev/null; }
trap 'end_stage; print_table; pack_logs; echo "FAILED: stopped"; exit 1' INT TERM
# Text as JSON has it.
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\010\013-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' | paste -sd ' ' | { iconv -c -f UTF-8 -t UTF-8 2>/dev/null || cat; })"; }
commit=$(cat COMMIT 2>/dev/null || git rev-parse HEAD 2>/dev/null)
version=$("$start" ./dino_cuda --version | head -n 1)
results=()
# The table for programs to read, after each row anew: it is there also where this script is killed.
write_results() {
  {
    printf '{\n  "version": %s,\n  "commit": %s,\n' "$(quoted "$version")" "$(quoted "$commit")"
    printf '  "device": %s,\n  "card": %s,\n' "$(quoted "$(sed -n 's/^On //p' "$logs/files.txt" 2>/dev/null)")" \
      "$(quoted "$(printf '%s' "$card" | tail -n 1)")"
    printf '  "date": "%s",\n  "seconds": %d,\n  "rehearsal": %s,\n  "rows": [\n' "$(date -u +%FT%TZ)" $(($(date +%s) - begin)) \
      "$([ $rehearse = yes ] && echo true || echo false)"
    local i
    for ((i = 0; i < ${#results[@]}; i++)); do
      printf '    %s%s\n' "${results[i]}" "$([ $i -lt $((${#results[@]} - 1)) ] && echo ,)"
    done
    printf '  ]\n}\n'
  } >"$logs/results.json.new" && mv "$logs/results.json.new" "$logs/results.json"
}
# add_row STAGE RESULT SECONDS DETAIL
add_row() {
  rows+=("$(printf '%-28s %-24s %5d s  %s' "$@")")
  echo "${rows[-1]}"
  echo "${rows[-1]}" >>"$logs/table.txt"
  local numbers='' key value
  for key in images_per_second ahead_images_per_second step_ms peak_memory_bytes; do
    value=$(number "$1" $key)
    [ -z "$value" ] || numbers+=", \"$key\": $value"
  done
  results+=("{\"stage\": $(quoted "$1"), \"result\": $(quoted "$2"), \"seconds\": $3, \"detail\": $(quoted "$4")$numbers}")
  write_results
}
# A number of a report in JSON.
number() { sed -n "s/.*\"$2\": *\([0-9.eE+-]*\).*/\1/p" "$logs/$1.log" 2>/dev/null | tail -n 1; }
# stage NAME SECONDS COMMAND…: runs it with a time limit, its output in a log; the last line of the log, or what detail_NAME makes of
# it, goes to the table. Where stages ran over their limits one after the other, the GPU answers no more: from then on each gets
# little time, until one ends by itself.
over_in_a_row=0
stage() {
  local name=$1 limit=$2 log=$logs/$1.log began status result detail
  [[ $name =~ ^($only)$ ]] || return 0
  shift 2
  began=$(date +%s)
  [ $over_in_a_row -lt 2 ] || [ "$limit" -lt 20 ] || limit=20
  [ "$limit" -lt "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    add_row "$name" "SKIPPED" 0 "the time is over"
    return
  fi
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null &
  child=$!
  wait $child
  status=$?
  end_stage
  # Killed, because it did not heed the first signal.
  if [ $status -eq 137 ] && [ $(($(date +%s) - began)) -ge "$limit" ]; then status=124; fi
  if [ $status -ne 124 ]; then
    over_in_a_row=0
  elif [[ $name != *check ]]; then
    over_in_a_row=$((over_in_a_row + 1))
  fi
  case $status in
    0) result=passed ;;
    "$kSkipped") result=SKIPPED ;;
    124)
      # The sanitizers' speed depends on the card; what they have seen until then counts.
      if [[ $name = *check ]] && ! grep -q '^=========.*\(Invalid\|Race reported\|hazard\|Error: \)' "$log"; then
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
  add_row "$name" "$result" $(($(date +%s) - began)) "${detail:0:100}"
}

# What a report of a step says.
detail_step() {
  local rate ahead memory
  rate=$(number "$1" images_per_second) ahead=$(number "$1" ahead_images_per_second) memory=$(number "$1" peak_memory_bytes)
  if [ -n "$rate" ] && [ -n "$memory" ]; then
    awk -v rate="$rate" -v ahead="$ahead" -v memory="$memory" 'BEGIN {
      printf "%.1f images/s, %s%.2f GiB at most\n", rate, (ahead > 0 ? sprintf("%.1f in a row, ", ahead) : ""), memory / 2^30 }'
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

stage selftest 90 "$start" ./dino_cuda selftest --device "$device"
# The number that all of this is for, as soon as the kernels are right.
bench=("$start" ./dino_cuda bench step --device "$device" --json "${steps[@]}")
if [ "$quick" = no ]; then stage step_bf16 60 "${bench[@]}" "${step[@]}" --precision bf16; fi

# One photograph many times: the crops differ. The same seed, so the same crops, weights and draws; fp32, so that the two differ by
# the order of their sums alone.
compare_training() {
  local run work=$logs/training
  rm -rf "$work" && mkdir -p "$work"
  for _ in $(seq 64); do echo "$DINO_GOLDEN_DIR/photo.jpg"; done >"$work/pictures.txt"
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
export logs start python
stage training 120 bash -c compare_training

if [ $rehearse = no ]; then
  # A process for each file of tests: after an access to wrong addresses a process can do nothing more on the GPU.
  files=$(grep -o '\[#[a-z0-9_]*\]' "$logs/files.txt" | tr -d '[#]' | sort -u)
  if [ -z "$files" ]; then
    stage device_test 10 sh -c "tail -n 5 '$logs/files.txt'; echo it lists no tests, status $tests_listed; exit 1"
  fi
  for file in $files; do
    stage "$file" 60 "$start" "$tests/device_test" -# -w NoTests "[#$file][device]"
  done
fi

# Training as it is meant to be: from pictures on the disk, decoded and cut as it runs. One photograph again, as large as ImageNet's
# are on average where Python can make it so. No step before the third quarter counts.
train_from_disk() {
  local work=$logs/from_disk photo=$DINO_GOLDEN_DIR/photo.jpg images=$(($1 * $2)) counted=$(($2 / 4 + 1))
  shift 2
  rm -rf "$work" && mkdir -p "$work"
  "$python" -c 'import sys; from PIL import Image; Image.open(sys.argv[1]).resize((500, 375)).save(sys.argv[2], quality=90)' \
    "$photo" "$work/photo.jpg" 2>/dev/null && photo=$work/photo.jpg
  for _ in $(seq $images); do echo "$photo"; done >"$work/pictures.txt"
  "$start" ./dino_cuda train --data_path "$work/pictures.txt" --output_dir "$work/run" --device "$device" --precision bf16 --epochs 1 \
    --warmup_epochs 0 --warmup_teacher_temp_epochs 0 --saveckp_freq 0 --health_images 0 --report_every 0 "$@" || return 1
  mv "$work/run/log.jsonl" "$logs/from_disk.jsonl"
  rm -rf "$work"
  sed -n 's/.*"images_per_second": *\([0-9.eE+-]*\).*"data_wait_share": *\([0-9.eE+-]*\).*/\1 \2/p' "$logs/from_disk.jsonl" |
    tail -n $counted | sort -g | awk -v photo="$(basename "$(dirname "$photo")")" '
      { rate[NR] = $1; wait += $2 }
      END { if (NR == 0) { print "no step in the log"; exit 1 }
            printf "%.1f images/s from the disk, %.0f %% of the time waiting for data, pictures of %s pixels\n", rate[int((NR + 1) / 2)],
              100 * wait / NR, photo == "from_disk" ? "500 x 375" : "200 x 150" }'
}
export -f train_from_disk
if [ "$quick" = no ]; then stage from_disk 90 bash -c 'train_from_disk "$@"' - "${loading[-1]}" $loading_steps "${loading[@]}"; fi

# pytorch NAME SECONDS OPTION…: PyTorch's step.
pytorch() {
  local name=$1 limit=$2
  shift 2
  # shellcheck disable=SC2016
  stage "$name" "$limit" bash -c '
    "$0" -c "import sys, torch; sys.exit(2 if sys.argv[1] == \"cuda\" and not torch.cuda.is_available() else 0)" "$device"
    case $? in
      0) exec "$0" scripts/pytorch_step.py --device "$device" "$@" ;;
      2) echo "this PyTorch has no CUDA" ;;
      *) echo "no PyTorch: $0 -c \"import torch\" fails; try DINO_PYTHON=PROGRAM" ;;
    esac
    exit 77' "$python" "$@"
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

sanitizer=""
for candidate in compute-sanitizer/compute-sanitizer "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer; do
  if [ -n "$candidate" ] && [ -x "$candidate" ]; then
    sanitizer=$candidate
    break
  fi
done
# sanitize TOOL SECONDS: the kernels' tests and small networks under compute-sanitizer. Those of the back end make a million calls.
sanitize() {
  if [ $rehearse = yes ]; then
    stage "$1" 10 sh -c "echo this is a rehearsal; exit $kSkipped"
  elif [ -n "$sanitizer" ]; then
    # Errors that calls return are the program's business, and some tests provoke them.
    stage "$1" "$2" "$start" "$sanitizer" --tool "$1" --error-exitcode 1 --report-api-errors no --target-processes all \
      "$tests/device_test" -# -w NoTests "[device]~[#cuda_stream_test]~[#nccl_step_test]"
  else
    stage "$1" 10 sh -c "echo compute-sanitizer is not installed; exit $kSkipped"
  fi
}

if [ "$quick" = no ]; then
  stage step_fp32 60 "${bench[@]}" "${step_fp32[@]}" --precision fp32
  # The sums of the gradients over one rank, within the graph of the step.
  if [ $rehearse = no ]; then stage step_nccl 60 "${bench[@]}" "${step[@]}" --precision bf16 --communicator nccl; fi
  pytorch pytorch_eager 60 "${step[@]}" "${steps[@]}" --precision $amp
  pytorch pytorch_compiled 150 "${step[@]}" "${steps[@]}" --precision bf16 --attention sdpa $compile
  export -f number compare_steps
  export kSkipped
  stage comparison 10 bash -c compare_steps
  stage operations 150 "$start" ./dino_cuda bench --device "$device" "${operations[@]}" --json "$logs/operations.json"
  # A library's wrong access ends the use of the GPU for the whole process.
  if [ ! -s "$logs/operations.json" ] && [[ operations =~ ^($only)$ ]]; then
    stage operations_alone 60 "$start" ./dino_cuda bench --device "$device" "${operations[@]}" --alone --json "$logs/operations.json"
  fi
  sanitize memcheck 90
  sanitize racecheck 120
fi

# ---------------------------------------------------------------------------------------------------------------- the table
for log in "$logs/operations.log" "$logs/operations_alone.log"; do
  if [ -s "$log" ]; then
    echo
    cat "$log"
  fi
done
print_table
pack_logs
[ $failed -eq 0 ] && echo "PASSED" || echo "FAILED"
exit $failed
