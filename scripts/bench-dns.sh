#!/usr/bin/env bash
# ployz-dns side by side with Debian's unbound, dnsmasq and knot: queries a second, loss, p99, CPU a query. Asserts nothing.
# One server at a time on one core, dnsperf and the resolver that is forwarded to on another; rounds interleaved; medians.
# Everything is in a network namespace and a directory of its own. ROUNDS=5, SECONDS_EACH=3, SERVICES=1000, RATE=10000 (of the
# latency runs), DNS_BIN=target/release/ployz-dns (built if it is not there), ONLY="ployz unbound".
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PLOYZ_BENCH_DNS:-}" ]; then
    . scripts/bench-tools.sh
    need dnsperf:dnsperf dig:bind9-dnsutils dnsmasq:dnsmasq-base -- unbound:unbound knotd:knot
    DNS_BIN=${DNS_BIN:-${CARGO_TARGET_DIR:-target}/release/ployz-dns}
    [ -x "$DNS_BIN" ] || cargo build -q --release -p ployz-dns
    PLOYZ_BENCH_DNS=1 DNS_BIN=$(realpath "$DNS_BIN") exec unshare --net -- "$0"
fi
PATH=$PATH:/usr/sbin
rounds=${ROUNDS:-5}; each=${SECONDS_EACH:-3}; services=${SERVICES:-1000}; rate=${RATE:-10000}
command -v knotd >/dev/null || { echo "bench-dns: knot is also the resolver that is forwarded to: apt-get install knot" >&2; exit 1; }
servers=()
for name in ${ONLY:-ployz unbound dnsmasq knot}; do
    case $name in ployz) program=$DNS_BIN ;; knot) program=knotd ;; *) program=$name ;; esac
    if command -v "$program" >/dev/null; then servers+=("$name"); else echo "$name is not installed and not measured"; fi
done
server_core=0; client_core=$(($(nproc) - 1))
dir=$(mktemp -d); started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
ip link set lo up

# The same names for everybody: services with three instances, the resolver's zone, and what is asked.
python3 - "$dir" "$services" <<'PYTHON'
import hashlib, json, sys
dir, services = sys.argv[1], int(sys.argv[2])
deploy, events, zone, unbound, dnsmasq, hosts, asked = "0123456789abcdef", [], [], [], [], [], []
for m in range(3):
    events.append([f"machine.m{m}", {"kind": "machine", "overlay_ip": f"fda1:2826:9433::{m+16:x}", "subnet": f"10.101.{m}.0/24"}])
for n in range(services):
    own = f"s{n}.shop.ployz.internal"
    names = [f"s{n}-{m}" for m in range(3)]
    events.append([f"service.shop.s{n}", {"kind": "service", "deploy": deploy, "revision": "r", "instances": names,
                                          "ports": [{"name": "http", "port": 8080, "protocol": "tcp"}]}])
    for m, name in enumerate(names):
        address, full = f"10.101.{m}.{3 + n % 250}", f"{name}.instance.{own}"
        events.append([f"instance.m{m}.shop.s{n}.{name}", {"kind": "instance", "address": address, "revision": "r",
                                                           "deploy": deploy, "slot": m, "ready": True}])
        srv = f"_http._tcp.{own}"
        for record in (f"{own}. 5 IN A {address}", f"{full}. 5 IN A {address}", f"{srv}. 5 IN SRV 0 10 8080 {full}."):
            zone.append(record)
            unbound.append(f'local-data: "{record}"')
        hosts += [f"{address} {own}", f"{address} {full}"]
        dnsmasq.append(f"srv-host={srv},{full},8080")
    asked += [f"{own} A", f"{own} AAAA", f"_http._tcp.{own} SRV"]
body = json.dumps({"network": "0123456789abcdef" * 2, "sequence": 1, "live": 1, "events": events}).encode()
def write(name, lines):
    with open(f"{dir}/{name}", "w") as file:
        file.write("\n".join(lines) + "\n")
with open(f"{dir}/snapshot", "wb") as file:
    file.write(b"ployz-routing 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
soa = "3600 IN SOA m0 hostmaster 1 60 60 3600 5"
write("ployz.zone", [f"ployz.internal. {soa}", "ployz.internal. 3600 IN NS m0.ployz.internal.", "m0.ployz.internal. 5 IN A 10.101.0.2"] + zone)
write("example.zone", [f"example. {soa}", "example. 3600 IN NS ns.example.", "ns.example. 3600 IN A 192.0.2.1", "*.example. 3600 IN A 192.0.2.2"])
write("unbound.local", unbound)
write("dnsmasq.srv", dnsmasq)
write("hosts", hosts)
write("overlay.ask", asked)
write("cached.ask", [f"n{n}.kept.example A" for n in range(1000)])
PYTHON
cat >"$dir/unbound.conf" <<CONF
server:
  interface: 127.0.0.1@5302
  num-threads: 1
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "$dir"
  pidfile: "$dir/unbound.pid"
  use-syslog: no
  logfile: "$dir/unbound.log"
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "ployz.internal." static
  include: "$dir/unbound.local"
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@5399
CONF
knot() { # $1: name, $2: port, $3: zone
    mkdir -p "$dir/$1"
    cat >"$dir/$1.conf" <<CONF
server:
  rundir: "$dir/$1"
  listen: 127.0.0.1@$2
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "$dir/$1"
zone:
  - domain: $3.
    file: "$dir/${3%%.*}.zone"
    zonefile-sync: -1
CONF
}
knot knot 5304 ployz.internal
knot stub 5399 example
echo "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY" >"$dir/seed"
on() { local core=$1 name=$2; shift 2; taskset -c "$core" "$@" >"$dir/$name.out" 2>&1 & started+=($!); pid[$name]=$!; }
declare -A pid port=([ployz]=5301 [unbound]=5302 [dnsmasq]=5303 [knot]=5304)
on "$client_core" stub knotd -c "$dir/stub.conf"
on $server_core ployz env PLOYZ_LOG=warn "$DNS_BIN" --machine=m0 --network=0123456789abcdef0123456789abcdef --cluster-cidr=10.101.0.0/16 \
    --nats=127.0.0.1:1 --nats-seed-file="$dir/seed" --snapshot="$dir/snapshot" --listen=127.0.0.1:5301 --upstream=127.0.0.1:5399
on $server_core unbound unbound -c "$dir/unbound.conf"
on $server_core dnsmasq dnsmasq -k -C /dev/null --port=5303 --listen-address=127.0.0.1 --bind-interfaces --user=root --pid-file= \
    --no-resolv --server=127.0.0.1#5399 --no-hosts --addn-hosts="$dir/hosts" --conf-file="$dir/dnsmasq.srv" \
    --local=/ployz.internal/ --local-ttl=5 --cache-size=10000 --dns-forward-max=10000
on $server_core knot knotd -c "$dir/knot.conf"
for name in "${servers[@]}"; do
    for _ in $(seq 100); do
        [ "$(dig +short +time=1 +tries=1 -p "${port[$name]}" @127.0.0.1 s1.shop.ployz.internal A 2>/dev/null | grep -c ^10)" != 3 ] || continue 2
        sleep 0.1
    done
    echo "bench-dns: $name does not answer:" >&2; tail "$dir/$name.out" >&2; exit 1
done

unique=0
ask() { # $1: kind; the file of what is asked. Names that nobody has asked for yet are made as they are needed.
    if [ "$1" = forwarded ]; then
        unique=$((unique + 1)); seq -f "u$unique-%.0f.example A" 1000000 >"$dir/forwarded.ask"
    fi
}
cpu() { awk -v tick="$(getconf CLK_TCK)" '{print ($14 + $15) * 1000000 / tick}' "/proc/${pid[$1]}/stat"; }
perf() { local name=$1 kind=$2; shift 2; taskset -c "$client_core" dnsperf -p "${port[$name]}" -s 127.0.0.1 -d "$dir/$kind.ask" -c 100 -q 100 -t 5 "$@"; }
round() { # $1: server, $2: kind
    ask "$2"
    local before after
    before=$(cpu "$1"); perf "$1" "$2" -l "$each" >"$dir/perf"; after=$(cpu "$1")
    awk -v cpu=$((after - before)) '/Queries per second/ {qps=$4} /Queries completed/ {done=$3} /Queries lost/ {lost=$3}
        /Response codes/ {codes=$0; sub(/.*codes: */, "", codes)} END {printf "%d %d %.1f %s\n", qps, lost, done ? cpu/done : 0, codes}' "$dir/perf" >>"$dir/$1.$2"
    ask "$2"
    perf "$1" "$2" -l 2 -Q "$rate" -v | awk '$1 == ">" {print $NF * 1000000}' | sort -n |
        awk '{v[NR]=$1} END {if (NR) printf "%d\n", v[int(NR * 0.99)]}' >>"$dir/$1.$2.p99"
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
kinds_of() { if [ "$1" = knot ]; then echo overlay; else echo overlay cached forwarded; fi; }

for name in "${servers[@]}"; do [ "$name" = knot ] || perf "$name" cached -n 2 >/dev/null; done
before=$(cut -d' ' -f1-3 /proc/loadavg)
for _ in $(seq "$rounds"); do for name in "${servers[@]}"; do for kind in $(kinds_of "$name"); do round "$name" "$kind"; done; done; done
echo "machine: $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), kernel $(uname -r); load average before $before, after $(cut -d' ' -f1-3 /proc/loadavg)"
echo "$services services with three instances, 100 clients with 100 queries outstanding, server on core $server_core, dnsperf and the resolver forwarded to on core $client_core; $rounds interleaved rounds of $each s; p99 at $rate queries/s. unbound $(unbound -V | sed -n '1s/Version //p'), dnsmasq $(dnsmasq -v | sed -n '1s/.*version \([^ ]*\).*/\1/p'), knot $(knotd -V | sed 's/.*version //')."
echo; echo '| names | server | queries/s, median (min-max) | lost of all rounds | CPU us a query | p99 us | other answers than NOERROR |'; echo '|---|---|---|---|---|---|---|'
for kind in overlay cached forwarded; do for name in "${servers[@]}"; do
    [ -e "$dir/$name.$kind" ] || continue
    qps=$(cut -d' ' -f1 "$dir/$name.$kind" | sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)] " (" v[1] "-" v[NR] ")"}')
    lost=$(awk '{n += $2} END {print n}' "$dir/$name.$kind")
    odd=$(cut -d' ' -f4- "$dir/$name.$kind" | tr ',' '\n' | awk '$1 != "NOERROR" {n += $2} END {print n + 0}')
    echo "| $kind | $name | $qps | $lost | $(cut -d' ' -f3 "$dir/$name.$kind" | median) | $(median <"$dir/$name.$kind.p99") | $odd |"
done; done
