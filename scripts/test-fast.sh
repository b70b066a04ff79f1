#!/usr/bin/env bash
# Unit, property, golden and contract tests of every crate but the node scenarios.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace --exclude ployz-tests "$@"
cargo test -p ployz-tests --lib
