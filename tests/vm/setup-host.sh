#!/usr/bin/env bash
# setup-host.sh [-r]   installs what the test lab needs on a Debian machine; does nothing when it is all there. Run it as root.
# -r  is content with what lane ns needs (no QEMU).
# QEMU 7.2 of Debian 12 has a cmpxchg16b bug that now and then kills an emulated kernel, so on "bookworm" QEMU comes from
# bookworm-backports. The archive is the machine's own (as `apt-get indextargets` tells it), or $MIRROR.
set -euo pipefail

pkgs=(mmdebstrap iproute2 nftables wireguard-tools tcpdump util-linux procps cmake gcc libc6-dev pkg-config dnsperf)
qemu=()
if [ "${1:-}" != -r ]; then pkgs+=(qemu-utils openssh-client e2fsprogs cpio xz-utils); qemu=(qemu-system-x86); fi

declare -A have=()
while read -r p state version; do [ "$state" != installed ] || have[${p%%:*}]=$version; done < <(
  dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' "${pkgs[@]}" "${qemu[@]}" 2>/dev/null || true)
missing=()
for p in "${pkgs[@]}"; do [ -n "${have[$p]:-}" ] || missing+=("$p"); done
if [ -n "${have[qemu-system-x86]:-}" ] && dpkg --compare-versions "${have[qemu-system-x86]}" ge 1:8; then qemu=(); fi
if [ ${#missing[@]} = 0 ] && [ ${#qemu[@]} = 0 ]; then exit 0; fi

[ "$(id -u)" = 0 ] || { echo "as root, please: ${missing[*]} ${qemu[*]} must be installed" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -y --no-install-recommends)
if [ ${#missing[@]} -gt 0 ]; then
  "${apt[@]}" install "${missing[@]}" || { "${apt[@]}" update; "${apt[@]}" install "${missing[@]}"; }
fi
[ ${#qemu[@]} -gt 0 ] || exit 0

# shellcheck source=/dev/null
. /etc/os-release
if [ "${VERSION_CODENAME:-}" != bookworm ]; then exec "${apt[@]}" install "${qemu[@]}"; fi

# shellcheck disable=SC2016
targets() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian'; }
[ -n "${MIRROR:-$(targets)}" ] || apt-get -q update
mirror=${MIRROR:-$(targets | head -1)}
[ -n "$mirror" ] || { echo 'no Debian mirror is known: set MIRROR' >&2; exit 1; }

# A list of our own for this one run: the machine's sources stay as they are.
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
chmod 755 "$t"; mkdir -p "$t/lists/partial"
key=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$key" ] && signed="[signed-by=$key] " || signed=
for s in bookworm bookworm-updates bookworm-backports; do echo "deb ${signed}$mirror $s main"; done >"$t/lab.list"
o=(-o Dir::Etc::SourceList="$t/lab.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$t/lists" -o APT::Sandbox::User=root)
"${apt[@]}" "${o[@]}" update
"${apt[@]}" "${o[@]}" -t bookworm-backports install "${qemu[@]}" qemu-utils
