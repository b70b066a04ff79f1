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
if [ $# -eq 0 ] && [ "$lane" = ns ] && [ -z "${PLOYZ_ALL:-}" ]; then
    # Of the native ones all but those that a shorter one stands for; `make test-all` runs these too.
    mapfile -t filters < <("$target/debug/lab" run --list | awk '{print $1}' | grep -vxF -f <(grep -v '^#' tests/ns-long-scenarios))
    set -- "${filters[@]}"
fi
# Native nodes mostly wait: two labs at once on two cores take half the time. Emulated ones need all there is.
jobs=1; [ "$lane" = vm ] || jobs=2
exec "$target/debug/lab" run --lane "$lane" --jobs "${PLOYZ_LAB_JOBS:-$jobs}" --deb "$deb" "$@"
