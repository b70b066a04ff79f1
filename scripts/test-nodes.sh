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
exec "$target/debug/lab" run --lane "$lane" --deb "$deb" "$@"
