# shellcheck shell=bash disable=SC2154
# HTTP by curl, nghttp, h2load and a WebSocket client; read by test-gateway-clients.sh.
http_clients() {
    local sum way flag base port
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
    # An upload without a length whose last frame is empty was ended twice to the backend; the next client got what that answered.
    check 'each client its own answer after uploads in pieces' '^20$' "$(for n in $(seq 20); do
            { echo a; sleep 0.05; echo b; } | ask --http2 -T - -o /dev/null "$https/up"
            ask --http1.1 "$http/own-$n" | grep -cE "^GET /own-$n( |\$)"
        done | awk '{n += $1} END {print n}')"
    check 'Connection: close is kept' '^connection: close' "$(ask --http1.1 -D - -o /dev/null -H 'Connection: close' "$http/" | tr '[:upper:]' '[:lower:]')"
    check 'WebSocket' '^again$' "$(timeout 20 "$parts/websocket.py" 2>&1)"
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
}
