#!/usr/bin/env bash
# ployz-gateway side by side with Debian's nginx and HAProxy: requests a second, p50, p99, p99.9, CPU a request. Asserts nothing.
# One proxy at a time with one thread on one core; client and backend on the other; rounds interleaved; medians of the rounds.
# All three write no access log, keep connections to the backend open, and know 1,000 hosts. Everything is in a network
# namespace and a directory of its own. ROUNDS=3, SECONDS_EACH=4, ROUTES=1000, CONNECTIONS="1 64 512",
# KINDS="http https h2 handshake", SIZES="small large", ONLY="ployz nginx haproxy", GATEWAY_BIN=target/release/ployz-gateway.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PLOYZ_BENCH_GATEWAY:-}" ]; then
    . scripts/bench-tools.sh
    need h2load:nghttp2-client wrk:wrk openssl:openssl -- nginx:nginx-light haproxy:haproxy
    GATEWAY_BIN=${GATEWAY_BIN:-${CARGO_TARGET_DIR:-target}/release/ployz-gateway}
    [ -x "$GATEWAY_BIN" ] || cargo build -q --release -p ployz-gateway
    PLOYZ_BENCH_GATEWAY=1 GATEWAY_BIN=$(realpath "$GATEWAY_BIN") exec unshare --net -- "$0"
fi
PATH=$PATH:/usr/sbin
rounds=${ROUNDS:-3}; each=${SECONDS_EACH:-4}; routes=${ROUTES:-1000}
command -v nginx >/dev/null || { echo "bench-gateway: nginx is also the backend: apt-get install nginx-light" >&2; exit 1; }
proxies=()
for name in ${ONLY:-ployz nginx haproxy}; do
    if [ "$name" = ployz ] || command -v "$name" >/dev/null; then proxies+=("$name"); else echo "$name is not installed and not measured"; fi
done
read -r -a connections <<<"${CONNECTIONS:-1 64 512}"
read -r -a kinds <<<"${KINDS:-http https h2 handshake}"
read -r -a sizes <<<"${SIZES:-small large}"
proxy_core=0; client_core=$(($(nproc) - 1))
dir=$(mktemp -d); started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
chmod 755 "$dir"; ulimit -n "$(ulimit -Hn)"
ip link set lo up; ip addr add 10.101.0.3/32 dev lo

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench.test \
    -addext subjectAltName=DNS:bench.test -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
cat "$dir/cert.pem" "$dir/key.pem" >"$dir/both.pem"; chmod 644 "$dir"/*.pem
mkdir "$dir/www"; head -c 100 /dev/zero | tr '\0' a >"$dir/www/small"; head -c 20480 /dev/zero | tr '\0' b >"$dir/www/large"
printf 'wrk.headers["Host"]="bench.test"\n' >"$dir/host.lua"
cat >>"$dir/host.lua" <<'LUA'
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests * 1e6 / summary.duration, latency:percentile(50),
        latency:percentile(99), latency:percentile(99.9), errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
LUA

cat >"$dir/backend.conf" <<NGINX
daemon off; worker_processes 1; pid $dir/backend.pid; error_log $dir/backend.log;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on;
    client_body_temp_path $dir/b1; proxy_temp_path $dir/b2; fastcgi_temp_path $dir/b3; uwsgi_temp_path $dir/b4; scgi_temp_path $dir/b5;
    open_file_cache max=10; server { listen 10.101.0.3:9000 backlog=4096; root $dir/www; } }
NGINX
{
    cat <<NGINX
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.log;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 100000000; server_names_hash_max_size 8192; client_max_body_size 0;
    client_body_temp_path $dir/n1; proxy_temp_path $dir/n2; fastcgi_temp_path $dir/n3; uwsgi_temp_path $dir/n4; scgi_temp_path $dir/n5;
    upstream backend { server 10.101.0.3:9000; keepalive 1024; keepalive_requests 100000000; }
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host; proxy_set_header X-Request-Id \$request_id;
    proxy_set_header X-Forwarded-For \$remote_addr; proxy_set_header X-Forwarded-Proto \$scheme; proxy_set_header X-Forwarded-Host \$host;
    ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off;
NGINX
    for ((n = 0; n < routes; n++)); do echo "server { listen 8080; server_name s$n.bench.test; location / { proxy_pass http://backend; } }"; done
    echo "server { listen 8080 backlog=4096; listen 8443 ssl http2 backlog=4096; server_name bench.test; location / { proxy_pass http://backend; } } }"
} >"$dir/nginx.conf"
for ((n = 0; n < routes; n++)); do echo "s$n.bench.test backend"; done >"$dir/hosts.map"; echo "bench.test backend" >>"$dir/hosts.map"
cat >"$dir/haproxy.cfg" <<HAPROXY
global
    nbthread 1
    maxconn 8192
    tune.ssl.cachesize 0
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    option forwardfor
    http-reuse always
frontend f
    bind :8080 backlog 4096
    bind :8443 ssl crt $dir/both.pem alpn h2,http/1.1 backlog 4096
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Request-Id %[uuid()]
    use_backend %[req.hdr(host),field(1,:),lower,map($dir/hosts.map,none)]
backend backend
    server b 10.101.0.3:9000 pool-max-conn 1024
backend none
    http-request return status 404
HAPROXY
python3 - "$dir" "$routes" <<'PYTHON'
import hashlib, json, sys
dir, routes, deploy = sys.argv[1], int(sys.argv[2]), "0123456789abcdef"
events = [["machine.m0", {"kind": "machine", "overlay_ip": "fda1:2826:9433::16", "subnet": "10.101.0.0/24"}]]
for n in range(routes + 1):
    name, host = (f"s{n}", f"s{n}.bench.test") if n < routes else ("bench", "bench.test")
    events.append([f"service.shop.{name}", {"kind": "service", "deploy": deploy, "revision": "r", "instances": [f"{name}-0"],
        "ports": [{"name": "http", "port": 9000, "protocol": "tcp"}], "http": [{"host": host, "path": "/", "port": 9000}]}])
    events.append([f"instance.m0.shop.{name}.{name}-0", {"kind": "instance", "address": "10.101.0.3", "revision": "r",
        "deploy": deploy, "slot": 0, "ready": True}])
body = json.dumps({"network": "0123456789abcdef" * 2, "sequence": 1, "live": 1, "events": events}).encode()
with open(f"{dir}/snapshot", "wb") as file:
    file.write(b"ployz-routing 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
PYTHON
# A seed of nobody: no store is asked for, the snapshot is what is served.
echo SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY >"$dir/seed"; chmod 600 "$dir/seed"

run() { local core=$1; shift; taskset -c "$core" "$@" >>"$dir/out.log" 2>&1 & started+=($!); }
stop() { kill "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }
answers() { curl -s -o /dev/null -m 2 -w '%{http_code}' -H 'Host: bench.test' http://127.0.0.1:8080/small | grep -q 200; }
start() {
    case $1 in
    ployz) run $proxy_core env PLOYZ_GATEWAY_SEED="$dir/seed" PLOYZ_GATEWAY_NATS=127.0.0.1:4222 PLOYZ_GATEWAY_MACHINE=m0 \
        PLOYZ_GATEWAY_NETWORK=0123456789abcdef0123456789abcdef PLOYZ_GATEWAY_SNAPSHOT="$dir/snapshot" PLOYZ_GATEWAY_THREADS=1 \
        PLOYZ_GATEWAY_HTTP=0.0.0.0:8080 PLOYZ_GATEWAY_HTTPS=0.0.0.0:8443 PLOYZ_GATEWAY_ACCESS_LOG=false PLOYZ_GATEWAY_DRAIN_SECS=1 \
        PLOYZ_GATEWAY_TLS_CERT_PATH="$dir/cert.pem" PLOYZ_GATEWAY_TLS_KEY_PATH="$dir/key.pem" PLOYZ_LOG=error "$GATEWAY_BIN" ;;
    nginx) run $proxy_core nginx -c "$dir/nginx.conf" ;;
    haproxy) run $proxy_core haproxy -db -f "$dir/haproxy.cfg" ;;
    esac
    proxy=${started[-1]}
    for _ in $(seq 100); do if answers; then return; fi; sleep 0.1; done
    echo "$1 does not answer" >&2; tail -n 20 "$dir"/*.log >&2; exit 1
}
ticks() { # CPU of the proxy with its children, in ticks of 10 ms
    local pid; for pid in "$1" $(pgrep -P "$1" || true); do awk '{print $14 + $15}' "/proc/$pid/stat"; done | awk '{sum += $1} END {print sum}'
}
memory() { local pid; for pid in "$1" $(pgrep -P "$1" || true); do awk '/^Rss(Anon|Shmem)/ {sum += $2} END {print sum}' "/proc/$pid/status"; done | awk '{sum += $1} END {printf "%.1f", sum / 1024}'; }
load() { # kind size connections -> requests/s p50 p99 p99.9 errors requests
    local kind=$1 size=$2 count=$3 log=$dir/h2.log
    case $kind in
    http) taskset -c $client_core wrk -t1 -c"$count" -d"${each}s" -s "$dir/host.lua" "http://127.0.0.1:8080/$size" | awk '/^RESULT/ {print $2, $3, $4, $5, $6}' ;;
    https) taskset -c $client_core wrk -t1 -c"$count" -d"${each}s" -s "$dir/host.lua" "https://127.0.0.1:8443/$size" | awk '/^RESULT/ {print $2, $3, $4, $5, $6}' ;;
    h2) # ten streams a connection; fewer where that were more requests under way than anybody keeps connections for
        local streams=10; [ "$count" -le 100 ] || streams=2
        rm -f "$log"
        taskset -c $client_core h2load -t1 -c"$count" -m"$streams" -D"$each" --log-file="$log" --connect-to=127.0.0.1:8443 \
            "https://bench.test:8443/$size" >"$dir/h2.out" 2>&1 || { cat "$dir/h2.out" >&2; exit 1; }
        sort -n -k3 "$log" | awk -v each="$each" '$2 == 200 {v[++n] = $3} $2 != 200 {bad++}
            END {printf "%d %d %d %d %d\n", n / each, v[int(n * 0.5) + 1], v[int(n * 0.99) + 1], v[int(n * 0.999) + 1], bad}' ;;
    handshake) # a TLS connection a request
        taskset -c $client_core wrk -t1 -c"$count" -d"${each}s" -H 'Connection: close' -s "$dir/host.lua" "https://127.0.0.1:8443/$size" |
            awk '/^RESULT/ {print $2, $3, $4, $5, $6}' ;;
    esac
}
cases() {
    local kind size count
    for kind in "${kinds[@]}"; do for size in "${sizes[@]}"; do for count in "${connections[@]}"; do
        if [ "$kind" = handshake ] && { [ "$size" = large ] || [ "$count" != 64 ]; }; then continue; fi
        echo "$kind $size $count"
    done; done; done
}

run $client_core nginx -c "$dir/backend.conf"
for ((round = 1; round <= rounds; round++)); do
    for name in "${proxies[@]}"; do
        start "$name"
        while read -r kind size count; do
            before=$(ticks "$proxy"); read -r rate p50 p99 p999 errors < <(load "$kind" "$size" "$count" </dev/null); after=$(ticks "$proxy")
            echo "$kind $size $count $name $rate $p50 $p99 $p999 $errors $(awk -v t=$((after - before)) -v n=$((rate * each)) 'BEGIN {printf "%.1f", n ? t * 10000 / n : 0}')" >>"$dir/results"
        done < <(cases)
        echo "$name $(memory "$proxy")" >>"$dir/memory"
        stop "$proxy"
    done
done

machine() { printf '%s, %s cores, %s MHz, kernel %s, load %s' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
    "$(sed -n 's/^cpu MHz.*: //p' /proc/cpuinfo | head -n 1)" "$(uname -r)" "$(cut -d' ' -f1 /proc/loadavg)"; }
echo "gateway: $(machine); $(nginx -v 2>&1 | sed 's/nginx version: //'), $({ haproxy -v 2>/dev/null || echo "no HAProxy"; } | head -n 1 | cut -d' ' -f1-3), $rounds rounds of $each s, $routes hosts; medians"
echo
echo '| what | proxy | requests/s | of nginx | p50 us | p99 us | p99.9 us | CPU us a request | errors |'
echo '|---|---|---|---|---|---|---|---|---|'
python3 - "$dir" "${proxies[@]}" <<'PYTHON'
import collections, statistics, sys
dir, proxies = sys.argv[1], sys.argv[2:]
rows = collections.OrderedDict()
for line in open(f"{dir}/results"):
    kind, size, count, name, *figures = line.split()
    rows.setdefault((kind, size, count), {}).setdefault(name, []).append([float(figure) for figure in figures])
for (kind, size, count), by_proxy in rows.items():
    middle = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in by_proxy.items()}
    nginx = middle.get("nginx", [0])[0]
    for name in proxies:
        rate, p50, p99, p999, errors, cpu = middle[name]
        ratio = f"{rate / nginx:.2f}" if nginx else "-"
        print(f"| {kind}, {size}, {count} connections | {name} | {rate:.0f} | {ratio} | {p50:.0f} | {p99:.0f} | {p999:.0f} | {cpu:.1f} | {errors:.0f} |")
memory = collections.defaultdict(list)
for line in open(f"{dir}/memory"):
    name, size = line.split()
    memory[name].append(float(size))
print()
for name in proxies:
    print(f"memory of {name} after it all (anonymous): {statistics.median(memory[name]):.1f} MiB")
PYTHON
