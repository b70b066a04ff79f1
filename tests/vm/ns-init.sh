#!/usr/bin/env bash
# ns-init.sh   becomes PID 1 of a node of lane ns. The lab starts it in fresh pid, mount, net, uts, ipc and cgroup namespaces, with
# the node's directory in $NODE_DIR, the Debian tree in $ROOTFS, the node's number in $NODE and the capabilities it must not have in
# $BOUNDING; it plugs the node's links and then sends a line on stdin. The root is an overlay on the tree; its upper layer stays
# in $NODE_DIR, so a reboot keeps the "disk".
set -euo pipefail
d=$NODE_DIR; R=$d/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$d/up,workdir=$d/work" "$R"

# Only net sysctls are writable: those are the node's own, the others belong to the machine that hosts the lab.
mount -t proc proc "$R/proc"; mount -t sysfs -o ro sysfs "$R/sys"; mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs -o mode=755 run "$R/run"; mkdir "$R/run/net"; mount --bind "$R/proc/sys/net" "$R/run/net"
mount --bind "$R/proc/sys" "$R/proc/sys"; mount -o remount,bind,ro "$R/proc/sys"
mount --move "$R/run/net" "$R/proc/sys/net"; rmdir "$R/run/net"
cat /proc/sys/kernel/random/uuid >"$R/run/boot"      # a boot of its own, so that journals and programs can tell a reboot
mount --bind "$R/run/boot" "$R/proc/sys/kernel/random/boot_id"; rm "$R/run/boot"

mount -t tmpfs -o mode=755 dev "$R/dev"; mkdir "$R/dev/pts" "$R/dev/shm" "$R/dev/net"
mount -t tmpfs -o mode=1777 shm "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"; ln -s /proc/self/fd "$R/dev/fd"
for x in 0/stdin 1/stdout 2/stderr; do ln -s "/proc/self/fd/${x%/*}" "$R/dev/${x#*/}"; done
while read -r name major minor; do mknod -m 666 "$R/dev/$name" c "$major" "$minor"; done <<D
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
fuse 10 229
D
for x in docker containerd; do mkdir -p "$R/var/lib/$x"; mount --bind "$d/$x" "$R/var/lib/$x"; done   # no overlay on overlay

echo "n$NODE" >"$R/etc/hostname"; hostname "n$NODE"
printf '7777%028d\n' "$NODE" >"$R/etc/machine-id"
cd "$R"; mkdir -p .old; pivot_root . .old; umount -l .old; rmdir .old
mount --make-rshared /        # as systemd does on a real machine: what "ip netns add" mounts is seen by everyone in the node
read -r _                     # the links are plugged
exec </dev/null
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=ployz-lab LANG=C.UTF-8 \
  setpriv --bounding-set "$BOUNDING" /lib/systemd/systemd --show-status=no
