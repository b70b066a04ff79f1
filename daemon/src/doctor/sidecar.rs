//! What the gateway and the DNS server report of the routing state they serve, asked for and put into words.
//!
//! Health is decided from [`SidecarStatus`] alone. A report that this build cannot parse is another build's: what it serves is
//! then unknown, and unknown is not unhealthy.

use super::name::{self, Reply, TXT};
use crate::node::supervisor::systemd::Systemd;
use ployz_core::routing::Freshness;
use ployz_core::spec::UnitName;
use ployz_core::spec::container::ZONE;
use ployz_core::wire::v1::sidecar::{Counts, SidecarStatus};
use std::net::SocketAddr;

/// Which sidecar reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sidecar {
    /// The gateway, through systemd.
    Gateway,
    /// The DNS server, through its own `_status` record.
    Dns,
}

/// What came of asking a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// It reports this.
    Status(SidecarStatus),
    /// It runs; its report is a text of another build.
    Unknown(String),
    /// It reports nothing, and why.
    Silent(String),
}

/// The gateway's report, which systemd keeps while its unit is active.
pub(super) async fn gateway(systemd: &Systemd) -> Report {
    parse(systemd.status_text(&UnitName::GATEWAY).await.unwrap_or_default())
}

/// The report of the DNS server at this address.
pub(super) async fn dns(server: SocketAddr) -> Report {
    let reply = name::ask(server, &format!("_status.{ZONE}"), TXT).await;
    of_reply(server, reply)
}

fn of_reply(server: SocketAddr, reply: Result<Reply, String>) -> Report {
    match reply {
        Ok(reply) => parse(reply.texts.join(" ")),
        Err(why) => Report::Silent(format!("{} does not answer: {why}", server.ip())),
    }
}

fn parse(text: String) -> Report {
    match text.parse() {
        Ok(status) => Report::Status(status),
        Err(_) if text.trim().is_empty() => Report::Silent(SILENT.to_owned()),
        Err(_) => Report::Unknown(text),
    }
}

impl Report {
    /// The report in words.
    pub(super) fn words(&self, of: Sidecar) -> String {
        match self {
            Self::Status(status) => of.words(status),
            Self::Unknown(text) => format!("unknown: another version of {} reports {text:?}", of.program()),
            Self::Silent(why) => why.clone(),
        }
    }
}

impl Sidecar {
    /// Its program, which is its unit too.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Gateway => "ployz-gateway",
            Self::Dns => "ployz-dns",
        }
    }

    fn words(self, status: &SidecarStatus) -> String {
        let served = served(&status.counts);
        match (status.freshness, self) {
            (Freshness::Live, _) => format!("{served}, followed live"),
            (Freshness::LastGood(since), _) => {
                format!("{served} as last known, the store is away since {since}")
            }
            (Freshness::Empty, Self::Gateway) => {
                "no route is known yet: every request is answered 503".into()
            }
            (Freshness::Empty, Self::Dns) => "no name is known yet: names of the mesh are SERVFAIL".into(),
        }
    }
}

/// `3 routes`; `2 machines, 1 services`.
fn served(counts: &Counts) -> String {
    let Counts { routes, machines, services, instances } = *counts;
    let all = [("routes", routes), ("machines", machines), ("services", services), ("instances", instances)];
    let counted: Vec<String> =
        all.iter().filter_map(|(of, count)| Some(format!("{} {of}", (*count)?))).collect();
    if counted.is_empty() { "its state".to_owned() } else { counted.join(", ") }
}

/// A process that does not run reports nothing, and neither does one that has just begun.
const SILENT: &str = "it does not run, or does not say";

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> SocketAddr {
        "10.101.0.2:53".parse().unwrap()
    }

    fn answered(texts: Vec<String>) -> Report {
        of_reply(at(), Ok(Reply { code: 0, answers: 1, texts }))
    }

    #[test]
    fn report_of_either_sidecar_is_its_status() {
        for freshness in [Freshness::Empty, Freshness::Live, Freshness::LastGood(7)] {
            let mut status = SidecarStatus::new(freshness, "0.4.0");
            status.sequence = Some(42);
            status.counts.services = Some(2);
            assert_eq!(parse(status.to_string()), Report::Status(status.clone()));
            assert_eq!(answered(status.parts()), Report::Status(status));
        }
    }

    #[test]
    fn report_of_another_build_is_unknown_and_shown() {
        let old = parse("3 routes, followed live".to_owned());
        assert!(matches!(old, Report::Unknown(_)), "{old:?}");
        assert_eq!(
            old.words(Sidecar::Gateway),
            "unknown: another version of ployz-gateway reports \"3 routes, followed live\""
        );
    }

    #[test]
    fn no_report_is_silence_and_its_cause() {
        assert_eq!(parse(" ".to_owned()), Report::Silent(SILENT.to_owned()));
        assert_eq!(answered(Vec::new()), Report::Silent(SILENT.to_owned()));
        let refused = of_reply(at(), Err("Connection refused (os error 111)".to_owned()));
        let why = "10.101.0.2 does not answer: Connection refused (os error 111)";
        assert_eq!(refused, Report::Silent(why.to_owned()));
    }

    #[test]
    fn words_count_what_is_served() {
        let mut status = SidecarStatus::new(Freshness::LastGood(7), "1");
        assert_eq!(Sidecar::Dns.words(&status), "its state as last known, the store is away since 7");
        status.counts = Counts { machines: Some(2), services: Some(1), ..Counts::default() };
        assert_eq!(
            Sidecar::Dns.words(&status),
            "2 machines, 1 services as last known, the store is away since 7"
        );
        status.freshness = Freshness::Live;
        status.counts = Counts { routes: Some(3), ..Counts::default() };
        assert_eq!(Sidecar::Gateway.words(&status), "3 routes, followed live");
    }
}
