//! What systemd, Docker and nested network namespaces must be able to do inside a node.

use anyhow::{Result, ensure};

use crate::scenario::Ctx;

/// Transient units, users, drop-ins, sandboxes and D-Bus, as on a machine.
pub(super) fn units(ctx: &mut Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        ensure!(node.sh("systemctl is-system-running")? == "running");
        ensure!(node.sh("hostname")? == node.name());
        ensure!(node.sh("cat /proc/1/comm")? == "systemd");
        Ok(())
    })?;
    let n1 = ctx.node(1);
    let version = n1.sh(concat!(
        "busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 ",
        "org.freedesktop.systemd1.Manager Version"
    ))?;
    ctx.say(format!("systemd {version}, kernel {}", n1.sh("uname -r")?));

    let run = "systemd-run --quiet --wait --pipe --collect";
    let user: u32 = n1.sh(&format!("{run} -p DynamicUser=yes -p StateDirectory=probe id -u"))?.parse()?;
    ensure!((61184..=65519).contains(&user), "a dynamic user has id {user}");
    ensure!(n1.sh(&format!("{run} -p User=nobody id -un"))? == "nobody");
    n1.sh(&format!(
        "{run} -p ProtectSystem=strict -p PrivateTmp=yes -p NoNewPrivileges=yes -p RuntimeDirectory=probe \
         -p SystemCallFilter=@system-service bash -c 'touch /run/probe/a /tmp/a && ! touch /etc/a'"
    ))?;
    let caps = format!(
        "{run} -p User=nobody -p AmbientCapabilities=CAP_NET_ADMIN ip link add probe0 type veth peer probe1"
    );
    n1.sh(&caps)?;
    n1.sh("ip link del probe0")?;

    n1.put(
        "[Service]\nExecStart=/bin/sh -c 'echo says $WORD; exec sleep 600'\n",
        "/etc/systemd/system/probe.service",
        0o644,
    )?;
    let drop_in = "[Service]\nEnvironment=WORD=dropped-in\n";
    n1.put(drop_in, "/etc/systemd/system/probe.service.d/word.conf", 0o644)?;
    n1.sh("systemctl daemon-reload && systemctl start probe")?;
    ctx.wait(10, "the unit's line in the journal", || {
        Ok(n1.sh("journalctl -u probe -o cat")?.contains("says dropped-in").then_some(()))
    })?;
    n1.sh("systemctl kill -s KILL probe")?;
    ctx.wait(10, "the killed unit to be failed", || {
        Ok((n1.sh("systemctl is-failed probe")? == "failed").then_some(()))
    })?;
    n1.sh("systemctl reset-failed probe; rm -r /etc/systemd/system/probe.service*; systemctl daemon-reload")
        .map(drop)
}

/// Network namespaces inside a node: seen by everyone, with their own sysctls, nftables, tun devices and units.
pub(super) fn netns(ctx: &mut Ctx) -> Result<()> {
    ctx.lab.each(|node| {
        let run = "systemd-run --quiet --wait --pipe --collect";
        node.sh(&format!("{run} ip netns add inner"))?;
        ensure!(node.sh("ls /run/netns")? == "inner", "a netns made in a unit is seen outside of it");
        node.sh("ip netns exec inner sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        ensure!(node.sh("ip netns exec inner cat /proc/sys/net/ipv4/ip_forward")? == "1");
        ensure!(node.sh("cat /proc/sys/net/ipv4/ip_forward")? == "0", "the node's own sysctl stays");
        node.sh("sysctl -w net.ipv4.conf.all.rp_filter=2")?;

        node.sh("ip netns exec inner nft add table inet inside")?;
        ensure!(node.sh("nft list tables")?.is_empty(), "nftables of a netns are its own");
        node.sh("nft add table inet outside && nft delete table inet outside")?;

        node.sh("ip -n inner tuntap add dev tun7 mode tun && ip -n inner link set lo up && ip -n inner link set tun7 up")?;
        let unit = format!("{run} -p NetworkNamespacePath=/run/netns/inner");
        ensure!(node.sh(&format!("{unit} ip -br link"))?.contains("tun7"), "a unit enters a netns");
        node.sh(&format!("{unit} -p DynamicUser=yes -p PrivateTmp=yes ip -br link show tun7"))?;
        node.sh(&format!("{unit} ping -c1 -W2 127.0.0.1"))?; // a raw or ping socket inside the netns

        node.sh("ip link add out0 type veth peer name in0 netns inner && ip addr add 10.99.0.1/30 dev out0")?;
        node.sh("ip link set out0 up && ip -n inner addr add 10.99.0.2/30 dev in0 && ip -n inner link set in0 up")?;
        node.sh("ping -c1 -W2 10.99.0.2")?;
        node.sh("ip link del out0; ip netns del inner")?;
        ensure!(node.sh("ls /run/netns")?.is_empty());
        Ok(())
    })?;
    Ok(())
}

/// Docker runs containers on its own bridge.
pub(super) fn docker(ctx: &mut Ctx) -> Result<()> {
    let n1 = ctx.node(1);
    n1.docker_busybox()?;
    ensure!(n1.sh("docker run --rm lab/busybox echo inside")? == "inside");
    n1.sh("docker run -d --name web lab/busybox httpd -f -p 80 -h /bin")?;
    let ip = n1.sh("docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web")?;
    ctx.wait(20, "the container to answer", || {
        n1.sh(&format!("curl -sf -m 2 -o /dev/null http://{ip}/busybox")).map(Some)
    })?;
    ctx.say(n1.sh("docker version -f 'Docker {{.Server.Version}}'")?);
    n1.sh("docker rm -f web").map(drop)
}
