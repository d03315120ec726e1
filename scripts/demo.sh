#!/usr/bin/env bash
# From nothing to attention maps: builds, draws labelled scenes from Debian's pictures, trains a small vision transformer on them
# without labels, compares it with raw pixels and with an untrained network on new scenes, and draws where it looks.
#   ./scripts/demo.sh                  everything; a second call goes on where the first one stopped
#   ./scripts/demo.sh --epochs 3       options go to `dino_cuda train`
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_DEMO_PACKAGES
./scripts/build.sh

scenes=data_sets/scenes
run=runs/scenes
[ -d "$scenes" ] || ./dino_cuda data scenes --out "$scenes"

resume=()
if [ -f "$run/last.safetensors" ] || [ -f "$run/previous.safetensors" ]; then resume=(--resume); fi
./dino_cuda train configs/scenes.toml --data_path "$scenes/train" --output_dir "$run" "${resume[@]}" "$@"

./dino_cuda eval scenes --weights "$run/last.safetensors" --data "$scenes" --image-size 96 | tee "$run/evaluation.txt"
./dino_cuda attention "$scenes"/test/*/000.png --limit 12 --weights "$run/last.safetensors" --image-size 96 --output "$run/attention"
echo "Pictures of where it looks: $run/attention"
