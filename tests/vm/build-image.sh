#!/usr/bin/env bash
# build-image.sh [-r]   makes the Debian tree that the lab's nodes run, and prints the directory it is in:
#   rootfs/                     systemd, Docker, nftables and tools; nothing of ours    (lane ns mounts it as it is)
#   root.img, vmlinuz, initrd   the same tree as an ext4 image, with Debian's cloud kernel           (lane vm)
#   id_ed25519                  the ssh key that opens every node                                    (lane vm)
# -r  is content with rootfs/ (no kernel, no image).
# The directory is named after a hash of this script and the suite, so a second run only prints it.
# Environment: PLOYZ_LAB (default ~/.cache/ployz-lab), PLOYZ_LAB_SUITE (trixie or bookworm), MIRROR (default: the machine's own).
set -euo pipefail
vm=1; while getopts r f; do case $f in r) vm=0 ;; *) exit 2 ;; esac; done
lab=${PLOYZ_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/ployz-lab}; suite=${PLOYZ_LAB_SUITE:-trixie}
hash=$({ cat "$0"; echo "$suite"; } | sha256sum | cut -c1-12)
full=$lab/img/$suite-$hash; small=$full-rootfs              # apart: a running lab may use the one while the other is built
[ $vm = 1 ] && img=$full || img=$small
print_if_complete() {
  if [ -f "$full/complete" ]; then echo "$full"; exit 0; fi
  if [ $vm = 0 ] && [ -f "$small/complete" ]; then echo "$small"; exit 0; fi
}
print_if_complete

[ "$(id -u)" = 0 ] || { echo 'build-image.sh: must be root' >&2; exit 1; }
mkdir -p "$lab/img"; exec 9>"$lab/img/lock"; flock 9          # one build at a time
print_if_complete

say() { printf 'build-image %4ds %s\n' $SECONDS "$*" >&2; }
die() { tail -25 "$1" >&2; exit 1; }
# shellcheck disable=SC2016
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)}
[ -n "$mirror" ] || { echo 'no Debian mirror is known: run apt-get update, or set MIRROR' >&2; exit 1; }
# What older versions of this script made goes, unless a lab (of anyone) may be running on it.
if ! ip netns list | grep -q '^ployz-lab-'; then find "$lab/img" -mindepth 1 -maxdepth 1 -name "$suite-*" ! -name "$suite-$hash*" -exec rm -rf {} +; fi
new=$img.new; rm -rf "$new"; mkdir -p "$new"; root=$new/rootfs

# 1. Packages. The kernel is unpacked, not installed: that keeps initramfs-tools out (step 3 makes a 1 MB initrd instead).
pkgs=systemd,systemd-sysv,dbus,udev,kmod,adduser,procps,netbase,ca-certificates,iproute2,iputils-ping,nftables,wireguard-tools
pkgs+=,docker.io,btrfs-progs,e2fsprogs,openssh-server,busybox-static,curl,jq,socat,bind9-dnsutils,tcpdump,python3-minimal
[ "$suite" = bookworm ] || pkgs+=,docker-cli
# shellcheck disable=SC2016
kernel='set -e; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; cd "$1/tmp"
  k=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -1)
  apt-get -q download "$k"; dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --keep-directory-symlink -C "$1"; rm linux-image-*.deb'
[ $vm = 1 ] || kernel=true
say "$suite from $mirror"
mmdebstrap --variant=minbase --components=main --include="$pkgs" --customize-hook="$kernel" \
  --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  "$suite" "$root" "$mirror" >"$new/mmdebstrap.log" 2>&1 || die "$new/mmdebstrap.log"
say "rootfs: $(du -sxm "$root" | cut -f1) MB"

# 2. Configuration, the same in both lanes. A node finds its addresses by the MAC: 52:54:00:77:0K:0I is node I on underlay K.
echo 00000000000000000000000000000001 >"$root/etc/machine-id"     # not empty: no first-boot presets. Nodes override it.
echo localhost >"$root/etc/hostname"; : >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf"; echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
for i in 1 2 3 4 5; do
  echo "10.77.0.1$i n$i" >>"$root/etc/hosts"
  for k in 1 2; do
    {
      printf '[Match]\nMACAddress=52:54:00:77:0%s:0%s\n\n[Network]\nIPv6AcceptRA=no\n\n' $k $i
      if [ $k = 1 ]; then
        printf '[Address]\nAddress=10.77.0.1%s/24\n\n[Address]\nAddress=fd77::1%s/64\nDuplicateAddressDetection=none\n' $i $i
      else printf '[Address]\nAddress=10.78.0.1%s/24\n' $i; fi
    } >"$root/etc/systemd/network/10-n$i-u$k.network"
  done
done
# Lane vm is commanded over ssh on a network card of its own, which sits in sshd's private network namespace: no test that cuts
# links cuts it, and no product that looks for addresses finds it. n9:0I is node I there, 10.79.0.1I.
ssh-keygen -q -t ed25519 -N '' -C ployz-lab -f "$new/id_ed25519"
install -d -m700 "$root/root/.ssh"; install -m600 "$new/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
printf 'UseDNS no\nUsePAM no\nMaxStartups 200\nMaxSessions 200\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
[ "$suite" = bookworm ] || echo 'PerSourcePenalties no' >>"$root/etc/ssh/sshd_config.d/lab.conf"
cat >"$root/usr/local/sbin/lab-command-link" <<'I'
#!/bin/sh
# Moves the lab's command link into the network namespace of process $1 and gives it its address.
set -e
t=0
while :; do
  for n in /sys/class/net/*; do
    case $(cat "$n/address") in 52:54:00:77:09:*) dev=${n##*/}; i=$(tail -c2 "$n/address"); break 2 ;; esac
  done
  t=$((t + 1)); [ $t -lt 300 ] || exit 1
  sleep 0.1
done
nsenter -t 1 -n ip link set "$dev" netns "$1"      # we run in sshd's own network namespace
nsenter -t "$1" -n sh -c "ip link set lo up; ip addr add 10.79.0.1$i/24 dev $dev; ip link set $dev up"
I
chmod 755 "$root/usr/local/sbin/lab-command-link"
cat >"$root/etc/systemd/system/lab-ssh.service" <<'I'
[Unit]
Description=The test lab's way in
ConditionVirtualization=!container
DefaultDependencies=no
After=local-fs.target systemd-udevd.service
[Service]
PrivateNetwork=yes
PrivateMounts=no
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D
ExecStartPost=+/usr/local/sbin/lab-command-link $MAINPID
Restart=on-failure
[Install]
WantedBy=multi-user.target
I
sc() { chroot "$root" systemctl -q "$@" 2>/dev/null; }
sc enable systemd-networkd lab-ssh
sc disable docker.service docker.socket containerd.service ssh.service || true
sc mask systemd-networkd-wait-online.service systemd-logind.service modprobe@.service systemd-network-generator.service \
  systemd-networkd-persistent-storage.service systemd-random-seed.service systemd-pcrphase.service systemd-hwdb-update.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service \
  getty@tty1.service serial-getty@ttyS0.service ssh.service
mkdir -p "$root/etc/systemd/system-generators" "$root/etc/systemd/journald.conf.d" "$root/var/log/journal"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
printf 'blacklist %s\n' kvm_amd ahci evdev efi_pstore button serio_raw >"$root/etc/modprobe.d/lab.conf"
rm -rf "$root/var/lib/apt/lists"/* "$root/var/cache/apt"/*
touch "$root/etc/.updated" "$root/var/.updated"                   # no first-boot ldconfig, sysusers, catalog runs

# 3. Lane vm: the kernel, a minimal initrd (busybox and the virtio drivers) and the raw image; a node's disk is a qcow2 overlay on it.
if [ $vm = 1 ]; then
  kver=$(ls "$root/lib/modules")
  find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +       # unpacking xz is slow under emulation
  chroot "$root" depmod "$kver"
  cp "$root/boot/vmlinuz-$kver" "$new/vmlinuz"
  i=$(mktemp -d); trap 'rm -rf "$i"' EXIT
  mkdir -p "$i"/{bin,dev,new}; cp "$root/bin/busybox" "$i/bin/"; n=10
  for m in $(for x in virtio_pci virtio_blk virtio_net; do chroot "$root" modprobe -S "$kver" --show-depends $x; done | awk '$1=="insmod"{print $2}'); do
    cp "$root$m" "$i/$n-${m##*/}"; n=$((n+1))
  done
  cat >"$i/init" <<'I'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs d /dev
for m in /[0-9]*.ko; do /bin/busybox insmod $m 2>/dev/null; done
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done
/bin/busybox mount -t ext4 /dev/vda /new
exec /bin/busybox switch_root /new /sbin/init
I
  chmod +x "$i/init"; (cd "$i" && find . | cpio -o -H newc --quiet | gzip -1) >"$new/initrd"
  truncate -s 6G "$new/root.img"     # with a journal: a power cut must find the file system that a real machine has
  mke2fs -q -F -t ext4 -J size=32 -E lazy_itable_init=1 -m 0 -d "$root" "$new/root.img"
  say "image: kernel $kver, $(du -m "$new/root.img" | cut -f1) MB"
fi
touch "$new/complete"
rm -rf "$img"; mv "$new" "$img"; echo "$img"
