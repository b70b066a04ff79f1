#!/usr/bin/env bash
# Everything CI runs, in the order in which a mistake shows soonest. Prints how long each part took.
set -euo pipefail
cd "$(dirname "$0")/.."
part() {
    local name=$1 start=$SECONDS; shift
    echo "--- $name: $*"
    "$@"
    echo "--- $name took $((SECONDS - start)) s"
}
part setup scripts/setup.sh test
part lint make lint
part fast scripts/test-fast.sh
part package env PLOYZ_PROFILE=dev packaging/build-deb.sh
part clients scripts/test-gateway-clients.sh
part demo env PLOYZ_PROFILE=dev scripts/demo.sh
part nodes-ns scripts/test-nodes.sh ns
part nodes-vm scripts/test-nodes.sh vm
echo "all of it took $SECONDS s"
