# shellcheck shell=bash disable=SC2154
# gRPC by Debian's python3-grpcio on both sides, in plain text and over TLS; read by test-gateway-clients.sh.
grpc_clients() {
    "$parts/grpc_backend.py" & started+=($!)
    local way
    for _ in $(seq 300); do if (: <>/dev/tcp/10.101.0.3/9001) 2>/dev/null; then break; fi; sleep 0.1; done
    for way in "127.0.0.1:8080" "127.0.0.1:8443 $dir/root.pem"; do
        # shellcheck disable=SC2086 # an address and perhaps a root
        check "gRPC to $way" '^every call went as it should' "$(timeout 120 "$parts/grpc_client.py" $way 2>&1 || true)"
    done
}
