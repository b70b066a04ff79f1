//! Gateway and DNS: who has the gateway's port, whether it answers, whether an own name resolves, and how fresh both tables are.

use super::context::{Ground, Running};
use super::name::{self, A, Reply};
use super::sidecar::{self, Report, Sidecar};
use super::{answers, families, plane};
use crate::node::sockets;
use crate::node::sockets::{Bound, Holder};
use crate::node::supervisor::Supervisor;
use ployz_core::routing::Freshness;
use ployz_core::spec::container::ZONE;
use ployz_core::spec::sidecar::is_tcp_purpose;
use ployz_core::wire::v1::doctor::Check;
use std::net::{IpAddr, SocketAddr};

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let mut checks = ports(ground);
    if let Some(running) = &ground.network {
        checks.push(answers::check(ground).await);
        checks.push(families::check(ground).await);
        checks.push(gateway_table(ground).await);
        checks.extend(dns(running).await);
    }
    checks
}

fn ports(ground: &Ground<'_>) -> Vec<Check> {
    let config = ground.config();
    let own = [
        ("gateway-port", Some(config.gateway_listen_addr), "gateway_listen_addr"),
        ("gateway-https-port", config.gateway_https_listen_addr, "gateway_https_listen_addr"),
    ];
    let own = own.into_iter().filter_map(|(check, at, key)| {
        let advice = format!(
            "stop it, or set {key} in /etc/ployz/config.toml to another address and `systemctl restart ployzd`"
        );
        Some((check.to_owned(), at?, false, advice))
    });
    let routes = ground.network.iter().flat_map(|running| &running.spec.gateway.routes.wanted);
    let tcp = routes.flat_map(|socket| {
        let advice = if is_tcp_purpose(&socket.purpose) {
            "stop it (ployzd retries every few seconds), or give the TCP route another port"
        } else {
            "stop it (ployzd retries every few seconds), or set gateway_listen_addr in /etc/ployz/config.toml to serve IPv4 alone"
        };
        let check = format!("gateway-{}", socket.purpose);
        let ports = socket.listen.iter().map(|listen| (listen.address(), socket.v6_only));
        ports.map(move |(at, v6_only)| (check.clone(), at, v6_only, advice.to_owned()))
    });
    // With systemd the sockets are its own, and the gateway has them too once it was started.
    let by_systemd = ground.network.as_ref().is_some_and(|running| plane::is_there(&running.live.gateway));
    let judged = own.chain(tcp).map(|(check, at, v6_only, advice)| {
        let bound = in_the_way(sockets::tcp(at.port()), at, v6_only);
        let holders = sockets::holders(&bound).into_iter().collect::<Vec<_>>();
        let taken = (!bound.is_empty()).then_some(holders);
        judge_port(&check, advice, at, taken.as_deref(), ground.network.is_some(), by_systemd)
    });
    let refused = ground.network.iter().flat_map(|running| &running.spec.gateway.routes.refused);
    let refused = refused.map(|(purpose, why)| {
        Check::fail(format!("gateway-{purpose}"), why.clone(), "give the TCP route another port")
    });
    judged.chain(refused).collect()
}

/// Who listens on this very address, which only one can; where none does, who keeps it from being listened on. `v6_only`: IPv4
/// is another socket's. The kernel's tables do not say which families one of `[::]` takes.
fn in_the_way(bound: Vec<Bound>, at: SocketAddr, v6_only: bool) -> Vec<Bound> {
    let one_family = |bound: &Bound| !v6_only || bound.at.is_ipv6();
    let (exact, others): (Vec<_>, Vec<_>) =
        bound.into_iter().filter(one_family).partition(|bound| bound.at == at);
    if !exact.is_empty() {
        return exact;
    }
    others.into_iter().filter(|bound| clash(bound.at, at)).collect()
}

/// Whether two listeners of one port get into each other's way.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip().is_unspecified() || other.ip().is_unspecified() || one.ip() == other.ip()
}

/// `holders`: `None` when nobody listens; empty when somebody does and may not be looked at.
fn judge_port(
    check: &str,
    advice: String,
    at: SocketAddr,
    holders: Option<&[Holder]>,
    wanted: bool,
    by_systemd: bool,
) -> Check {
    let Some(holders) = holders else {
        return match wanted {
            true => {
                Check::fail(check, format!("no process is listening on {at}"), "`ployzctl explain gateway`")
            }
            false => Check::ok(check, format!("{at} is free")),
        };
    };
    if holders.is_empty() {
        return Check::warn(check, format!("an unknown process is listening on {at}"), "run this as root");
    }
    let ours = |holder: &Holder| holder.name.starts_with("ployz-") || (by_systemd && holder.pid == 1);
    let others: Vec<String> = holders.iter().filter(|holder| !ours(holder)).map(Holder::to_string).collect();
    if others.is_empty() && wanted {
        return Check::ok(check, format!("{at} is the gateway's"));
    }
    if others.is_empty() {
        let seen = format!("{at} is the gateway's, although no network should be running here");
        return Check::warn(check, seen, "`ployzctl mesh list`; is data_dir the one ployzd runs with?");
    }
    let others = others.join(", ");
    Check::fail(check, format!("{at} is already in use by {others}"), advice)
}

async fn gateway_table(ground: &Ground<'_>) -> Check {
    let Supervisor::Systemd(systemd) = ground.shared.reconciler.supervisor() else {
        let seen = "reported to systemd only, which does not run here";
        return Check::ok("gateway-routes", format!("{seen}; `gateway_metrics_listen_addr` shows it too"));
    };
    judge_freshness("gateway-routes", Sidecar::Gateway, &sidecar::gateway(systemd).await)
}

fn judge_freshness(check: &str, of: Sidecar, report: &Report) -> Check {
    let (seen, program) = (report.words(of), of.program());
    let live_again = "it recovers when the store is back: see the store checks";
    match report {
        Report::Status(status) => match status.freshness {
            Freshness::Live => Check::ok(check, seen),
            Freshness::LastGood(_) => Check::warn(check, seen, live_again),
            Freshness::Empty => Check::fail(check, seen, live_again),
        },
        Report::Unknown(_) => Check::warn(
            check,
            seen,
            format!("`systemctl restart {program}`, once ployzd and it are of one version"),
        ),
        Report::Silent(_) => Check::fail(check, seen, format!("`systemctl status {program}`")),
    }
}

async fn dns(running: &Running) -> [Check; 2] {
    let server = SocketAddr::new(IpAddr::V4(running.file.subnet().service()), DNS_PORT);
    let own = format!("{}.machine.{ZONE}", running.file.machine.id);
    let (name, report) = tokio::join!(name::ask(server, &own, A), sidecar::dns(server));
    [judge_name(&own, server, &name), judge_freshness("dns-names", Sidecar::Dns, &report)]
}

fn judge_name(own: &str, server: SocketAddr, reply: &Result<Reply, String>) -> Check {
    let server = server.ip();
    let advice =
        format!("`dig @{server} {own}`; `systemctl status ployz-dns`, `journalctl -u ployz-dns -n 50`");
    match reply {
        Ok(reply) if reply.code == 0 && reply.answers > 0 => {
            Check::ok("dns-name", format!("{own} resolves at {server}"))
        }
        Ok(reply) => Check::fail("dns-name", format!("{server} answers {own} with {}", word(reply)), advice),
        Err(why) => Check::fail("dns-name", format!("{server} does not answer: {why}"), advice),
    }
}

fn word(reply: &Reply) -> String {
    match reply.code {
        0 => "no record".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        code => format!("code {code}"),
    }
}

/// RFC 1035 section 4.2.1.
pub(super) const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;
    use ployz_core::wire::v1::sidecar::SidecarStatus;

    fn port(holders: Option<&[(&str, u32)]>, wanted: bool, by_systemd: bool) -> Check {
        let holder = |(name, pid): &(&str, u32)| Holder { name: (*name).to_owned(), pid: *pid };
        let holders: Option<Vec<Holder>> = holders.map(|all| all.iter().map(holder).collect());
        let at = "0.0.0.0:80".parse().unwrap();
        judge_port("gateway-port", "stop it".into(), at, holders.as_deref(), wanted, by_systemd)
    }

    #[test]
    fn a_port_that_somebody_else_has_is_named_with_its_holder() {
        let taken = port(Some(&[("nginx", 7)]), true, false);
        assert!(
            taken.level == Level::Fail && taken.seen == "0.0.0.0:80 is already in use by nginx (pid 7)",
            "{taken:?}"
        );
        assert_eq!(port(Some(&[("nginx", 7), ("ployz-gateway", 8)]), true, true).level, Level::Fail);
        assert_eq!(port(Some(&[("systemd", 1)]), true, false).level, Level::Fail);
        assert_eq!(port(Some(&[("systemd", 1), ("ployz-gateway", 8)]), true, true).level, Level::Ok);
        assert_eq!(port(Some(&[("ployz-gateway", 8)]), true, false).level, Level::Ok);
        assert_eq!(port(Some(&[("ployz-gateway", 8)]), false, false).level, Level::Warn);
        assert_eq!(port(Some(&[]), true, true).level, Level::Warn);
        assert_eq!((port(None, true, true).level, port(None, false, false).level), (Level::Fail, Level::Ok));
    }

    #[test]
    fn the_other_family_of_a_port_is_not_in_the_way_of_its_own() {
        let bound = |all: &[&str]| all.iter().map(|at| Bound::at(at.parse().unwrap())).collect::<Vec<_>>();
        let found = |all: &[&str], at: &str, v6_only| -> Vec<String> {
            let found = in_the_way(bound(all), at.parse().unwrap(), v6_only);
            found.iter().map(|bound| bound.at.to_string()).collect()
        };
        let both = ["0.0.0.0:80", "[::]:80"];
        assert_eq!(found(&both, "0.0.0.0:80", false), ["0.0.0.0:80"]);
        assert_eq!(found(&both, "[::]:80", true), ["[::]:80"]);
        assert_eq!(found(&["0.0.0.0:80"], "[::]:80", true), [""; 0]);
        assert_eq!(found(&["[2001:db8::1]:80"], "[::]:80", true), ["[2001:db8::1]:80"]);
        assert_eq!(found(&["[::]:80"], "0.0.0.0:80", false), ["[::]:80"], "it may take both");
    }

    #[test]
    fn freshness_decides() {
        let level = |report| judge_freshness("dns-names", Sidecar::Dns, &report).level;
        let of = |freshness| level(Report::Status(SidecarStatus::new(freshness, "0.4.0")));
        assert_eq!(of(Freshness::Live), Level::Ok);
        assert_eq!(of(Freshness::LastGood(1_782_907_200)), Level::Warn);
        assert_eq!(of(Freshness::Empty), Level::Fail);
        assert_eq!(level(Report::Silent("refused".to_owned())), Level::Fail);
        assert_eq!(level(Report::Unknown("3 routes, followed live".to_owned())), Level::Warn, "not broken");
    }
}
