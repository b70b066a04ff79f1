#!/usr/bin/env bash
# Sourced by the benchmarks: need COMMAND:PACKAGE... -- COMMAND:PACKAGE...
# installs the Debian packages of commands that are missing. Those after `--` start servers where there is a systemd: there
# only what is installed is measured.
need() {
    local one missing='' servers=0
    for one in "$@"; do
        if [ "$one" = -- ]; then servers=1; continue; fi
        if [ $servers = 1 ] && [ -d /run/systemd/system ]; then continue; fi
        command -v "${one%%:*}" >/dev/null || [ -x "/usr/sbin/${one%%:*}" ] || missing="$missing ${one#*:}"
    done
    # shellcheck disable=SC2086 # a list of packages
    [ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing >/dev/null
}
