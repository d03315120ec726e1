#!/usr/bin/env bash
# Makes a folder that runs on another machine: one with an NVIDIA driver, and with neither the toolkit nor a package registry.
#   ./scripts/bundle.sh                  build/bundle/dino_cuda-VERSION/
#   ./scripts/bundle.sh --tar            and a .tar.xz of it
#   ./scripts/bundle.sh --no-cublas      leaves cuBLASLt out (half a gigabyte), for machines that have it
#   ./scripts/bundle.sh --no-cudnn       leaves cuDNN out (half a gigabyte): `dino_cuda bench` then compares with what the machine has
#   ./scripts/bundle.sh --no-nvidia      leaves out all of NVIDIA's, for machines with a toolkit, or with PyTorch and its packages
#   ./scripts/bundle.sh --no-recordings  leaves out what the tests compare with: there, DINO_GOLDEN_DIR=CHECKOUT/tests/golden ./gpu_check.sh
# There: ./gpu_check.sh, or ./dino_cuda. The folder may lie anywhere. It holds the program, the GPU's tests and the benchmarks, the
# recordings that the tests compare with, PyTorch's step, for which PyTorch must be there, and the shared libraries of all of these.
set -euo pipefail
cd "$(dirname "$0")/.."

tar=no
cublas=yes
cudnn=yes
others=yes
recordings=yes
for argument in "$@"; do
  case "$argument" in
    --tar) tar=yes ;;
    --no-cublas) cublas=no ;;
    --no-cudnn) cudnn=no ;;
    --no-nvidia) cublas=no cudnn=no others=no ;;
    --no-recordings) recordings=no ;;
    *) echo "bundle.sh: unknown option $argument; expected --tar, --no-cublas, --no-cudnn, --no-nvidia or --no-recordings" >&2; exit 2 ;;
  esac
done
[ -n "${DINO_BUNDLE_NO_BUILD:-}" ] || ./scripts/build.sh -DDINO_TESTS=ON -DDINO_BENCHMARKS=ON -DDINO_CUDA=ON

version=$(./dino_cuda --version | sed -n '1s/^dino_cuda //p')
folder=build/bundle/dino_cuda-$version
rm -rf "$folder"
mkdir -p "$folder/lib/glibc" "$folder/tests" "$folder/scripts"
cp dino_cuda build/tests/device/device_test "$folder/"
cp build/benchmarks/*_benchmark "$folder/"
strip "$folder/dino_cuda" "$folder/device_test" "$folder"/*_benchmark
[ "$recordings" = no ] || cp -r tests/golden "$folder/tests/"
cp -r configs "$folder/"
cp scripts/gpu_check.sh scripts/pytorch_step.py "$folder/scripts/"
cp LICENSE README.md CHANGELOG.md "$folder/"
git rev-parse HEAD >"$folder/COMMIT" 2>/dev/null || true
printf '#!/bin/sh\nexec "$(dirname "$0")/scripts/gpu_check.sh" "$@"\n' >"$folder/gpu_check.sh"
chmod +x "$folder/gpu_check.sh"

# The C library stays the other machine's, where it is new enough: the driver's libraries were made for it. This one and its
# loader come along for machines with an older one (gpu_check.sh).
glibc='^(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libmvec|libresolv|libutil|libanl)\.so'
copy_libraries() {
  local path
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// && $2 ~ /^\(/ {print $1}' | sort -u | while read -r path; do
    if [[ $(basename "$path") =~ $glibc ]]; then
      cp -nL "$path" "$folder/lib/glibc/"
    else
      cp -nL "$path" "$folder/lib/"
    fi
  done
}
copy_libraries "$folder/dino_cuda" "$folder/device_test" "$folder"/*_benchmark
nvcc=$(sed -n 's/^CMAKE_CUDA_COMPILER:[A-Z]*=//p' build/CMakeCache.txt)
toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
# Copies the toolkit's library NAME.so.VERSION under the name by which it is opened, NAME.so.MAJOR; 1 where there is none.
copy_opened() {
  local library
  library=$(ls "$toolkit"/lib64/"$1".so.[0-9]* "$toolkit"/lib/"$1".so.[0-9]* "$toolkit"/targets/x86_64-linux/lib/"$1".so.[0-9]* \
    /usr/lib/x86_64-linux-gnu/"$1".so.[0-9]* 2>/dev/null | head -1 || true)
  [ -n "$library" ] || return 1
  cp -L "$library" "$folder/lib/$(basename "$library" | sed 's/\(\.so\.[0-9]*\).*/\1/')"
}
if [ "$cublas" = yes ]; then
  copy_opened libcublasLt || { echo "bundle.sh: there is no libcublasLt.so under $toolkit; try --no-cublas" >&2; exit 1; }
fi
# What cuDNN opens in its turn, its compiler with it. Its libraries for recurrent networks stay here.
if [ "$cudnn" = yes ]; then
  if copy_opened libcudnn; then
    for part in graph ops cnn heuristic engines_precompiled engines_runtime_compiled; do
      copy_opened libcudnn_$part || { echo "bundle.sh: libcudnn.so is here, libcudnn_$part.so is not; try --no-cudnn" >&2; exit 1; }
    done
    copy_opened libnvrtc || { echo "bundle.sh: there is no libnvrtc.so for cuDNN under $toolkit; try --no-cudnn" >&2; exit 1; }
    # This one is asked for by its whole version.
    cp -L "$(ls "$toolkit"/lib64/libnvrtc-builtins.so.[0-9]* "$toolkit"/lib/libnvrtc-builtins.so.[0-9]* 2>/dev/null | head -1)" "$folder/lib/"
  else
    echo "bundle.sh: there is no cuDNN here; the benchmarks will go without it" >&2
  fi
fi
# What several GPUs and several machines need: NCCL, and the module for MPI, whose library is the other machine's.
[ "$others" = no ] || copy_opened libnccl || true
[ ! -f build/lib/libdino_mpi.so ] || cp build/lib/libdino_mpi.so "$folder/lib/"
# The sanitizer brings its own folder, of which it needs all.
for sanitizer in "$toolkit/compute-sanitizer" "$toolkit/extras/compute-sanitizer"; do
  if [ "$others" = yes ] && [ -x "$sanitizer/compute-sanitizer" ]; then
    cp -rL "$sanitizer" "$folder/compute-sanitizer"
    break
  fi
done

# Nothing may be missing, with the libraries of the bundle alone.
missing=$(env -i PATH=/usr/bin:/bin ldd "$folder/dino_cuda" "$folder/device_test" "$folder"/*_benchmark | grep 'not found' || true)
[ -z "$missing" ] || { printf 'bundle.sh: libraries are missing:\n%s\n' "$missing" >&2; exit 1; }
echo "$folder: $(du -sh "$folder" | cut -f1)"
if [ "$tar" = yes ]; then
  # With a window as large as the folder: the recordings of the self-test are in the program and in the tests.
  XZ_OPT='-9 -T0' tar -C "$(dirname "$folder")" -cJf "$folder.tar.xz" "$(basename "$folder")"
  echo "$folder.tar.xz: $(du -sh "$folder.tar.xz" | cut -f1)"
fi
