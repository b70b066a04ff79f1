#!/usr/bin/env bash
# What a client gets when the resolver behind its server is strange: ployz-dns beside Debian's unbound, row by row of
# dns/tests/common/strange.rs, as a Markdown table. Asserts nothing: dns/tests/upstreams.rs does.
# Every row has a fresh server and a fresh resolver, in a network namespace and a directory of their own. ONLY="ok mute".
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
if [ -z "${PLOYZ_STRANGE:-}" ]; then
    command -v unbound >/dev/null || { echo "compare-strange-upstreams: apt-get install unbound" >&2; exit 1; }
    cargo build -q -p ployz-dns --examples
    PLOYZ_STRANGE=$(realpath "${CARGO_TARGET_DIR:-target}/debug/examples") exec unshare --net -- "$0"
fi
strange=$PLOYZ_STRANGE/strange
dir=$(mktemp -d); started=()
stop() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    started=()
}
trap 'stop; rm -rf "$dir"' EXIT
ip link set lo up
cat >"$dir/unbound.conf" <<CONF
server:
    directory: "$dir"
    username: ""
    chroot: ""
    pidfile: "$dir/unbound.pid"
    use-syslog: no
    logfile: "$dir/unbound.log"
    interface: 127.0.0.1@5300
    do-not-query-localhost: no
    module-config: "iterator"
    num-threads: 1
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@5301
CONF

listens() { # $1: port, of UDP and TCP on loopback
    for _ in $(seq 200); do
        [ "$(ss -Hlntu "sport = :$1" | wc -l)" -ge 2 ] && return 0
        sleep 0.05
    done
    echo "nothing listens on port $1" >&2
    return 1
}

tried() { # $1: ployz or unbound, $2: label
    "$strange" serve 127.0.0.1:5301 >/dev/null &
    started+=($!)
    listens 5301
    if [ "$1" = unbound ]; then
        unbound -d -c "$dir/unbound.conf" >/dev/null 2>&1 &
    else
        "$PLOYZ_STRANGE/synthetic" 127.0.0.1:5300 1 127.0.0.1:5301 >/dev/null 2>&1 &
    fi
    started+=($!)
    listens 5300
    "$strange" ask 127.0.0.1:5300 "$2"
    stop
}

echo "| the resolver | wanted | ployz-dns | ms | unbound | ms |"
echo "|---|---|---|---:|---|---:|"
while IFS=$'\t' read -r label does wanted; do
    [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $label "* ]] || continue
    row="| $does | ${wanted,,} |"
    for server in ployz unbound; do
        IFS=$'\t' read -r got took <<<"$(tried "$server" "$label")"
        row+=" ${got,,} | $took |"
    done
    echo "$row"
done < <("$strange" rows)
