//! The host changes under a running network: the table of what is relied on (`ployz_core::host`), walked row by row. What is
//! owned is mended, what is not is named, and put back it is as before.

use anyhow::{Context, Result, ensure};
use ployz_core::host::table::TABLE;
use ployz_core::host::{Done, HostPart};

use super::doctor::findings;
use super::product;
use super::{Ctx, Need, Scenario};
use crate::lab::Node;

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    name: "host-changes-under-us",
    needs: &[Need::Systemd, Need::Native, Need::Package],
    nodes: 2,
    underlays: 1,
    run: walk,
}];

/// What is done about one row here.
enum Step {
    /// Broken with this command; the plan line with these words says that it is mended. Then this is run.
    Mended { broken_by: String, words: &'static str, back: String },
    /// Broken with this command; a check says these words. Then this puts it back.
    Named { broken_by: String, words: &'static str, back: String },
    /// Broken by another scenario.
    In(&'static str),
    /// Not to be broken in this lane, for this reason.
    NotHere(&'static str),
}

fn walk(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let n2 = ctx.node(2);
    for row in TABLE {
        let part = row.part;
        match (step(part, n2), row.done) {
            (Step::Mended { broken_by, words, back }, Done::Fixed(components)) => {
                let since = product::cursor(n2)?;
                n2.sh(&broken_by)?;
                let line = mended(ctx, n2, &since, components, words).with_context(|| format!("{part:?}"))?;
                ctx.say(format!("{part:?}: {line}"));
                carries(ctx).with_context(|| format!("{part:?}"))?;
                n2.sh(&back)?;
            }
            (Step::Named { broken_by, words, back }, Done::Reported(checks)) => {
                n2.sh(&broken_by)?;
                let seen = named(ctx, n2, checks, words).with_context(|| format!("{part:?}"));
                let back = n2.sh(&back);
                ctx.say(format!("{part:?}: {}", seen?));
                back?;
                unnamed(ctx, n2, checks).with_context(|| format!("{part:?}"))?;
            }
            (Step::In(scenario), _) => ctx.say(format!("{part:?}: broken by {scenario}")),
            (Step::NotHere(why), _) => ctx.say(format!("{part:?}: not broken here: {why}")),
            (_, done) => anyhow::bail!("{part:?}: the table says {done:?}"),
        }
    }
    another_vpn(ctx, n2)?;
    not_ready(ctx, n2)?;
    product::settled(ctx, 2)?;
    product::all_adopt(&product::restart(ctx, n2)?)?;
    carries(ctx)
}

/// The default route of another VPN, in a table of its own: the overlay is not its own to take.
fn another_vpn(ctx: &Ctx, node: &Node) -> Result<()> {
    node.sh(&format!("{VPN}; ip route add throw 10.77.0.0/16 table 52; {LATE_RULE}"))?;
    for [overlay, service] in [product::addresses(ctx.node(1))?] {
        for address in [overlay, service] {
            let way = node.sh(&format!("ip route get {address}"))?;
            ensure!(way.contains("dev ployz-veth"), "{way}");
        }
    }
    carries(ctx).context("with another VPN's rule behind ours")?;
    let found = findings(node)?;
    for check in ["policy-rules", "overlay-route", "underlay-route"] {
        ensure!(found[check].0 == "ok", "{check}: {:?}", found[check]);
    }
    node.sh(&format!("{NO_LATE_RULE}; {NO_VPN}")).map(drop)
}

/// A rule before ours takes the overlay: the machine is not ready, and the journal says when that began and ended.
fn not_ready(ctx: &Ctx, node: &Node) -> Result<()> {
    let since = product::cursor(node)?;
    node.sh(&format!("{VPN}; {EARLY_RULE}"))?;
    ctx.wait(40, "mesh ready to say why not", || {
        let ready = product::envelope(node, "mesh ready")?["payload"]["reasons"].to_string();
        ensure!(ready.contains("overlay-route: packets to "), "{ready}");
        Ok(Some(()))
    })?;
    node.sh(&format!("{NO_EARLY_RULE}; {NO_VPN}"))?;
    product::ready(ctx, 2)?;
    let log = product::logged(node, &since)?;
    for (message, seen) in [
        ("the host changed ", " seen=packets to "),
        ("the host is back to normal ", " seen=packets to the overlay leave"),
    ] {
        let found = log.iter().any(|line| line.starts_with(message) && line.contains(seen));
        ensure!(found, "no `{message}` with `{seen}` in {log:#?}");
    }
    Ok(())
}

fn step(part: HostPart, node: &Node) -> Step {
    let v6 = node.ip6();
    let mended = |broken_by: &str, words, back: &str| Step::Mended {
        broken_by: broken_by.to_owned(),
        words,
        back: back.to_owned(),
    };
    let named = |broken_by: &str, words, back: &str| Step::Named {
        broken_by: broken_by.to_owned(),
        words,
        back: back.to_owned(),
    };
    match part {
        HostPart::KernelIpv6 => Step::NotHere("the kernel is the build machine's"),
        HostPart::HostSysctls => mended(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
            "disable_ipv6: 1 -> 0",
            &format!("sysctl -qw net.ipv6.conf.all.disable_ipv6=0; ip addr add {v6}/64 dev eth0 nodad"),
        ),
        HostPart::NetnsSysctls => mended(
            "ip netns exec ployz sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
            "ipv6: off -> on",
            "ip netns exec ployz sysctl -qw net.ipv6.conf.all.disable_ipv6=0",
        ),
        HostPart::Forwarding => named(
            "cat /proc/sys/net/ipv4/ip_forward >/run/lab-was && ip link add lab-load type veth peer name lab-load2 && \
             ip link set lab-load master ployz0 && sysctl -qw net.ipv4.ip_forward=1 && sysctl -qw net.ipv4.ip_forward=0",
            "ip_forward is 0",
            "ip link del lab-load; sysctl -qw net.ipv4.ip_forward=$(cat /run/lab-was); rm /run/lab-was",
        ),
        HostPart::Links => mended("ip link set ployz-veth down", "ployz-veth.up: false -> true", "true"),
        HostPart::Routes => {
            mended("ip route flush proto 76; ip -6 route flush proto 76", "routes: +host:", "true")
        }
        HostPart::Rules => {
            mended("ip rule del pref 75; ip -6 rule del pref 76", "rules: +75: to 10.101.0.0/16", "true")
        }
        HostPart::OthersRules => named(
            &format!("{VPN}; {EARLY_RULE}"),
            "`10: to 0.0.0.0/0 lookup 52`",
            &format!("{NO_EARLY_RULE}; {NO_VPN}"),
        ),
        HostPart::Underlay => named(
            &format!("{VPN}; {LATE_RULE}"),
            "leave by lab-vpn (table 52)",
            &format!("{NO_LATE_RULE}; {NO_VPN}"),
        ),
        HostPart::Addresses => Step::In("peer-readdressed"),
        HostPart::Mtu => named("ip link set eth0 mtu 1300", "underlay 1300", "ip link set eth0 mtu 1500"),
        HostPart::UdpPort => named(
            "systemctl stop ployzd && systemctl stop ployz-wireguard",
            "listening on UDP 51820",
            "systemctl start ployzd",
        ),
        HostPart::Firewall => mended("nft delete table inet ployz", "host: missing -> present", "true"),
        HostPart::OthersFirewall => named(
            "nft add table inet lab-theirs; \
             nft add chain inet lab-theirs input '{ type filter hook input priority 0; }'; \
             nft add rule inet lab-theirs input udp dport 51820 drop",
            "does not answer over the overlay",
            "nft delete table inet lab-theirs",
        ),
        HostPart::GatewayPort | HostPart::Docker | HostPart::Resolvers => {
            Step::In("doctor-names-what-is-broken")
        }
        HostPart::DockerNetwork => Step::In("container-on-the-bridge"),
        HostPart::Neighbours => Step::NotHere("its limit is the kernel's, for all namespaces together"),
        HostPart::Conntrack => Step::NotHere("its limit is the kernel's and cannot be set in a namespace"),
        HostPart::Descriptors => named(
            "pid=$(systemctl show -P MainPID ployz-wireguard); prlimit -n -o SOFT --noheadings --pid $pid >/run/lab-was; \
             prlimit --pid $pid --nofile=$(($(ls /proc/$pid/fd | wc -l) * 5 / 4)):",
            "open files of ployz-wireguard",
            "prlimit --pid $(systemctl show -P MainPID ployz-wireguard) --nofile=$(tr -d ' ' </run/lab-was):; rm /run/lab-was",
        ),
        HostPart::Disk => Step::In("join-without-inodes"),
        HostPart::Clock => Step::NotHere("the clock is the build machine's"),
        // The service first: with its socket it goes, and may be unloaded before systemctl comes to it.
        HostPart::Units => mended("systemctl stop ployz-dns.service ployz-dns.socket", "", "true"),
        HostPart::Programs => Step::In("package-upgrade-stops-nothing"),
        HostPart::Identity => Step::In("cloned-state-is-held"),
    }
}

/// Waits for a logged plan line of one of these components that writes and contains these words.
fn mended(
    ctx: &Ctx,
    node: &Node,
    since: &str,
    components: &[ployz_core::adopt::Component],
    words: &str,
) -> Result<String> {
    ctx.wait(40, "it to be mended", || {
        let lines = product::logged(node, since)?;
        let writes = |line: &&String| {
            components.iter().any(|part| {
                ["create", "recreate", "converge"]
                    .iter()
                    .any(|verb| product::is_step(line, part.as_str(), verb))
            })
        };
        let found = lines.iter().filter(writes).find(|line| line.contains(words));
        found.map(|line| Some(line.clone())).with_context(|| lines.join("\n"))
    })
}

/// Waits until a check of one of these names says these words; returns what it says.
fn named(ctx: &Ctx, node: &Node, checks: &[&str], words: &str) -> Result<String> {
    ctx.wait(40, "doctor to name it", || {
        let found = findings(node)?;
        let said = found.iter().find(|(name, (level, seen))| {
            level != "ok" && seen.contains(words) && checks.iter().any(|check| is_named(name, check))
        });
        let (name, (level, seen)) = said.with_context(|| format!("no `{words}` in {found:?}"))?;
        Ok(Some(format!("{name} {level}: {seen}")))
    })
}

/// Waits until none of these checks says anything but ok, and traffic flows.
fn unnamed(ctx: &Ctx, node: &Node, checks: &[&str]) -> Result<()> {
    ctx.wait(60, "doctor to name it no more", || {
        let found = findings(node)?;
        let left = found
            .iter()
            .find(|(name, (level, _))| level != "ok" && checks.iter().any(|check| is_named(name, check)));
        ensure!(left.is_none(), "{left:?}");
        Ok(Some(()))
    })?;
    carries(ctx)
}

/// Checks of peers carry the peer's name: `peer n1`.
fn is_named(found: &str, check: &str) -> bool {
    found.strip_prefix(check).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn carries(ctx: &Ctx) -> Result<()> {
    for (i, peer) in [(1, 2), (2, 1)] {
        product::meets(ctx, i, 1)?;
        product::carries(ctx, i, peer)?;
    }
    Ok(())
}

const VPN: &str = "ip link add lab-vpn type veth peer name lab-vpn2 && ip link set lab-vpn up && ip link set lab-vpn2 up && ip route add default dev lab-vpn table 52 && \
                   ip -6 route add default dev lab-vpn table 52";
const NO_VPN: &str = "ip route flush table 52; ip -6 route flush table 52; ip link del lab-vpn";
const EARLY_RULE: &str = "ip rule add pref 10 lookup 52; ip -6 rule add pref 10 lookup 52";
const NO_EARLY_RULE: &str = "ip rule del pref 10; ip -6 rule del pref 10";
const LATE_RULE: &str = "ip rule add pref 5270 lookup 52; ip -6 rule add pref 5270 lookup 52";
const NO_LATE_RULE: &str = "ip rule del pref 5270; ip -6 rule del pref 5270";
