# Sourced by the other scripts: makes sure that the Debian or Ubuntu packages which a build needs are there.

DINO_BUILD_PACKAGES="build-essential cmake ninja-build pkg-config libdnnl-dev ocl-icd-opencl-dev libhwy-dev libfmt-dev nlohmann-json3-dev
libtomlplusplus-dev libcli11-dev libjpeg-dev libpng-dev libstb-dev libzip-dev libarchive-dev libmd-dev zlib1g-dev curl ca-certificates"
DINO_TEST_PACKAGES="catch2 libbenchmark-dev libboost-context-dev libopenmpi-dev openmpi-bin"
# Programs that some tests run, and go without elsewhere.
DINO_OPTIONAL_TEST_PACKAGES="ffmpeg zsh fish"
DINO_FUZZ_PACKAGES="clang-14 libclang-rt-14-dev"
DINO_TSAN_PACKAGES="libomp-14-dev"
DINO_DEMO_PACKAGES="tuxpaint-stamps-default mate-backgrounds"

# need_packages PACKAGE…: installs what is missing with apt when run as root or with sudo, else names it and fails.
need_packages() {
  local missing=() package
  if ! command -v dpkg-query >/dev/null; then
    echo "This is not a Debian or Ubuntu system: please install the counterparts of: $*" >&2
    return 0
  fi
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local -a as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      printf 'Missing packages. Please install them and try again:\n  sudo apt-get install %s\n' "${missing[*]}" >&2
      return 1
    fi
  fi
  echo "Installing: ${missing[*]}"
  # An index that cannot be refreshed may still be good enough, so only the installation decides.
  "${as_root[@]}" apt-get update -qq || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
