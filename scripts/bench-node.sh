#!/usr/bin/env bash
# Three nodes (lane ns) with the package and the routes of 1,000 services: what each process costs, and how long it takes from
# the commit of a deploy until every gateway and DNS server answers as it says. Prints tables; asserts nothing.
# ROUTES=1000, COMMITS=120, IDLE_SECONDS=30, DEB=dist/ployz_*.deb (built when there is none), KEEP=1 leaves the nodes up,
# PROGRAMS=target/release.
#
# The routes are written as deploys and daemons write them (a service, its port, its route, an instance on each machine: 4,000
# records), but nobody runs those instances. The commits are real deploys of one service with one container, coordinated by each
# node in turn. All nodes are namespaces of one kernel; a process on the founder does the timing (tests/src/propagation).
set -euo pipefail
cd "$(dirname "$0")/.."
routes=${ROUTES:-1000}; commits=${COMMITS:-120}; idle=${IDLE_SECONDS:-30}
target=${CARGO_TARGET_DIR:-target}; lab=$target/debug/lab; programs=${PROGRAMS:-$target/release}
[ -n "${DEB:-}" ] || { packaging/build-deb.sh >/dev/null; DEB=$(ls -t dist/ployz_*_amd64.deb | head -n 1); }
[ -x "$lab" ] || cargo build -q -p ployz-tests --bin lab
# The programs that ask and answer must not take the processors from what is measured.
[ -x "$programs/propagation" ] && [ -x "$programs/load" ] || cargo build -q --release -p ployz-tests --bin propagation --bin load
dir=$(mktemp -d)
cleanup() { rm -rf "$dir"; [ -n "${KEEP:-}" ] || "$lab" down >/dev/null 2>&1 || true; }
trap cleanup EXIT

on() { local n=$1; shift; "$lab" sh "$n" "$*" </dev/null | tr -d '\r'; }
put() { "$lab" sh "$1" "cat >$3; chmod 755 $3" <"$2" >/dev/null; } # node, file here, path there
machine() { printf '%s cores, %s, %s, kernel %s, load %s' "$(nproc)" "$(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo)" \
    "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(uname -r)" "$(cut -d' ' -f1-3 /proc/loadavg)"; }
manifest() { # version
    cat <<JSON
{"version": 1, "namespace": "bench", "services": [{"name": "web", "image": "lab/load", "command": ["/load", "serve", "8080"],
 "env": {"VERSION": "$1"}, "ports": [{"name": "http", "port": 8080}], "routes": [{"host": "v$1.bench.example.org", "port": "http"}],
 "placement": {"replicas": 1}, "readiness": {"kind": "http", "port": "http", "path": "/echo/ready", "interval": "300ms"},
 "stop_grace_period": "1s"}]}
JSON
}
deploy() { # node, version
    manifest "$2" >"$dir/manifest.json"
    "$lab" sh "$1" 'cat >/run/manifest.json' <"$dir/manifest.json" >/dev/null
    on "$1" 'ployzctl -q deploy -f /run/manifest.json' >/dev/null
}

"$lab" down >/dev/null 2>&1 || true
"$lab" up --lane ns -n 3 --deb "$DEB" >/dev/null
on 1 'ployzctl -q mesh init bench'
for n in 2 3; do
    token=$(on 1 'ployzctl machine invite create --plain' | tail -n 1)
    on "$n" "echo $token | ployzctl -q mesh join --token-stdin"
done
for n in 1 2 3; do
    until on "$n" 'ployzctl -q mesh ready' 2>/dev/null; do sleep 0.2; done
    put "$n" "$programs/load" /usr/local/bin/load
    on "$n" 'set -e; d=$(mktemp -d); cp /usr/local/bin/load $d/load; mkdir $d/tmp
        systemctl start docker
        for f in $(ldd /usr/local/bin/load | grep -o "/[^ ]*"); do mkdir -p $d${f%/*}; cp -L $f $d$f; done
        tar -C $d -c . | docker import - lab/load >/dev/null; rm -r $d; until docker network inspect ployz0 >/dev/null 2>&1; do sleep 0.2; done'
done
put 1 "$programs/propagation" /usr/local/bin/propagation
names=(); askers=()
for n in 1 2 3; do
    status=$(on "$n" 'ployzctl --json mesh status bench')
    names+=("$(on "$n" hostname)")
    overlay=$(jq -r .payload.overlay_ip <<<"$status")
    [ "$n" != 1 ] || store="[$overlay]:4222"
    askers+=(--gateway "10.77.0.1$n:80" --dns "[$overlay]:53")
done
own="$store /var/lib/ployz/networks/bench"

# What a process holds by itself (anonymous), what of files it maps, and its share of both where others map them too.
cat >"$dir/processes" <<'SH'
ticks() { awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$1/stat"; }
pids=$(pgrep -x 'ployzd|nats-server|ployz-gateway|ployz-dns|ployz-front|ployz-sockets|ployz-wireguard')
for p in $pids; do eval "before_$p=$(ticks "$p")"; done
sleep "$1"
for p in $pids; do
    eval "before=\$before_$p"
    name=$(cat "/proc/$p/comm"); [ "$name" != ployz-front ] || name="$name ($(tr '\0' ' ' <"/proc/$p/cmdline" | grep -o 'ployz-\(gateway\|dns\)' | tail -n 1))"
    awk -v name="$name" -v cpu="$(awk -v a="$before" -v b="$(ticks "$p")" -v s="$1" 'BEGIN {printf "%.2f", (b - a) / s}')" '
        /^Rss:/ {rss = $2} /^Pss:/ {pss = $2} /^Pss_Anon:/ {anon = $2} /^Pss_File:/ {file = $2}
        END {printf "%s:%.1f:%.1f:%.1f:%.1f:%s\n", name, pss / 1024, anon / 1024, file / 1024, rss / 1024, cpu}' "/proc/$p/smaps_rollup"
done | sort
SH
processes() { # heading
    echo; echo "$1 ($(machine)):"; echo
    echo '| node | process | PSS MiB | anonymous | of files | RSS MiB | CPU of one core at idle, % |'; echo '|---|---|---|---|---|---|---|'
    for n in 1 2; do
        put "$n" "$dir/processes" /usr/local/bin/processes
        role=founder; [ "$n" = 1 ] || role=member
        on "$n" "sh /usr/local/bin/processes $idle" | awk -F: -v role="$role" '{printf "| %s | %s | %s | %s | %s | %s | %s |\n", role, $1, $2, $3, $4, $5, $6; pss += $2; anon += $3; file += $4; cpu += $6}
            END {printf "| %s | **together** | **%.1f** | %.1f | %.1f | | %.2f |\n", role, pss, anon, file, cpu}'
    done
}

echo "node: $(machine); $routes services with a route and three instances each"
deploy 1 0
on 1 "propagation fill $own $routes ${names[*]}"
sleep 10 # snapshots are written, tables made
processes "Memory and CPU of each process with the routes loaded, over $idle s"

manifests() { for ((version = 1; version <= commits; version++)); do deploy $((version % 3 + 1)) "$version"; done; }
"$lab" sh 1 "exec propagation follow $own bench web $commits ${askers[*]}" </dev/null >"$dir/times" 2>&1 & following=$!
until grep -q begun "$dir/times"; do kill -0 "$following"; sleep 0.1; done
manifests & deploying=$!
wait "$following" || { cat "$dir/times" >&2; kill "$deploying" || true; exit 1; }
wait "$deploying" || true
echo; echo "From the store's acknowledgement of a commit, $commits deploys of one service ($(machine)):"; echo
echo '| ms | median | p99 | longest |'; echo '|---|---|---|---|'
tr -d '\r' <"$dir/times" | awk -F: 'NF == 4 {printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4}'
processes "The same after those deploys"
