#!/usr/bin/env bash
# Fuzzes every target (or those named) for FUZZ_SECONDS each (60), with coverage, on stable Rust. What breaks a property is
# kept as fuzz/corpus/TARGET/crash-*, which `make test-fast` replays from then on; what is only new to the fuzzer is kept in
# target/fuzz/TARGET between runs. `FUZZ_MERGE=1` instead puts what adds coverage into fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}; failed=
all=$(sed -n 's/^name = "fuzz-\(.*\)"$/\1/p' fuzz/Cargo.toml)
build=${CARGO_TARGET_DIR:-target}
RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/rustc.sh" cargo build -q -p ployz-fuzz --bins --features libfuzzer
# shellcheck disable=SC2086 # a list of names
[ $# -gt 0 ] || set -- $all
for target; do
    grown=$build/fuzz/$target; seeds=fuzz/corpus/$target
    mkdir -p "$grown" "$seeds"
    fuzzer=("$build/debug/fuzz-$target" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$seeds/")
    [ ! -e "fuzz/dict/$target" ] || fuzzer+=(-dict="fuzz/dict/$target")
    if [ -n "${FUZZ_MERGE:-}" ]; then "${fuzzer[@]}" -merge=1 "$seeds" "$grown" 2>&1 | tail -n 1; continue; fi
    echo "--- $target: $seconds s"
    log=$grown.log
    if "${fuzzer[@]}" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 "$grown" "$seeds" >"$log" 2>&1; then
        grep -E 'number_of_executed_units|new_units_added' "$log"; grep -E 'cov: ' "$log" | tail -n 1
    else
        failed="$failed $target"; grep -vE '^#[0-9]+[[:space:]]+(NEW|REDUCE|pulse)' "$log" | tail -n 25
    fi
done
[ -z "$failed" ] || { echo "fuzz: broken:$failed" >&2; exit 1; }
