//! Names of others: which resolvers the host names, whether one of them answers it, and whether the DNS server gets as far.
//!
//! Each is asked from the host's namespace, as the host itself asks; then `ployz-dns` is asked, which reaches some of them from the
//! namespace `ployz` and the others through `ployzd-sockets`. The name is one that cannot exist and that no server has kept.

use super::context::{Ground, Running};
use super::name::{self, A, Reply};
use super::served;
use crate::node::supervisor::Supervisor;
use futures_util::future::join_all;
use ployz_core::resolv::{self, Nameserver};
use ployz_core::wire::v1::doctor::Check;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// What was seen of the way to names of others.
struct Seen {
    /// The host's resolvers, and what each answered the host.
    host: Vec<(Nameserver, Result<Reply, String>)>,
    /// Whether no file names one, so that the local machine is meant.
    unnamed: bool,
    /// Why the list could not be read.
    unreadable: Option<String>,
    /// What the DNS server answered.
    dns: Result<Reply, String>,
    /// Whether the sockets of the host are opened by a unit.
    by_systemd: bool,
}

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let Some(running) = &ground.network else { return Vec::new() };
    let by_systemd = matches!(ground.shared.reconciler.supervisor(), Supervisor::Systemd(_));
    let (texts, unreadable) = read();
    let mut named = resolv::chosen(texts.iter().map(String::as_str), |ip| ours(running, ip));
    let unnamed = named.is_empty();
    if unnamed {
        named.push(Nameserver::LOCAL);
    }
    let server = SocketAddr::new(IpAddr::V4(running.file.subnet().service()), served::DNS_PORT);
    let asked = named.iter().map(|one| ask(one.clone()));
    let own = unheard_of();
    let (host, dns) = tokio::join!(join_all(asked), name::ask(server, &own, A));
    vec![judge(&Seen { host, unnamed, unreadable, dns, by_systemd })]
}

fn read() -> (Vec<String>, Option<String>) {
    let read =
        resolv::FILES.map(|path| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}")));
    let why = read[0].as_ref().err().cloned();
    let texts: Vec<String> = read.into_iter().flatten().collect();
    let unreadable = if texts.is_empty() { why } else { None };
    (texts, unreadable)
}

fn ours(running: &Running, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => running.file.plan.cluster_cidr.contains(&ip),
        IpAddr::V6(ip) => running.file.prefix().net().contains(&ip),
    }
}

async fn ask(nameserver: Nameserver) -> (Nameserver, Result<Reply, String>) {
    let answered = match address(&nameserver) {
        Ok(at) => name::ask(at, &unheard_of(), A).await,
        Err(why) => Err(why),
    };
    (nameserver, answered)
}

fn address(nameserver: &Nameserver) -> Result<SocketAddr, String> {
    let IpAddr::V6(ip) = nameserver.ip else { return Ok(SocketAddr::new(nameserver.ip, served::DNS_PORT)) };
    let scope = match nameserver.zone.as_deref() {
        None => 0,
        Some(zone) => match zone.parse() {
            Ok(index) => index,
            Err(_) => nix::net::if_::if_nametoindex(zone).map_err(|error| format!("link {zone}: {error}"))?,
        },
    };
    Ok(SocketAddrV6::new(ip, served::DNS_PORT, 0, scope).into())
}

/// RFC 6761 section 6.4: it does not exist, and every resolver may say so by itself.
fn unheard_of() -> String {
    format!("ployz-{:016x}.invalid", u64::from_ne_bytes(ployz_host::random::bytes()))
}

fn judge(seen: &Seen) -> Check {
    let listed = seen.host.iter().map(|(one, said)| format!("{one} {}", words(said))).collect::<Vec<_>>();
    let listed = listed.join(", ");
    if let Some(why) = &seen.unreadable {
        return Check::fail(CHECK, format!("the host's resolvers cannot be read: {why}"), NAME_ONE);
    }
    let host = seen.host.iter().any(|(_, said)| said.as_ref().is_ok_and(usable));
    match (seen.dns.as_ref().is_ok_and(usable), host) {
        (true, true) => Check::ok(CHECK, format!("external names resolve through: {listed}")),
        (true, false) => {
            let text = format!(
                "the Ployz DNS server still uses resolvers it knew before, but none answers the host: {listed}"
            );
            Check::warn(CHECK, text, NAME_ONE)
        }
        (false, false) if seen.unnamed => {
            let text =
                format!("the host has no resolver outside the mesh, and none runs on this machine: {listed}");
            Check::fail(CHECK, text, NAME_ONE)
        }
        (false, false) => Check::fail(CHECK, format!("no resolver of the host answers: {listed}"), NAME_ONE),
        (false, true) => {
            let dns = words(&seen.dns);
            let text = format!("resolvers answer the host ({listed}), the Ployz DNS server {dns}");
            Check::fail(CHECK, text, if seen.by_systemd { WAY_OUT } else { NAME_A_NEAR_ONE })
        }
    }
}

/// That there is no such name is an answer; that nothing is said of it is none.
fn usable(reply: &Reply) -> bool {
    matches!(reply.code, 0 | 3)
}

fn words(said: &Result<Reply, String>) -> String {
    match said {
        Ok(reply) if usable(reply) => "answers".into(),
        Ok(reply) => match reply.code {
            2 => "answers SERVFAIL".into(),
            5 => "answers REFUSED".into(),
            code => format!("answers with code {code}"),
        },
        Err(why) => format!("does not answer ({why})"),
    }
}

const CHECK: &str = "dns-upstreams";
const NAME_ONE: &str = "until then containers get SERVFAIL for external names: put a working resolver into /etc/resolv.conf \
                        (`nameserver ADDRESS`; read every 5 seconds) or start the one that is listed";
const WAY_OUT: &str = "`journalctl -u ployz-dns -n 50`; for resolvers on loopback, link-local or by IPv6 also `systemctl start \
                       ployzd-sockets.socket`, `journalctl -u ployzd-sockets`; for others `nft list table inet ployz` (masquerading)";
const NAME_A_NEAR_ONE: &str = "without systemd the DNS server reaches only IPv4 resolvers that are not on loopback: put one into \
                               /etc/resolv.conf";

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    fn said(code: u8) -> Result<Reply, String> {
        Ok(Reply { code, answers: 0, texts: Vec::new() })
    }

    fn seen(host: &[(&str, Result<Reply, String>)], dns: Result<Reply, String>) -> Seen {
        let host = host.iter().map(|(text, said)| (text.parse().unwrap(), said.clone())).collect();
        Seen { host, unnamed: false, unreadable: None, dns, by_systemd: true }
    }

    #[test]
    fn the_table_names_this_check_for_the_resolvers_of_the_host() {
        use ployz_core::host::{Done, HostPart, table::TABLE};
        let row = TABLE.iter().find(|row| row.part == HostPart::Resolvers).unwrap();
        assert_eq!(row.done, Done::Reported(&[CHECK]));
    }

    #[test]
    fn a_host_without_a_resolver_that_answers_is_named() {
        let silent = || Err("Connection refused".to_owned());
        let none = Seen { unnamed: true, ..seen(&[("127.0.0.1", silent())], said(2)) };
        let found = judge(&none);
        assert_eq!(found.level, Level::Fail);
        assert!(found.seen.starts_with("the host has no resolver") && found.advice.is_some(), "{found:?}");

        let found = judge(&seen(&[("127.0.0.53", silent()), ("2001:db8::1", said(5))], said(2)));
        assert_eq!(found.level, Level::Fail);
        let expected = "no resolver of the host answers: 127.0.0.53 does not answer (Connection refused), 2001:db8::1 answers REFUSED";
        assert_eq!(found.seen, expected);

        let missing =
            Seen { unreadable: Some("/etc/resolv.conf: no such file".into()), ..seen(&[], silent()) };
        assert_eq!(judge(&missing).level, Level::Fail);
    }

    #[test]
    fn one_that_answers_the_host_and_not_the_dns_server_is_told_from_one_that_answers_neither() {
        let found = judge(&seen(&[("fe80::1%eth0", said(3))], said(2)));
        assert_eq!(found.level, Level::Fail);
        assert_eq!(
            found.seen,
            "resolvers answer the host (fe80::1%eth0 answers), the Ployz DNS server answers SERVFAIL"
        );
        assert!(found.advice.unwrap().contains("ployzd-sockets"));
    }

    #[test]
    fn what_the_dns_server_answers_decides() {
        assert_eq!(
            judge(&seen(&[("127.0.0.1", Err("late".into())), ("9.9.9.9", said(3))], said(3))).level,
            Level::Ok
        );
        assert_eq!(judge(&seen(&[("9.9.9.9", said(0))], said(0))).level, Level::Ok);
        assert_eq!(judge(&seen(&[("9.9.9.9", Err("late".into()))], said(0))).level, Level::Warn);
    }
}
