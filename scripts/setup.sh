#!/bin/sh
# Installs the Debian packages that building, `make demo` and `make test` need; nothing when all are there.
# With an argument `demo` also Docker's programs, of which the demo starts engines of its own; with `test` also what
# booting real nodes needs (tests/vm/setup-host.sh).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)

missing=
need() { # $1: program, $2: package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need cc gcc
need cmake cmake
need make make
need ip iproute2
need nft nftables
need ping iputils-ping
need wg wireguard-tools
need python3 python3
need unshare util-linux
need dpkg-shlibdeps dpkg-dev
need curl curl
need jq jq
case "${1:-}" in demo | test)
    need dockerd docker.io
    need busybox busybox-static
    ;;
esac
if [ "${1:-}" = test ]; then
    need nghttp nghttp2-client
    need openssl openssl
    need testssl testssl.sh
    need docker-registry docker-registry
    need hexdump bsdextrautils
    # Debian's Python, whatever another one in the path has.
    /usr/bin/python3 -c 'import grpc' 2>/dev/null || missing="$missing python3-grpcio"
fi
python3 -m pip --version >/dev/null 2>&1 || command -v pip >/dev/null 2>&1 || missing="$missing python3-pip"

if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "setup: as root: apt-get install$missing" >&2; exit 1; }
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update >/dev/null
    # An engine that comes with this is for the demo: it is not started beside its back.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of packages
    apt-get -q install -y --no-install-recommends $missing >/dev/null
fi
if [ "${1:-}" = test ]; then
    sh -c "exec bash '$here/tests/vm/setup-host.sh'"
fi
