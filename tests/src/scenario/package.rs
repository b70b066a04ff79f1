//! The package's life: upgrade and removal stop nothing, purging leaves nothing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::pings::Pings;
use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "package-upgrade-stops-nothing",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run: upgrade,
    },
    Scenario {
        name: "package-purge-leaves-nothing",
        needs: &[Need::Systemd, Need::PackageFile],
        nodes: 2,
        underlays: 1,
        run: purge,
    },
    Scenario {
        name: "package-purge-takes-containers",
        needs: &[Need::Systemd, Need::Docker, Need::PackageFile],
        nodes: 2,
        underlays: 1,
        run: purge_containers,
    },
];

/// An upgrade restarts ployzd alone; a removal stops it alone; the data plane runs through both.
fn upgrade(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    let deb = package(ctx)?;
    let [peer, _] = product::addresses(n2)?;
    n1.sh("echo '# ours' >>/etc/ployz/config.toml")?;
    let (before, pid) = (product::identity(n1)?, n1.sh("systemctl show -P MainPID ployzd")?);
    let pings = Pings::start(ctx, n1, &peer, 0.02)?;
    n1.install(&deb)?;
    product::all_adopt(&product::started(ctx, n1)?)?;
    ensure!(n1.sh("systemctl show -P MainPID ployzd")? != pid, "ployzd was not restarted");
    product::unchanged(n1, &before)?;
    ensure!(
        n1.sh("tail -1 /etc/ployz/config.toml")? == "# ours",
        "the operator's configuration was replaced"
    );

    n1.sh("DEBIAN_FRONTEND=noninteractive dpkg --remove ployz")?;
    product::unchanged(n1, &before)?;
    ensure!(!n1.run("systemctl is-active -q ployzd")?.ok(), "ployzd runs on");
    comes_back(ctx, n1)?;
    let before = product::identity(n1)?;
    n1.install(&deb)?;
    product::all_adopt(&product::started(ctx, n1)?)?;
    product::meets(ctx, 1, 1)?;
    product::unchanged(n1, &before)?;
    let answered = pings.all_answered(ctx)?;
    ensure!(answered > 50, "only {answered} pings were sent");
    Ok(())
}

/// With the package gone: a unit that crashes is started again, as hardened as before.
fn comes_back(ctx: &Ctx, node: &Node) -> Result<()> {
    for unit in ["ployz-dns", "ployz-gateway"] {
        let pid = node.sh(&format!("systemctl show -P MainPID {unit}"))?;
        node.sh(&format!("systemctl daemon-reload && systemctl kill -s KILL {unit}"))?;
        ctx.wait(20, &format!("{unit} to be back"), || {
            let now =
                node.sh(&format!("systemctl is-active -q {unit} && systemctl show -P MainPID {unit}"))?;
            ensure!(now != pid && now != "0", "{now}");
            Ok(Some(()))
        })?;
        let hardened = node.sh(&format!("systemctl show -P DropInPaths -P ProtectSystem {unit}"))?;
        ensure!(hardened.contains("10-hardening.conf") && hardened.contains("strict"), "{unit}: {hardened}");
    }
    Ok(())
}

/// Purging takes the containers and the Docker network of this machine's network, and nobody else's; by the `docker` command
/// on one node, without it and in two steps on the other.
fn purge_containers(ctx: &mut Ctx) -> Result<()> {
    let deb = package(ctx)?;
    ctx.lab.each(|node| node.install(&deb))?;
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    for node in [n1, n2] {
        node.docker_busybox()?;
        node.sh(THEIRS)?;
        product::docker_network(ctx, node)?;
    }
    n1.put(MANIFEST, "/root/shop.toml", 0o644)?;
    n1.sh_for(std::time::Duration::from_secs(120), "ployzctl deploy -f /root/shop.toml")?;
    for node in [n1, n2] {
        ensure!(node.sh("docker ps -q --filter label=ployz.namespace=shop | wc -l")? == "1", "one each");
    }
    n1.sh("DEBIAN_FRONTEND=noninteractive dpkg --purge ployz")?;
    n2.sh("docker=$(command -v docker); mv $docker /root/docker-command; echo $docker >/root/docker-path")?;
    n2.sh("DEBIAN_FRONTEND=noninteractive dpkg --remove ployz && test -x /usr/lib/ployz/nats-server")?;
    n2.sh(
        "DEBIAN_FRONTEND=noninteractive dpkg --purge ployz; mv /root/docker-command $(cat /root/docker-path)",
    )?;
    for node in [n1, n2] {
        let left = node.sh("docker ps -a --format '{{.Names}}' | sort | xargs; docker network ls --format '{{.Name}}' | sort | xargs")?;
        ensure!(left == "of-another-network theirs\nbridge host none theirs", "{}: {left}", node.name());
        node.sh("docker network rm theirs")?;
        product::gone(ctx, node)?;
        node.sh("! find / -xdev -path /proc -prune -o \\( -path '*/systemd/system/ployz*' -o -path /usr/lib/ployz -o -path /var/lib/ployz \\) -print | grep .")?;
    }
    Ok(())
}

/// Purged out of a running mesh: the machine is as it was before the package came.
fn purge(ctx: &mut Ctx) -> Result<()> {
    let deb = package(ctx)?;
    ctx.lab.each(|node| node.sh("nft add table inet theirs; ip link add theirs0 type bridge"))?;
    let before = ctx.lab.each(state)?;
    ctx.lab.each(|node| node.install(&deb))?;
    product::mesh(ctx, 2)?;
    product::carries(ctx, 2, 1)?;
    for (node, before) in ctx.lab.nodes().iter().zip(&before) {
        node.sh("DEBIAN_FRONTEND=noninteractive dpkg --purge ployz")?;
        same(node, before, &state(node)?).context("out of a running mesh")?;
    }
    // Once more, so that nothing of the first time stands in the way; and from a stopped network.
    ctx.lab.each(|node| node.install(&deb))?;
    product::mesh(ctx, 2)?;
    ctx.node(1).sh("ployzctl -q mesh stop")?;
    ctx.lab.each(|node| node.sh("DEBIAN_FRONTEND=noninteractive dpkg --purge ployz"))?;
    for (node, before) in ctx.lab.nodes().iter().zip(&before) {
        same(node, before, &state(node)?).context("out of a stopped network")?;
        node.sh("nft delete table inet theirs; ip link del theirs0")?;
    }
    Ok(())
}

fn same(node: &Node, before: &BTreeSet<String>, now: &BTreeSet<String>) -> Result<()> {
    let (new, lost): (Vec<_>, Vec<_>) = (now.difference(before).collect(), before.difference(now).collect());
    ensure!(new.is_empty() && lost.is_empty(), "{}: left {new:#?}\ntaken {lost:#?}", node.name());
    Ok(())
}

fn package(ctx: &Ctx) -> Result<std::path::PathBuf> {
    ctx.deb.as_deref().map(Path::to_owned).context("no package was given")
}

fn state(node: &Node) -> Result<BTreeSet<String>> {
    Ok(node.sh(STATE)?.lines().map(str::to_owned).collect())
}

const THEIRS: &str = "docker network create theirs
docker run -d --name theirs --network none lab/busybox sleep 10000
docker run -d --name of-another-network --network none --label ployz.network=0123456789abcdef lab/busybox sleep 10000";

const MANIFEST: &str = r#"version = 1
namespace = "shop"

[[services]]
name = "web"
image = "lab/busybox"
command = ["httpd", "-f", "-p", "8080", "-h", "/bin"]
ports = [{ port = 8080, name = "http" }]
placement = { replicas = 2 }
readiness = { kind = "tcp", port = "http", interval = "300ms" }
"#;

/// Everything of a machine that a package may change, a line each. Left out: what dpkg, the journal and systemd write for
/// every package, backups of the account files, and counters.
const STATE: &str = r#"
find /etc /usr /var /opt /srv /root /home /lib /bin /sbin -xdev \
  \( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /var/lib/systemd/random-seed -o -path /var/tmp -o -path /var/lib/docker \
     -o -path /var/lib/containerd -o -path /var/lib/private \) -prune \
  -o ! -name '*-' ! -name ld.so.cache ! -name .pwd.lock ! -name '.updated' -printf 'file %p %y %m %u:%g %l\n'
find /run -xdev \( -path /run/systemd -o -path /run/udev -o -path /run/log -o -path '/run/lab-*' -o -path /run/user \) -prune -o -printf 'run %p %y %m %u:%g\n'
find /run/systemd/transient /run/systemd/system -mindepth 1 -printf 'runtime unit %p\n' 2>/dev/null
for f in passwd group shadow gshadow subuid subgid; do sed "s/^/$f /" /etc/$f 2>/dev/null; done
(cd /etc && find . -type f ! -name '*-' ! -name ld.so.cache | xargs sha256sum) | sed 's/^/etc /'
ip -o link | sed 's/ qlen.*//;s/^/link /;s/@.*//'
ip -o addr | sed 's/ valid_lft.*//;s/^/addr /' | grep -v fe80
(ip route show table all; ip -6 route show table all) | sed 's/^/route /' | grep -vE 'fe80|multicast|anycast'
(ip rule; ip -6 rule) | sed 's/^/rule /'
ip netns list | sed 's/^/netns /'
nft list ruleset | sed 's/^/nft /'
systemctl list-units --all --plain --no-legend --type=service,socket,slice | awk '{print "unit", $1, $2, $3}' | grep -E 'ployz|failed' || true
systemctl list-unit-files --no-legend | awk '{print "unit file", $1, $2}'
sysctl -a 2>/dev/null | grep -E 'forwarding|ip_forward|rp_filter|accept_ra|proxy_' | sed 's/^/sysctl /'
awk '{print "mount", $2, $3}' /proc/mounts | sort -u
ps -eo comm= | grep -E 'ployz|nats' | sed 's/^/process /'
true"#;
