//! What resolv.conf(5) names, and from which network namespace each of these resolvers can be asked.
//!
//! The namespace `ployz` reaches what IPv4 routes reach. Loopback is the host's own, a link-local address means a link of
//! the host, and the way out of the namespace has no IPv6 (docs/decisions/0005-containers-on-the-bridge.md).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One resolver of the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nameserver {
    /// Its address.
    pub ip: IpAddr,
    /// Link of a link-local address, by name or index, as the host knows it.
    pub zone: Option<String>,
}

/// Not an address with or without a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a resolver address")]
pub struct NotANameserver(String);

impl Nameserver {
    /// The one that is meant where a file names none: the local machine (resolv.conf(5)).
    pub const LOCAL: Self = Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), zone: None };

    /// Whether only the host's namespace has a way to it.
    pub fn is_of_host(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(_) => true,
        }
    }

    /// Whether it is systemd-resolved's own listener (systemd-resolved.service(8)), which asks those of another file.
    pub fn is_resolved_stub(&self) -> bool {
        [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)].map(IpAddr::V4).contains(&self.ip)
    }
}

impl FromStr for Nameserver {
    type Err = NotANameserver;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let fits = |zone: &str| !zone.is_empty() && zone.len() < INTERFACE_NAME && zone.is_ascii();
        let not = || NotANameserver(text.to_owned());
        let ip = address.parse::<IpAddr>().map_err(|_| not())?.to_canonical();
        if !zone.is_none_or(fits) {
            return Err(not());
        }
        // Where nothing is said this host is meant, as for connect(2).
        let ip = match ip {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            other => other,
        };
        Ok(Self { ip, zone: zone.map(str::to_owned) })
    }
}

impl fmt::Display for Nameserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

/// All that one file names, in its order.
pub fn named(text: &str) -> Vec<Nameserver> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(word)) = (words.next(), words.next()) else { continue };
        if let Ok(nameserver) = word.parse()
            && !found.contains(&nameserver)
        {
            found.push(nameserver);
        }
    }
    found
}

/// The resolvers to ask, of files in order of preference: those of the first that names any. systemd-resolved's listener
/// only where the file with what it asks is not there. `ours`: addresses of the mesh, where the question would come back.
pub fn chosen<'a>(
    files: impl IntoIterator<Item = &'a str>,
    ours: impl Fn(IpAddr) -> bool,
) -> Vec<Nameserver> {
    let mut stubs = Vec::new();
    for text in files {
        let (of_resolved, others): (Vec<_>, Vec<_>) =
            named(text).into_iter().filter(|one| !ours(one.ip)).partition(Nameserver::is_resolved_stub);
        if !others.is_empty() {
            return others;
        }
        stubs.extend(of_resolved.into_iter().filter(|one| !stubs.contains(one)).collect::<Vec<_>>());
    }
    stubs
}

/// The files of a host, in order of preference: the one everything reads, and what systemd-resolved asks itself.
pub const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// IFNAMSIZ (linux/if.h), with the null at its end.
const INTERFACE_NAME: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen_of(files: &[&str]) -> Vec<String> {
        let ours = |ip: IpAddr| ip.to_string().starts_with("10.101.");
        chosen(files.iter().copied(), ours).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_resolver_of_the_first_file_that_names_one_is_taken() {
        let text = "# made by hand\nsearch lan\nnameserver 10.101.3.2\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::1 # second\nnameserver 192.168.1.1\noptions edns0\nnameserver\nnameserver x\n\
                    nameserver ::ffff:192.168.1.1\nnameserver fe80::1%\n";
        assert_eq!(
            chosen_of(&[text, "nameserver 9.9.9.9\n"]),
            ["192.168.1.1", "fe80::1%eth0", "2001:db8::1"]
        );
        assert_eq!(chosen_of(&["", "nameserver 9.9.9.9\n"]), ["9.9.9.9"]);
        assert_eq!(chosen_of(&["nameserver 127.0.0.1\nnameserver 1.1.1.1\n"]), ["127.0.0.1", "1.1.1.1"]);
        assert_eq!(chosen_of(&["nameserver 0.0.0.0\nnameserver ::\n"]), ["127.0.0.1", "::1"]);
        assert!(chosen_of(&["nameserver 10.101.3.2\n", "search lan\n"]).is_empty());
    }

    #[test]
    fn the_listener_of_systemd_resolved_is_asked_only_when_what_it_asks_is_not_known() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        assert_eq!(
            chosen_of(&[stub, "nameserver 192.168.1.1\nnameserver fe80::1%2\n"]),
            ["192.168.1.1", "fe80::1%2"]
        );
        assert_eq!(chosen_of(&[stub, ""]), ["127.0.0.53"]);
        assert_eq!(chosen_of(&[stub, stub]), ["127.0.0.53"]);
        assert_eq!(chosen_of(&["nameserver 127.0.0.53\nnameserver 1.1.1.1\n", ""]), ["1.1.1.1"]);
    }

    #[test]
    fn what_only_the_host_reaches_is_told_from_what_the_namespace_reaches() {
        for (text, of_host) in [
            ("192.168.1.1", false),
            ("8.8.8.8", false),
            ("127.0.0.1", true),
            ("127.0.0.53", true),
            ("169.254.169.254", true),
            ("::1", true),
            ("fe80::1%eth0", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(text.parse::<Nameserver>().unwrap().is_of_host(), of_host, "{text}");
        }
    }
}
