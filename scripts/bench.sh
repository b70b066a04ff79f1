#!/usr/bin/env bash
# Measurements of the mesh on real nodes, in both lanes, with the machine's description. Prints a table; asserts nothing.
# LANES="ns vm" (default both), ROUNDS=9.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh test
lanes=${LANES:-ns vm}; rounds=${ROUNDS:-9}
cargo build -q --release -p ployz-netns --example peer_change
packaging/build-deb.sh >/dev/null
cargo build -q -p ployz-tests
target=${CARGO_TARGET_DIR:-target}; lab=$target/debug/lab
deb=$(ls -t dist/ployz_*_amd64.deb | head -n 1)
trap '"$lab" down >/dev/null 2>&1 || true' EXIT

on() { local n=$1; shift; "$lab" sh "$n" "$*" </dev/null 2>/dev/null | tr -d '\r'; }
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)] " (" v[1] "-" v[NR] ")"}'; }
row() { printf '| %-4s | %-52s | %s |\n' "$1" "$2" "$3"; }

echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), kernel $(uname -r), load $(cut -d' ' -f1 /proc/loadavg)"
echo "lane ns: the machine's own speed, userspace WireGuard. Lane vm: emulated CPU (QEMU without KVM), kernel WireGuard: only ratios within it mean anything."
echo; row lane what "median (min-max)"; echo '|------|------------------------------------------------------|---|'
for lane in $lanes; do
    "$lab" down >/dev/null 2>&1 || true
    "$lab" up --lane "$lane" -n 2 --deb "$deb" >/dev/null
    on 1 'ployzctl mesh init bench' >/dev/null
    joins=()
    for _ in $(seq 3); do
        token=$(on 1 'ployzctl machine invite create --plain' | tail -n 1)
        joins+=("$(on 2 "echo $token >/run/token; s=\$(date +%s%N); ployzctl -q mesh join --token-stdin </run/token; until ployzctl -q mesh ready; do :; done; e=\$(date +%s%N); rm /run/token; echo \$(((e-s)/1000000))" | tail -n 1)")
        [ ${#joins[@]} = 3 ] || on 2 'ployzctl mesh destroy bench --local' >/dev/null
    done
    row "$lane" "mesh join to ready, ms" "$(printf '%s\n' "${joins[@]}" | median)"
    row "$lane" "systemctl restart ployzd to mesh ready, ms" "$(for _ in $(seq "$rounds"); do
        on 1 's=$(date +%s%N); systemctl restart ployzd; until ployzctl -q mesh ready 2>/dev/null; do :; done; e=$(date +%s%N); systemctl reset-failed ployzd; echo $(((e-s)/1000000))' | tail -n 1; done | median)"
    row "$lane" "of which adopting everything (ployzd's own time), ms" "$(on 1 "journalctl -u ployzd --no-pager -o cat | sed -n 's/^daemon start: adopted .* in \\([0-9]*\\) ms/\\1/p' | tail -n $rounds" | median)"
    on 1 'sleep 5' # the start is over
    idle=$(on 1 'p=$(systemctl show -p MainPID --value ployzd); t() { awk "{print \$14+\$15}" /proc/$p/stat; }; a=$(t); sleep 30; b=$(t); echo "$a $b"' | awk '{printf "%.2f %%", ($2-$1)/30.0}')
    row "$lane" "ployzd at idle over 30 s, CPU of one core" "$idle"
    for unit in ployzd ployz-nats ployz-wireguard; do
        rss=$(on 1 "awk '/VmRSS/ {printf \"%.1f MiB\", \$2/1024}' /proc/\$(systemctl show -p MainPID --value $unit)/status 2>/dev/null" || true)
        [ -z "$rss" ] || row "$lane" "resident memory of $unit" "$rss"
    done
    "$lab" sh 1 'mkdir -p /opt/bench; cat >/opt/bench/peer_change; chmod 755 /opt/bench/peer_change; ln -sf /usr/lib/ployz/ployz-wireguard /opt/bench/' <"$target/release/examples/peer_change" >/dev/null 2>&1
    backend=userspace; [ "$lane" = ns ] || backend=kernel
    for count in 1000 10000; do
        on 1 "/opt/bench/peer_change $backend $count" | while IFS=: read -r what value; do
            [ -z "$value" ] || row "$lane" "$what ($backend)" "$value"
        done
    done
done
if [[ $lanes == *ns* ]]; then echo; DEB=$deb scripts/bench-node.sh; fi
echo; scripts/bench-dns.sh
echo; scripts/bench-gateway.sh
