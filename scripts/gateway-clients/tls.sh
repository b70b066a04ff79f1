# shellcheck shell=bash disable=SC2154
# TLS as curl and openssl see it, with an imported certificate whose chain they verify; read by test-gateway-clients.sh.
tls_clients() {
    check 'no HTTP/2 where it is not asked for' 'ALPN.*http/1.1' "$(handshake 8443 a.test -alpn http/1.1)"
    check 'HTTP/2 where it is offered' 'ALPN.*h2' "$(handshake 8443 a.test -alpn h2,http/1.1)"
    local version protocol flag
    for version in 1.2 1.3; do
        protocol=-tls${version/./_}
        check "TLS $version" "(Protocol *: |^New, )TLSv$version" "$(handshake 9443 a.test "$protocol")"
        check "TLS $version, chain" '^ *Verify return code: 0 \(ok\)' "$(handshake 9443 a.test "$protocol" -verify_hostname a.test)"
        check "TLS $version, the issuer is sent along" '1 s:O = Ployz tests, CN = Test issuer' "$(handshake 9443 a.test "$protocol" -showcerts)"
        check "TLS $version, name in capitals" '^ *Verify return code: 0 \(ok\)' "$(handshake 9443 A.TEST "$protocol")"
        check "TLS $version, a name without certificate" 'tlsv1 unrecognized name' "$(handshake 9443 b.test "$protocol")"
        check "TLS $version, no name" 'SSL alert number 109' "$(handshake 9443 '' "$protocol")"
        check "TLS $version, resumed" '^Reused' "$(resumed "$protocol")"
        for flag in --http1.1 --http2; do
            check "TLS $version, curl $flag" '^200 0' \
                "$(ask "$flag" "--tlsv$version" --tls-max "$version" -o /dev/null -w '%{http_code} %{ssl_verify_result}' "$imported/")"
        done
    done
    for version in 1 1_1; do
        check "TLS $version is refused" 'alert (protocol version|handshake failure)' \
            "$(handshake 9443 a.test "-tls$version" -cipher ALL:@SECLEVEL=0)"
    done
    check 'a chain of somebody else is refused' '^000 60' "$(ask --cacert "$dir/other.pem" -o /dev/null -w '%{http_code} %{exitcode}' "$imported/")"
    check 'another name is refused' '^000 35' \
        "$(ask --resolve b.test:9443:127.0.0.1 -o /dev/null -w '%{http_code} %{exitcode}' https://b.test:9443/)"
    check 'the static pair is for its own name' '^000 60' \
        "$(ask --resolve b.test:8443:127.0.0.1 -o /dev/null -w '%{http_code} %{exitcode}' https://b.test:8443/)"
    check 'the name of the handshake need not be that of the request' '^404 0' \
        "$(ask -H 'Host: b.test' -o /dev/null -w '%{http_code} %{ssl_verify_result}' "$imported/")"
}
handshake() { # port, name to ask for, arguments...
    local name=(-servername "$2"); [ -n "$2" ] || name=(-noservername)
    timeout 20 openssl s_client -connect "127.0.0.1:$1" "${name[@]}" -CAfile "$dir/root.pem" -verify_return_error "${@:3}" \
        </dev/null 2>&1 | tr -d '\0' || true
}
# TLS 1.3 hands its ticket out after the handshake: a request is waited for.
resumed() { # arguments...
    printf 'GET /bytes/1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n' |
        timeout 20 openssl s_client -quiet -ign_eof -connect 127.0.0.1:9443 -servername a.test -sess_out "$dir/session" "$@" >/dev/null 2>&1 || true
    handshake 9443 a.test -sess_in "$dir/session" "$@"
}
