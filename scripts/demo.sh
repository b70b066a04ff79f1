#!/usr/bin/env bash
# A mesh of three nodes on this machine, without systemd and without Docker: each node is a set of namespaces (net, pid,
# mount, uts) with a ployzd of its own. Shows the mesh, kills a ployzd under a running ping, shows what the next one
# adopted, and cleans up. Needs root; touches nothing outside of what it makes (a directory and network namespaces
# named after its own process).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
profile=${PLOYZ_PROFILE:-release}; output=$profile; [ "$profile" != dev ] || output=debug
bin=${CARGO_TARGET_DIR:-$root/target}/$output
work=$(mktemp -d "${TMPDIR:-/tmp}/ployz-demo.XXXXXX"); net=ployz-demo-$$
pids=()

cleanup() {
    set +e
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null; done
    for i in 1 2 3; do ip netns del "$net-$i" 2>/dev/null; done
    ip netns del "$net" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2mn%s# %s\033[0m\n' "$1" "$2"; node "$1" "$2"; }
node() { nsenter -t "$(<"$work/n$1/pid")" -n -m -p -u env PATH="$work/bin:$PATH" PLOYZ_SOCKET=/run/ployz/ployzd.sock bash -c "$2"; }
daemon() { node "$1" "PLOYZ_LIBEXEC_DIR=$work/bin setsid ployzd --data-dir $work/n$1/data run --service-mode user >>$work/n$1/ployzd.log 2>&1 & echo \$!"; }
until_true() { # seconds, command...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || { echo "gave up: $*" >&2; tail -n 20 "$work"/n*/ployzd.log >&2; exit 1; }; sleep 0.1; done
}

[ "$(id -u)" = 0 ] || { echo "the demo makes network namespaces: run it as root" >&2; exit 1; }
"$root/packaging/fetch-nats.sh"
mkdir -p "$work/bin"
for program in ployzd ployzctl ployz-wireguard ployz-gateway ployz-dns; do ln -s "$bin/$program" "$work/bin/$program"; done
ln -s "$root/target/vendor/nats-server" "$work/bin/nats-server"

say "three nodes on a private network"
ip netns add "$net"; ip -n "$net" link add br0 type bridge; ip -n "$net" link set br0 up
for i in 1 2 3; do
    mkdir -p "$work/n$i/data"
    ip netns add "$net-$i"
    ip -n "$net" link add "n$i" type veth peer name eth0 netns "$net-$i"
    ip -n "$net" link set "n$i" master br0 up
    ip -n "$net-$i" link set lo up; ip -n "$net-$i" link set eth0 up; ip -n "$net-$i" addr add "10.88.0.1$i/24" dev eth0
    cat >"$work/n$i/init" <<INIT
mount --make-rprivate /; mount -t tmpfs -o mode=755 run /run; mount -t proc proc /proc; mkdir -p /run/netns
mount --bind /run/netns /run/netns; mount --make-shared /run/netns; hostname n$i
trap : TERM; while :; do sleep 1 & wait \$!; done
INIT
    setsid ip netns exec "$net-$i" unshare --mount --pid --uts --fork --kill-child bash "$work/n$i/init" >/dev/null 2>&1 &
    pids+=($!); disown $!
    until_true 5 pgrep -P "${pids[-1]}"
    pgrep -P "${pids[-1]}" >"$work/n$i/pid"
    until_true 5 node "$i" '[ "$(hostname)" = n'"$i"' ]'
    daemon "$i" >"$work/n$i/daemon"
    until_true 10 node "$i" 'ployzctl status'
done
run 1 'ployzctl mesh init demo'
for i in 2 3; do
    token=$(node 1 'ployzctl machine invite create --plain')
    printf '\033[2mn%s# echo "$TOKEN" | ployzctl mesh join --token-stdin\033[0m\n' "$i"
    printf '%s\n' "$token" | node "$i" 'ployzctl mesh join --token-stdin'
done
for i in 1 2 3; do until_true 20 node "$i" 'ployzctl mesh ready'; done

say "the mesh"
until_true 20 node 1 '[ "$(ployzctl --json mesh status demo | jq "[.payload.peers[] | select(.reachable)] | length")" = 2 ]'
run 1 'ployzctl mesh status demo'
run 1 'ip netns exec ployz wg show wg0 latest-handshakes'

say "kill -9 ployzd on n1 while a ping from n1 to n2 runs over the overlay"
peer=$(node 2 'ployzctl --json mesh self-record' | jq -r .payload.record.overlay_ip)
node 1 "echo \$\$ >$work/ping.pid; exec ping -i 0.05 -q $peer" >"$work/ping" 2>&1 & ping=$!
before=$(node 1 'pgrep -x nats-server; pgrep -x ployz-wireguard; stat -Lc %i /run/netns/ployz' | tr '\n' ' ')
for _ in 1 2 3 4 5; do
    victim=$(node 1 'pgrep -x ployzd'); node 1 "kill -9 $victim"; echo "killed ployzd, pid $victim in its node"
    sleep 0.5
    daemon 1 >"$work/n1/daemon"
    until_true 10 node 1 'ployzctl mesh ready'
done
after=$(node 1 'pgrep -x nats-server; pgrep -x ployz-wireguard; stat -Lc %i /run/netns/ployz' | tr '\n' ' ')
node 1 "kill -INT \$(cat $work/ping.pid)"; wait $ping || true
grep 'packet loss' "$work/ping"
run 1 'ployzctl explain'
echo "store, tunnel and namespace before: $before"
echo "                           and now: $after"
[ "$before" = "$after" ] || { echo "the data plane did not survive" >&2; exit 1; }
grep -q ' 0% packet loss' "$work/ping" || { echo "packets were lost" >&2; exit 1; }

say "and away with it"
run 1 'ployzctl mesh destroy demo'
for i in 2 3; do until_true 15 node "$i" '[ -z "$(ployzctl mesh list --plain)" ] || ployzctl mesh list --plain | grep -q "no networks"'; done
echo "the demo is done: no packet lost, nothing left behind"
