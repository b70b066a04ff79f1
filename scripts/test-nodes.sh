#!/usr/bin/env bash
# test-nodes.sh ns|vm [FILTER...]   scenarios on real nodes with the package in dist/
set -euo pipefail
cd "$(dirname "$0")/.."
lane=${1:?usage: test-nodes.sh ns|vm [FILTER...]}; shift
scripts/setup.sh test
deb=$(ls -t dist/ployz_*_amd64.deb | head -n 1)
cargo build -q -p ployz-tests
target=${CARGO_TARGET_DIR:-target}
if [ $# -eq 0 ] && [ "$lane" = vm ]; then
    # Emulated machines are slow: the part of the list that only a kernel of its own can show.
    mapfile -t filters < <(grep -v '^#' tests/vm/core-scenarios | grep .)
    set -- "${filters[@]}"
fi
# Native nodes mostly wait: two labs at once on two cores take half the time. Emulated ones need all there is.
jobs=1; [ "$lane" = vm ] || jobs=2
exec "$target/debug/lab" run --lane "$lane" --jobs "${PLOYZ_LAB_JOBS:-$jobs}" --deb "$deb" "$@"
