#!/usr/bin/env bash
# Builds the program: CMake into build/, the program at ./dino_cuda. Arguments go to CMake (e.g. -DDINO_TESTS=ON).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES

mkdir -p build
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDINO_TESTS=OFF -DDINO_BENCHMARKS=OFF "$@" >build/configure.log 2>&1 || {
  cat build/configure.log >&2
  exit 1
}
cmake --build build
version=$(./dino_cuda --version)
echo "Built ./dino_cuda (${version%%$'\n'*}; ${version#*$'\n'}). Next: ./dino_cuda init FOLDER_OF_PICTURES, or --help"
