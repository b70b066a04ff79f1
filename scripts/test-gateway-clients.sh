#!/usr/bin/env bash
# Real clients against ployz-gateway: curl, nghttp, h2load, openssl and a WebSocket client, over HTTP/1.0, 1.1, h2c, h2 and TLS.
# Its backend is a small server that says what it received. Everything is in a network namespace and a directory of its own.
# GATEWAY_BIN=target/debug/ployz-gateway (built if it is not there). Exits with the number of the checks that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PLOYZ_GATEWAY_CLIENTS:-}" ]; then
    for program in curl nghttp h2load openssl python3; do
        command -v "$program" >/dev/null || { echo "$program is missing: scripts/setup.sh test" >&2; exit 100; }
    done
    GATEWAY_BIN=${GATEWAY_BIN:-${CARGO_TARGET_DIR:-target}/debug/ployz-gateway}
    [ -x "$GATEWAY_BIN" ] || cargo build -q -p ployz-gateway
    PLOYZ_GATEWAY_CLIENTS=1 GATEWAY_BIN=$(realpath "$GATEWAY_BIN") exec unshare --net -- "$0"
fi
dir=$(mktemp -d); started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
ip link set lo up; ip addr add 10.101.0.3/32 dev lo
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=a.test \
    -addext subjectAltName=DNS:a.test -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
head -c 3000000 /dev/urandom >"$dir/upload"

cat >"$dir/backend.py" <<'PYTHON'
"""Says what it received; /bytes/N is N bytes and knows ranges; /chunks comes in pieces; /ws echoes one WebSocket message."""
import base64, hashlib, http.server, struct, sys
class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size); self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    def answer(self, code, body, **fields):
        self.send_response(code)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if self.path.startswith("/bytes/"):
            size = int(self.path.split("/")[2])
            whole = bytes(n % 251 for n in range(size))
            if given := self.headers.get("Range"):
                first, last = map(int, given.removeprefix("bytes=").split("-"))
                return self.answer(206, whole[first:last + 1], Content_Range=f"bytes {first}-{last}/{size}", Accept_Ranges="bytes")
            return self.answer(200, whole, ETag='"v1"')
        if self.path == "/chunks":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for piece in (b"one,", b"two,", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            return self.wfile.write(b"0\r\n\r\n")
        if self.path == "/unchanged":
            return self.answer(304, b"")
        body = self.body()
        fields = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        self.answer(200, f"{self.command} {self.path}\n{fields}\n{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode())
    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET
    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers()
        while (head := self.rfile.read(2)) and head[0] & 15 != 8:
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([0x81, len(data)]) + data)
        self.close_connection = True
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
Server(("10.101.0.3", 9000), Backend).serve_forever()
PYTHON
cat >"$dir/websocket.py" <<'PYTHON'
"""Says hello over a WebSocket and prints what comes back."""
import os, socket, sys
with socket.create_connection(("127.0.0.1", 8080), 5) as s:
    s.sendall(b"GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
              b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    stream = s.makefile("rb")
    status = stream.readline().split()[1]
    fields = {}
    while line := stream.readline().strip():
        name, value = line.split(b":", 1); fields[name.lower()] = value.strip()
    assert status == b"101" and fields[b"sec-websocket-accept"] == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", (status, fields)
    mask = os.urandom(4)
    for message in (b"hello", b"again"):
        s.sendall(bytes([0x81, 0x80 | len(message)]) + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(message)))
        head = stream.read(2)
        print(stream.read(head[1]).decode())
    s.sendall(bytes([0x88, 0x80]) + mask)
PYTHON
python3 - "$dir" <<'PYTHON'
import hashlib, json, sys
deploy = "0123456789abcdef"
events = [["machine.m0", {"kind": "machine", "overlay_ip": "fda1:2826:9433::16", "subnet": "10.101.0.0/24"}],
    ["service.shop.web", {"kind": "service", "deploy": deploy, "revision": "r", "instances": ["web-0"],
        "ports": [{"name": "http", "port": 9000, "protocol": "tcp"}], "http": [{"host": "a.test", "path": "/", "port": 9000}]}],
    ["instance.m0.shop.web.web-0", {"kind": "instance", "address": "10.101.0.3", "revision": "r", "deploy": deploy, "slot": 0, "ready": True}]]
body = json.dumps({"network": "0123456789abcdef" * 2, "sequence": 1, "live": 1, "events": events}).encode()
with open(f"{sys.argv[1]}/snapshot", "wb") as file:
    file.write(b"ployz-routing 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
PYTHON
# A seed of nobody: no store is asked for, the snapshot is what is served.
echo SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY >"$dir/seed"; chmod 600 "$dir/seed"
python3 "$dir/backend.py" & started+=($!)
PLOYZ_GATEWAY_SEED="$dir/seed" PLOYZ_GATEWAY_NATS=127.0.0.1:4222 PLOYZ_GATEWAY_MACHINE=m0 \
    PLOYZ_GATEWAY_NETWORK=0123456789abcdef0123456789abcdef PLOYZ_GATEWAY_SNAPSHOT="$dir/snapshot" \
    PLOYZ_GATEWAY_HTTP=0.0.0.0:8080 PLOYZ_GATEWAY_HTTPS=0.0.0.0:8443 PLOYZ_GATEWAY_ACCESS_LOG=false PLOYZ_GATEWAY_DRAIN_SECS=1 \
    PLOYZ_GATEWAY_TLS_CERT_PATH="$dir/cert.pem" PLOYZ_GATEWAY_TLS_KEY_PATH="$dir/key.pem" PLOYZ_LOG=error,pingora_core=off "$GATEWAY_BIN" & started+=($!)

http=http://a.test:8080; https=https://a.test:8443; failed=0; passed=0
ask() { curl -s -m 20 --cacert "$dir/cert.pem" --resolve a.test:8080:127.0.0.1 --resolve a.test:8443:127.0.0.1 "$@"; }
check() { # what, pattern, output
    if grep -qE -- "$2" <<<"$3"; then passed=$((passed + 1)); else
        failed=$((failed + 1)); printf 'FAILED: %s: no %s in:\n%s\n' "$1" "$2" "$(head -c 1500 <<<"$3")" >&2
    fi
}
ready=; for _ in $(seq 300); do if ask -o /dev/null -f "$http/"; then ready=1; break; fi; sleep 0.1; done
[ -n "$ready" ] || { echo "the gateway does not answer" >&2; exit 100; }

sum=$(sha256sum "$dir/upload" | cut -d' ' -f1)
for way in "--http1.0 $http" "--http1.1 $http" "--http2-prior-knowledge $http" "--http1.1 $https" "--http2 $https"; do
    read -r flag base <<<"$way"
    check "$way GET" '^GET /x\?y=1' "$(ask "$flag" "$base/x?y=1")"
    check "$way says who asks" '^[Xx]-[Ff]orwarded-[Ff]or: 127.0.0.1' "$(ask "$flag" -H 'X-Forwarded-For: 9.9.9.9' "$base/")"
    check "$way upload" "^3000000 $sum" "$(ask "$flag" --data-binary "@$dir/upload" "$base/")"
    check "$way upload after leave to send it" "^3000000 $sum" "$(ask "$flag" -H 'Expect: 100-continue' -T "$dir/upload" "$base/")"
    check "$way HEAD" '^200 0' "$(ask "$flag" -I -o /dev/null -w '%{http_code} %{size_download}' "$base/bytes/1000")"
    check "$way range" '^206 10' "$(ask "$flag" -r 5-14 -o /dev/null -w '%{http_code} %{size_download}' "$base/bytes/100")"
    check "$way 304" '^304 0' "$(ask "$flag" -o /dev/null -w '%{http_code} %{size_download}' "$base/unchanged")"
    check "$way answer in chunks" '^one,two,three$' "$(ask "$flag" "$base/chunks")"
    check "$way 1 MB" '^200 1000000' "$(ask "$flag" -o /dev/null -w '%{http_code} %{size_download}' "$base/bytes/1000000")"
    check "$way unknown host" '^404' "$(ask "$flag" -o /dev/null -w '%{http_code}' -H 'Host: b.test' "$base/")"
    check "$way DELETE" '^DELETE /thing' "$(ask "$flag" -X DELETE "$base/thing")"
done
for way in "--http1.1 $http" "--http1.1 $https" "--http2 $https"; do
    read -r flag base <<<"$way"
    check "$way upload of unknown length" "^3000000 $sum" "$(ask "$flag" -H 'Transfer-Encoding: chunked' -T - "$base/" <"$dir/upload")"
    check "$way three on one connection" '^1$' "$(ask "$flag" -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects}\n' "$base/1" "$base/2" "$base/3" | awk '{n += $1} END {print n}')"
done
check 'Connection: close is kept' '^connection: close' "$(ask --http1.1 -D - -o /dev/null -H 'Connection: close' "$http/" | tr '[:upper:]' '[:lower:]')"
check 'no HTTP/2 where it is not asked for' 'ALPN.*http/1.1' "$(openssl s_client -connect 127.0.0.1:8443 -servername a.test -alpn http/1.1 </dev/null 2>/dev/null | tr -d '\0')"
check 'HTTP/2 where it is offered' 'ALPN.*h2' "$(openssl s_client -connect 127.0.0.1:8443 -servername a.test -alpn h2,http/1.1 </dev/null 2>/dev/null | tr -d '\0')"
check 'TLS 1.2' 'Protocol *: TLSv1.2' "$(openssl s_client -connect 127.0.0.1:8443 -servername a.test -tls1_2 </dev/null 2>/dev/null | tr -d '\0')"
check 'WebSocket' '^again$' "$(timeout 20 python3 "$dir/websocket.py" 2>&1)"
check 'requests in one segment' '^3$' "$( { printf 'GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n' 1 2; printf 'GET /3 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n'; } |
    timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080; cat >&3; cat <&3' | grep -c '^HTTP/1.1 200')"
check 'nghttp with priorities and trailers' "3000000 $sum" "$(timeout 20 nghttp -v -y -p 200 --trailer 'x-end: yes' -d "$dir/upload" "https://127.0.0.1:8443/" -H ':authority: a.test' 2>&1)"
check 'offer to upgrade to HTTP/2 may be ignored' '^200' "$(ask --http2 -o /dev/null -w '%{http_code}' "$http/")"
for base in https://a.test:8443 http://a.test:8080; do
    port=${base##*:}
    check "h2load $base, 100 streams" '2000 succeeded, 0 failed, 0 errored' \
        "$(timeout 60 h2load -n2000 -c4 -m100 --connect-to="127.0.0.1:$port" "$base/bytes/20000" 2>&1)"
    check "h2load $base, uploads" '200 succeeded, 0 failed, 0 errored' \
        "$(head -c 100000 "$dir/upload" >"$dir/part"; timeout 60 h2load -n200 -c4 -m20 -d "$dir/part" --connect-to="127.0.0.1:$port" "$base/" 2>&1)"
done
echo "real clients: $passed checks passed, $failed failed"
exit "$failed"
