#!/usr/bin/env bash
# Rules of the house that the compiler does not check.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
complain() { echo "check-tree: $*" >&2; fail=1; }

while read -r file; do
    [ ! -s "$file" ] || head -n 1 "$file" | grep -q '^//!' || complain "$file does not open with //!"
done < <(git ls-files '*.rs')
if git grep -nE '\b(todo|unimplemented)!\(|#\[ignore\]' -- '*.rs'; then complain "unfinished code or ignored tests"; fi
# A constant says what it times: RETRY_DELAY, PROBE_INTERVAL, IDLE_TIMEOUT, RETRY_DELAY_MAX.
timed='AFTER|AGE|DEADLINE|DEBOUNCE|DELAY|DURATION|GRACE|IDLE|INTERVAL|RETENTION|TIMEOUT|TTL|WINDOW'
while read -r line; do
    name=$(sed -E 's/.*\bconst ([A-Z_0-9]+):.*/\1/' <<<"$line")
    grep -qE "(^|_)($timed)(_MIN|_MAX)?$|_(MIN|MAX)_($timed)$" <<<"$name" || complain "$line: the name does not say what it times"
done < <(git grep -nE "\bconst [A-Z_0-9]+: ([a-z_]+::)*(Duration|Millis)\b" -- '*.rs' ':!tests/*' | sed -E 's/ =.*//')
# One crypto provider, no C libraries: ring everywhere.
for crate in aws-lc-sys openssl-sys; do
    if cargo tree --workspace -i "$crate" >/dev/null 2>&1; then complain "$crate is in the dependency tree"; fi
done
# core stays pure; each fast-moving library has one crate that knows it; daemon, gateway and dns meet only in core, host and nats.
forbid() { # $1: crate, $2...: dependencies it must not have
    local crate=$1; shift
    for name; do
        if cargo tree -p "$crate" -e normal --prefix none --format '{p}' | grep -qE "^$name v"; then complain "$crate depends on $name"; fi
    done
}
forbid ployz-core tokio nix async-nats rtnetlink zbus hyper
forbid ployz-host async-nats zbus axum tokio
forbid ployz-nats bollard rtnetlink zbus axum ployz-netns ployz-engine
forbid ployz-engine async-nats rtnetlink zbus ployz-netns ployz-nats
forbid ployz-netns async-nats zbus axum boringtun ployz-host
forbid ployz-wireguard async-nats zbus axum rtnetlink ployz-netns
forbid ployz-gateway ployz-netns ployz-engine hickory-server ployz-dns
forbid ployz-dns ployz-netns ployz-engine pingora ployz-gateway
forbid ployzctl async-nats ployz-netns nix rtnetlink zbus
owns() { # $1: library, $2...: the crates whose manifest may name it
    local library=$1; shift
    local allowed=" $* "
    while read -r manifest; do
        local crate=${manifest%%/*}
        [[ $allowed == *" $crate "* ]] || complain "$manifest names $library, which only $* may"
    done < <(for m in */Cargo.toml; do
        sed '/^\[dev-dependencies\]/,$d' "$m" | grep -qE "^$library( |\.)" && echo "$m"; done)
}
owns async-nats nats tests
owns bollard engine
owns boringtun wireguard
owns pingora gateway
owns hickory-server dns
# The rooms inside the daemon, and import cycles there.
scripts/check-modules.py || fail=1
# ARCHITECTURE.md names every folder, and documents name no file that is not there.
scripts/check-map.py || fail=1
if command -v shellcheck >/dev/null; then
    git ls-files '*.sh' .ci/run 'packaging/deb/p*inst' 'packaging/deb/p*rm' | xargs -r shellcheck -S warning || fail=1
fi
exit $fail
