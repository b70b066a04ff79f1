#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of the fuzzer's build: the project's own crates count which of their edges are taken. The flags are
# stable ones; dependencies are those of every other build.
exec "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
