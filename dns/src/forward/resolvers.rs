//! Which resolvers the host uses, as far as they can be reached from the namespace this process runs in.
//!
//! A resolver on the host's loopback (systemd-resolved's 127.0.0.53, a local dnsmasq) cannot: what systemd-resolved itself
//! asks is taken instead, and where there is no such list, a stream socket in the file system can be given.

use super::Address;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// Where the list of resolvers comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Given once and for all.
    Given(Vec<Address>),
    /// The first of these files that names one that can be reached; read again when they change.
    Files(Vec<PathBuf>),
}

/// The resolvers of a source, without those that are ourselves.
pub fn resolvers(source: &Source, ours: impl Fn(IpAddr) -> bool) -> Vec<Address> {
    match source {
        Source::Given(addresses) => addresses.clone(),
        Source::Files(paths) => {
            let lists = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok());
            lists.map(|text| reachable(&text, &ours)).find(|list| !list.is_empty()).unwrap_or_default()
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::Files(vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()])
    }
}

impl std::str::FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(Path::new(path).to_owned()));
        }
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let address = text.parse::<SocketAddr>().or(bare);
        address.map(Self::Net).map_err(|_| format!("{text:?} is not an address, address:port or unix:/path"))
    }
}

fn reachable(text: &str, ours: impl Fn(IpAddr) -> bool) -> Vec<Address> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        // A link-local resolver needs its link, which is not in this namespace.
        let Ok(ip) = address.parse::<IpAddr>() else { continue };
        let elsewhere = ip.is_loopback() || ip.is_unspecified() || link_local(ip) || ours(ip);
        let address = Address::Net(SocketAddr::new(ip, 53));
        if !elsewhere && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

impl Address {
    /// Whether the kernel has a route to it, now and from this namespace. Nothing is sent.
    pub fn has_route(&self) -> bool {
        let Self::Net(at) = self else { return true };
        let any: IpAddr =
            if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(at)).is_ok()
    }
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Vec<String> {
        reachable(text, |ip| ip.to_string().starts_with("10.101.")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_can_be_reached_is_taken() {
        let text = "# made by somebody\nsearch lan\nnameserver 127.0.0.53\nnameserver 10.101.3.2\n\
                    nameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1 # second\n\
                    nameserver 192.168.1.1\noptions edns0\nnameserver\nnameserver x\n";
        assert_eq!(listed(text), ["192.168.1.1:53", "[2001:db8::1]:53"]);
        assert!(listed("nameserver 127.0.0.53\n").is_empty());
    }

    #[test]
    fn a_route_is_told_from_none() {
        assert!("127.0.0.1".parse::<Address>().unwrap().has_route());
        assert!("unix:/nowhere".parse::<Address>().unwrap().has_route());
        // A link-local address without its link has no route, whatever routes there are.
        assert!(!"[fe80::1]:53".parse::<Address>().unwrap().has_route());
    }

    #[test]
    fn addresses_are_read_with_and_without_port() {
        for (text, shown) in [
            ("1.2.3.4", "1.2.3.4:53"),
            ("1.2.3.4:5353", "1.2.3.4:5353"),
            ("::1", "[::1]:53"),
            ("[::1]:5353", "[::1]:5353"),
            ("unix:/run/x", "unix:/run/x"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        assert!("example.org".parse::<Address>().is_err());
    }
}
