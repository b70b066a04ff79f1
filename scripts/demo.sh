#!/usr/bin/env bash
# A mesh of three nodes on this machine, and a service on it, without systemd. Each node is a set of namespaces (net, pid,
# mount, uts, cgroup) with a ployzd and a Docker engine of its own; this machine's own Docker is neither used nor touched.
# Shows the mesh, deploys a web server, kills every ployzd while the service's name and the gateway go on answering, shows
# what the next ployzd adopted, and cleans up, also when it fails or is interrupted. Needs root; touches nothing outside of
# what it makes: a directory and a cgroup named after its own process, and namespaces that end with it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
profile=${PLOYZ_PROFILE:-release}; output=$profile; [ "$profile" != dev ] || output=debug
bin=${CARGO_TARGET_DIR:-$root/target}/$output
[ "$(id -u)" = 0 ] || { echo "the demo makes namespaces: run it as root" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/ployz-demo.XXXXXX")
cgroup=/sys/fs/cgroup/unified; [ -e $cgroup/cgroup.procs ] || cgroup=/sys/fs/cgroup
cgroup=$cgroup/ployz-demo-$$
pids=()

# With its first process the pid namespace of a node ends, and with that its mounts and links.
cleanup() {
    trap '' INT TERM HUP
    set +e
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    local end=$((SECONDS + 10))
    while [ -d "$cgroup" ] && [ $SECONDS -lt $end ]; do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
    rm -rf "$work"
    ! [ -d "$cgroup" ] || echo "left behind: $cgroup" >&2
}
trap cleanup EXIT
trap 'echo "the demo failed in line $LINENO" >&2; exit 1' ERR
trap 'exit 130' INT
trap 'exit 143' TERM HUP
bold=; dim=; plain=
if [ -t 1 ]; then bold=$'\033[1m'; dim=$'\033[2m'; plain=$'\033[0m'; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%sn%s# %s%s\n' "$dim" "$1" "$2" "$plain"; node "$1" "$2"; }
node() { # also in the node's own control group
    bash -c 'echo $$ >"$0" && exec nsenter -t "$1" -m -u -i -n -p -C env PATH="$2:$PATH" PLOYZ_SOCKET=/run/ployz/ployzd.sock bash -c "$3"' \
        "$cgroup/n$1/own/cgroup.procs" "$(<"$work/n$1/pid")" "$work/bin" "$2"
}
daemon() { node "$1" "PLOYZ_LIBEXEC_DIR=$work/bin setsid ployzd --data-dir $work/n$1/data run --service-mode user </dev/null >>$work/n$1/ployzd.log 2>&1 &"; }
until_true() { # seconds, command...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "gave up waiting for: $*" >&2
            tail -n 12 "$work"/n*/*.log >&2
            exit 1
        fi
        sleep 0.1
    done
}

"$root/packaging/fetch-nats.sh"
mkdir -p "$work/bin" "$cgroup"
for program in ployzd ployzctl ployz-wireguard ployz-gateway ployz-dns; do ln -s "$bin/$program" "$work/bin/$program"; done
ln -s "$root/target/vendor/nats-server" "$work/bin/nats-server"
echo '{}' >"$work/docker.json"

# What becomes the first process of a node. It has /run, /opt and a copy of /etc to itself, and a cgroup tree of which it
# sees its own part; what Docker starts must not sit beside processes there, so those go into `own`.
cat >"$work/init" <<'INIT'
set -eu
mount --make-rprivate /
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/own; echo 1 >/sys/fs/cgroup/own/cgroup.procs; echo 0 >/sys/fs/cgroup/own/cgroup.procs
mount -t tmpfs -o mode=755 run /run; mkdir -p /run/netns
mount --bind /run/netns /run/netns; mount --make-shared /run/netns
cp -a /etc /run/etc; mount --bind /run/etc /etc
if [ -d /opt ]; then mount -t tmpfs opt /opt; fi
hostname "$1"
ip link set lo up
trap : TERM
touch /run/up
while :; do sleep 1 & wait $!; done
INIT
# A Docker engine of the node's own. It leaves packet filters and bridges alone: those are Ployz's in here.
cat >"$work/engine" <<ENGINE
container=demo exec dockerd --config-file $work/docker.json --data-root $work/\$1/docker --exec-root /run/docker \\
    --pidfile /run/docker.pid --host unix:///var/run/docker.sock --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs \\
    --bridge none --iptables=false --ip6tables=false </dev/null >>$work/\$1/dockerd.log 2>&1
ENGINE

say "three nodes on a private network, 10.88.0.11 to 10.88.0.13, each with a ployzd"
setsid unshare --net sleep infinity >/dev/null 2>&1 & hub=$!
pids+=("$hub")
own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
until_true 5 own_network $hub
nsenter -t $hub -n ip link add br0 type bridge
nsenter -t $hub -n ip link set br0 up
for i in 1 2 3; do
    mkdir -p "$work/n$i/data" "$cgroup/n$i"
    setsid bash -c 'echo $$ >"$0" && exec unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child bash "$@"' \
        "$cgroup/n$i/cgroup.procs" "$work/init" "n$i" </dev/null >"$work/n$i/init.log" 2>&1 &
    pids+=($!)
    until_true 5 pgrep -P "${pids[-1]}"
    pgrep -P "${pids[-1]}" >"$work/n$i/pid"
    until_true 5 test -e "$cgroup/n$i/own"
    until_true 5 node "$i" '[ -e /run/up ]'
    nsenter -t $hub -n ip link add "n$i" type veth peer name eth0 netns "$(<"$work/n$i/pid")"
    nsenter -t $hub -n ip link set "n$i" master br0 up
    node "$i" "ip addr add 10.88.0.1$i/24 dev eth0; ip link set eth0 up; setsid bash $work/engine n$i &"
    daemon "$i"
done
for i in 1 2 3; do until_true 10 node "$i" 'ployzctl status'; done
run 1 'ployzctl mesh init demo'
for i in 2 3; do
    token=$(node 1 'ployzctl machine invite create --plain')
    printf '%sn%s# echo "$TOKEN" | ployzctl mesh join --token-stdin%s\n' "$dim" "$i" "$plain"
    printf '%s\n' "$token" | node "$i" 'ployzctl mesh join --token-stdin'
done
for i in 1 2 3; do
    until_true 20 node "$i" 'ployzctl mesh ready'
    resolver=$(node "$i" 'ployzctl --json mesh status demo' | jq -r .payload.service_ip)
    node "$i" "rm -f /etc/resolv.conf; echo nameserver $resolver >/etc/resolv.conf"
done
until_true 20 node 1 '[ "$(ployzctl --json mesh status demo | jq "[.payload.peers[] | select(.reachable)] | length")" = 2 ]'
run 1 'ployzctl mesh status demo'

say "a web server on all three"
mkdir -p "$work/image/bin" "$work/image/www" "$work/image/tmp"
busybox=$(command -v busybox); cp "$busybox" "$work/image/bin/"
for name in sh httpd; do ln -s busybox "$work/image/bin/$name"; done
# A busybox that is not static brings its libraries.
for library in $(ldd "$busybox" 2>/dev/null | grep -o '/[^ ]*' || true); do
    mkdir -p "$work/image${library%/*}"; cp -L "$library" "$work/image$library"
done
tar -C "$work/image" -cf "$work/image.tar" .
cat >"$work/shop.toml" <<'SHOP'
version = 1
namespace = "shop"

[[services]]
name = "web"
image = "demo/web:1"
command = ["sh", "-c", "echo hello from $(hostname) >/www/index.html; exec httpd -f -p 8080 -h /www"]
ports = [{ name = "http", port = 8080 }]
routes = [{ host = "shop.example.org", port = "http" }]
readiness = { kind = "http", port = "http", path = "/", interval = "300ms" }
placement = { replicas = 3 }
stop_grace_period = "1s"
SHOP
for i in 1 2 3; do
    until_true 30 node "$i" 'curl -sf --unix-socket /var/run/docker.sock http://docker/_ping'
    node "$i" "curl -sf --unix-socket /var/run/docker.sock -X POST --data-binary @$work/image.tar -H 'Content-Type: application/x-tar' \
        'http://docker/v1.41/images/create?fromSrc=-&repo=demo/web&tag=1' >/dev/null"
    until_true 20 node "$i" 'curl -sf --unix-socket /var/run/docker.sock http://docker/v1.41/networks/ployz0'
done
node 1 "cp $work/shop.toml /run/"
run 1 'cat /run/shop.toml'
run 1 'ployzctl deploy -f /run/shop.toml'
until_true 20 node 1 '[ "$(ployzctl --plain service ls | cut -f6)" = 3 ]'
run 1 'ployzctl service ls'

name='getent ahostsv4 web.shop.ployz.internal | grep STREAM'
three='for i in 1 2 3; do curl -s -H "Host: shop.example.org" http://10.88.0.11/; done'
until_true 10 node 1 "[ \$($name | wc -l) = 3 ]"
run 1 "$name"
run 3 "$three"

every_ping_answered() {
    local answered
    answered=$(grep -o 'bytes from .*icmp_seq=[0-9]*' "$work/ping" | sed 's/.*=//' | awk -v sent="$sent" '$1 <= sent' | sort -u | wc -l)
    [ "$answered" = "$sent" ]
}

say "kill -9 ployzd, on n1 for good, on the others again and again, while others use what it made"
survivors='pgrep -x nats-server; pgrep -x ployz-wireguard; pgrep -x ployz-gateway; pgrep -x ployz-dns; pgrep -x httpd; stat -Lc %i /run/netns/ployz'
peer=$(node 2 'ployzctl --json mesh self-record' | jq -r .payload.record.overlay_ip)
before=$(node 1 "$survivors" | tr '\n' ' ')
node 1 "echo \$\$ >$work/ping.pid; exec ping -O -i 0.05 $peer" >"$work/ping" 2>&1 & ping=$!
node 3 "n=0; bad=0; until [ -e $work/enough ]; do n=\$((n + 1))
    curl -sf -m 5 -o /dev/null -H 'Host: shop.example.org' http://10.88.0.11/ || bad=\$((bad + 1)); done
    echo \"\$n requests through the gateway of n1, \$bad failed\"" >"$work/requests" & requests=$!
run 1 'kill -9 $(pidof ployzd)'
run 1 'ployzctl status' || true
run 1 "$name"
run 3 "$three"
for _ in 1 2 3 4 5; do
    for i in 2 3; do node "$i" 'kill -9 $(pidof ployzd)'; done
    sleep 0.3
    for i in 2 3; do daemon "$i"; done
    for i in 2 3; do until_true 10 node "$i" 'ployzctl mesh ready'; done
done
run 1 "$name"
run 3 "$three"

say "the next ployzd of n1 finds everything in its place"
daemon 1
until_true 10 node 1 'ployzctl mesh ready'
run 1 'ployzctl explain | head -n 9'
node 1 "grep -o 'daemon start: adopted.*' $work/n1/ployzd.log | tail -n 1"
touch "$work/enough"; wait $requests
sent=$(grep -o 'icmp_seq=[0-9]*' "$work/ping" | tail -n 1 | cut -d= -f2)
until_true 10 every_ping_answered # those that are still on their way too
node 1 "kill -INT \$(cat $work/ping.pid)"; wait $ping || true
cat "$work/requests"
echo "$sent pings from n1 to n2, all answered"
after=$(node 1 "$survivors" | tr '\n' ' ')
echo "pids of store, tunnel, gateway, DNS and web server, inode of the namespace: $before"
echo "                                                                   and now: $after"
[ "$before" = "$after" ] || { echo "the data plane did not survive" >&2; exit 1; }
grep -q ', 0 failed' "$work/requests" || { echo "requests failed" >&2; exit 1; }

say "and away with it"
run 1 'ployzctl service rm shop/web'
run 1 'ployzctl mesh destroy demo'
for i in 2 3; do until_true 15 node "$i" '[ -z "$(ployzctl mesh list --plain)" ] || ployzctl mesh list --plain | grep -q "no networks"'; done
echo "the demo is done: no packet and no request lost, nothing left behind ($SECONDS s)"
