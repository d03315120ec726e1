#!/usr/bin/env bash
# Builds everything and passes the tests. Arguments go to ctest (e.g. -R golden).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
need_packages $DINO_BUILD_PACKAGES $DINO_TEST_PACKAGES

./scripts/build.sh -DDINO_TESTS=ON -DDINO_BENCHMARKS=ON
# The tests use two threads each, of which most wait for most of the time: without spinning, so that others get on.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} ctest --test-dir build --output-on-failure \
  --no-tests=error --parallel "$(nproc)" "$@"
