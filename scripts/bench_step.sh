#!/usr/bin/env bash
# Measures the whole DINO training step on random crops: images per second, milliseconds per phase, peak memory.
#   ./scripts/bench_step.sh --arch vit_small --batch 4 --json
# Options are those of `./dino_cuda bench step --help`. With --pytorch, the same step runs in PyTorch afterwards, which adds a second JSON
# object. Whatever is said on the way goes to the standard error.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x ./dino_cuda ] || ./scripts/build.sh >&2

arguments=()
pytorch=no
for argument in "$@"; do
  if [ "$argument" = --pytorch ]; then pytorch=yes; else arguments+=("$argument"); fi
done
./dino_cuda bench step ${arguments[@]+"${arguments[@]}"}
if [ "$pytorch" = yes ]; then
  python3 scripts/pytorch_step.py ${arguments[@]+"${arguments[@]}"}
fi
