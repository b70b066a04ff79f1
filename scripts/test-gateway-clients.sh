#!/usr/bin/env bash
# test-gateway-clients.sh [http] [tls] [grpc] [testssl]   real clients against ployz-gateway; without arguments all of them.
#   http     curl, nghttp, h2load and a WebSocket client over HTTP/1.0, 1.1, h2c, h2 and TLS
#   tls      curl and openssl against an imported certificate: names, versions, a chain that is verified
#   grpc     Debian's python3-grpcio on both sides: every kind of call
#   testssl  all that testssl.sh knows; nothing above LOW may be found
# Backends are small servers that say what they received (gateway-clients/). Everything is in a network namespace and a
# directory of its own. GATEWAY_BIN=target/debug/ployz-gateway (built if it is not there). Exits with the number of the
# checks that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- http tls grpc testssl
if [ -z "${PLOYZ_GATEWAY_CLIENTS:-}" ]; then
    for program in curl nghttp h2load openssl python3 testssl jq; do
        command -v "$program" >/dev/null || { echo "$program is missing: scripts/setup.sh test" >&2; exit 100; }
    done
    GATEWAY_BIN=${GATEWAY_BIN:-${CARGO_TARGET_DIR:-target}/debug/ployz-gateway}
    [ -x "$GATEWAY_BIN" ] || cargo build -q -p ployz-gateway
    PLOYZ_GATEWAY_CLIENTS=1 GATEWAY_BIN=$(realpath "$GATEWAY_BIN") exec unshare --net -- "$0" "$@"
fi
parts=$PWD/scripts/gateway-clients
dir=$(mktemp -d); started=(); judging=()
cleanup() {
    for pid in "${started[@]}" "${judging[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
ip link set lo up; ip addr add 10.101.0.3/32 dev lo
"$parts/certificate.sh" "$dir"
"$parts/kept.py" "$dir"
head -c 3000000 /dev/urandom >"$dir/upload"
# A seed of nobody: no store is asked for, what is on disk is served.
echo SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY >"$dir/seed"; chmod 600 "$dir/seed"
gateway() { # ports for HTTP and HTTPS, further settings...
    env PLOYZ_GATEWAY_SEED="$dir/seed" PLOYZ_GATEWAY_NATS=127.0.0.1:4222 PLOYZ_GATEWAY_MACHINE=m0 \
        PLOYZ_GATEWAY_NETWORK=0123456789abcdef0123456789abcdef PLOYZ_GATEWAY_SNAPSHOT="$dir/snapshot" \
        PLOYZ_GATEWAY_HTTP="0.0.0.0:$1" PLOYZ_GATEWAY_HTTPS="0.0.0.0:$2" PLOYZ_GATEWAY_ACCESS_LOG=false \
        PLOYZ_GATEWAY_DRAIN_SECS=1 PLOYZ_LOG=error,pingora_core=off "${@:3}" "$GATEWAY_BIN" & started+=($!)
}
# One with a pair of files for every name, one with nothing but the imported certificate.
gateway 8080 8443 PLOYZ_GATEWAY_TLS_CERT_PATH="$dir/cert.pem" PLOYZ_GATEWAY_TLS_KEY_PATH="$dir/key.pem"
gateway 9080 9443
"$parts/backend.py" & started+=($!)

http=http://a.test:8080; https=https://a.test:8443; imported=https://a.test:9443; failed=0; passed=0
ask() {
    local port resolve=()
    for port in 8080 8443 9080 9443; do resolve+=(--resolve "a.test:$port:127.0.0.1"); done
    curl -s -m 20 --cacert "$dir/root.pem" "${resolve[@]}" "$@"
}
check() { # what, pattern, output
    if grep -qE -- "$2" <<<"$3"; then passed=$((passed + 1)); else
        failed=$((failed + 1)); printf 'FAILED: %s: no %s in:\n%s\n' "$1" "$2" "$(head -c 1500 <<<"$3")" >&2
    fi
}
ready() { # url
    for _ in $(seq 300); do if ask -o /dev/null -f "$1"; then return; fi; sleep 0.1; done
    echo "nothing answers at $1" >&2; exit 100
}
for url in "$http/" "$https/" "$imported/"; do ready "$url"; done

# shellcheck source=scripts/gateway-clients/http.sh
. "$parts/http.sh"
# shellcheck source=scripts/gateway-clients/tls.sh
. "$parts/tls.sh"
# shellcheck source=scripts/gateway-clients/grpc.sh
. "$parts/grpc.sh"
# shellcheck source=scripts/gateway-clients/testssl.sh
. "$parts/testssl.sh"
# It takes longest and waits for nobody.
if [[ " $* " = *" testssl "* ]]; then testssl_begins; fi
for part; do "${part}_clients"; done
echo "real clients: $passed checks passed, $failed failed"
exit "$failed"
