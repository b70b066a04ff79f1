#!/bin/sh
# Builds dist/ployz_<version>_amd64.deb. PLOYZ_PROFILE=dev makes the same package from a debug build, for tests.
# Needs cargo, python3 with pip, and dpkg-dev (dpkg-shlibdeps finds the libc version to depend on).
set -eu

profile=${PLOYZ_PROFILE:-release}
cargo_deb=3.8.0
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
stage=dist/stage

if [ "$(cargo deb --version 2>/dev/null)" != "$cargo_deb" ] &&
    [ "$(cargo deb --version 2>/dev/null)" != "cargo-deb $cargo_deb" ]; then
    cargo install cargo-deb --version "$cargo_deb" --locked
fi
packaging/fetch-nats.sh
cargo build --profile "$profile" -p ployzd -p ployzctl -p ployz-wireguard -p ployz-gateway -p ployz-dns --bins

# Everything that is not a program of this workspace, in one place, as the asset lists in cli/Cargo.toml name it.
rm -rf "$stage"
mkdir -p "$stage/doc"
case "$profile" in dev) output=debug ;; *) output=$profile ;; esac
"${CARGO_TARGET_DIR:-target}/$output/ployzctl" __generate "$stage"
install -m 0755 target/vendor/nats-server "$stage/nats-server"
for document in README.md docs/cli.md docs/deploy.md docs/errors.md docs/manifest.schema.json; do
    if [ -f "$document" ]; then cp "$document" "$stage/doc/"; fi
done
if [ -f CHANGELOG.md ]; then gzip -9n <CHANGELOG.md >"$stage/doc/changelog.gz"; fi

version=$(cargo pkgid -p ployzctl | sed 's/.*[#@]//')
package=dist/ployz_${version}_amd64.deb
# Packages for tests are read once: fast to make rather than small.
case "$profile" in dev) speed=--fast ;; *) speed= ;; esac
# shellcheck disable=SC2086 # empty is no argument
cargo deb --package ployzctl --profile "$profile" --no-build $speed --output "$package"
echo "$package"
