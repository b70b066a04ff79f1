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
# One crypto provider, no C libraries: ring everywhere.
for crate in aws-lc-sys openssl-sys; do
    if cargo tree --workspace -i "$crate" >/dev/null 2>&1; then complain "$crate is in the dependency tree"; fi
done
# core stays pure; cli and netns do without the store's client; daemon, gateway and dns meet only in core.
forbid() { # $1: crate, $2...: dependencies it must not have
    local crate=$1; shift
    for name; do
        if cargo tree -p "$crate" -e normal --prefix none --format '{p}' | grep -qE "^$name v"; then complain "$crate depends on $name"; fi
    done
}
forbid ployz-core tokio nix async-nats rtnetlink zbus hyper
forbid ployz-netns async-nats zbus axum
forbid ployzctl async-nats ployz-netns nix rtnetlink zbus
scripts/check-words.sh || complain "words that docs/glossary.md replaces"
if command -v shellcheck >/dev/null; then
    git ls-files '*.sh' .ci/run 'packaging/deb/p*inst' 'packaging/deb/p*rm' | xargs -r shellcheck -S warning || fail=1
fi
exit $fail
