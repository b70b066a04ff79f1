#!/usr/bin/env bash
# judge-tls.sh URL ADDRESS ROOT [SECONDS]   what testssl.sh finds at a server, all of its checks, in SECONDS (600) at the most.
# ROOT is the certificate that it is to trust. Prints the findings one a line (severity, id, text); fails when one is above LOW, when
# a group of checks did not come to its end, or when a check is gone that should have been made.
# It mostly sleeps between its packets, so its checks run in groups side by side.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,/^set /{/^#/s/^# \?//p}' "$0" >&2; exit 64; }
url=$1 address=$2 root=$3 seconds=${4:-600}
command -v testssl jq >/dev/null || { echo "testssl or jq is missing: scripts/setup.sh test" >&2; exit 100; }
dir=$(mktemp -d); judging=()
cleanup() { for pid in "${judging[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$dir"; }
trap cleanup EXIT
# A check of its own that did not get through says nothing of the server, and is made again: on a busy machine its client
# leaves before the session ticket comes.
judge() { # group
    local try running=
    trap 'kill "$running"' TERM
    for try in 1 2 3; do
        rm -f "$dir/$1.json"
        # shellcheck disable=SC2086 # options
        timeout "$seconds" testssl --quiet --warnings off --color 0 --nodns none --ip "$address" --add-ca "$root" \
            --jsonfile "$dir/$1.json" ${groups[$1]} "$url" </dev/null >"$dir/$1" 2>&1 & running=$!
        wait "$running" || true
        grep -q 'check failed because of connect problem' "$dir/$1.json" 2>/dev/null || return 0
        echo "testssl.sh ${groups[$1]}: try $try did not get through" >&2
    done
}
groups=('-p -s -f' '-P -e' '-S -h' '-U' '-c -g')
for group in "${!groups[@]}"; do
    judge "$group" & judging[group]=$!
done
failed=0
for group in "${!groups[@]}"; do
    # Its exit code counts findings of every severity; its last line is what says that it came to its end.
    wait "${judging[group]}" || true
    grep -q '^ Done ' <(tail -n 5 "$dir/$group") || {
        echo "testssl.sh ${groups[group]} did not come to its end:"; tail -n 5 "$dir/$group"; failed=1
    } >&2
done
judging=()
shopt -s nullglob
jq -rs 'add[] | "\(.severity) \(.id): \(.finding)"' "$dir"/*.json >"$dir/findings"
cat "$dir/findings"
# A finding of each group, so that checks which are gone are noticed.
for finding in 'OK SSLv3: not offered' 'OK TLS1_3: offered with final' 'OK cipherlist_NULL: not offered' 'OK cipher_order: server' \
    'OK cert_chain_of_trust: passed' 'OK heartbleed: not vulnerable' 'OK secure_renego: supported' 'OK secure_client_renego:' \
    'INFO clientsimulation-' 'OK GREASE:'; do
    grep -q "^$finding" "$dir/findings" || { echo "not found: $finding: $(grep -F "${finding#* }" "$dir/findings")"; failed=1; } >&2
done
# Left out: that Debian's OpenSSL has no GOST engine is a matter of the client.
if grep -vE '^(OK|INFO|LOW) |^WARN engine_problem: No engine or GOST' "$dir/findings" >"$dir/above"; then
    echo "above LOW:"; cat "$dir/above"; failed=1
fi >&2
exit "$failed"
