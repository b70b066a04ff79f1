//! An endpoint that an operator names by hand: an address, with a port or without.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// `203.0.113.7`, `203.0.113.7:51820`, `fd12::1`, `[fd12::1]:51820`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamedEndpoint {
    address: IpAddr,
    port: Option<u16>,
}

/// A text that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address that other machines can dial, such as 203.0.113.7, 203.0.113.7:51820 or [2001:db8::7]:51820"
)]
pub struct InvalidEndpoint(String);

impl NamedEndpoint {
    /// With this port where none was named.
    pub fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.port.unwrap_or(port))
    }
}

impl FromStr for NamedEndpoint {
    type Err = InvalidEndpoint;
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let whole = text.parse::<SocketAddr>().map(|found| (found.ip(), Some(found.port())));
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let found = whole.or_else(|_| bare.parse::<IpAddr>().map(|address| (address, None)));
        let (address, port) = found.map_err(|_| InvalidEndpoint(text.chars().take(80).collect()))?;
        if cannot_be_dialled(address) || port == Some(0) {
            return Err(InvalidEndpoint(text.to_owned()));
        }
        Ok(Self { address, port })
    }
}

impl fmt::Display for NamedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl TryFrom<String> for NamedEndpoint {
    type Error = InvalidEndpoint;
    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        text.parse()
    }
}

impl From<NamedEndpoint> for String {
    fn from(named: NamedEndpoint) -> Self {
        named.to_string()
    }
}

/// Link-local IPv6 needs an interface that a peer cannot know.
fn cannot_be_dialled(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local || broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port_and_need_not() {
        for (text, want) in [
            ("203.0.113.7", "203.0.113.7:51820"),
            ("203.0.113.7:4000", "203.0.113.7:4000"),
            ("fd12::1", "[fd12::1]:51820"),
            ("[fd12::1]", "[fd12::1]:51820"),
            ("[fd12::1]:4000", "[fd12::1]:4000"),
        ] {
            let named: NamedEndpoint = text.parse().unwrap();
            assert_eq!(named.at(51820).to_string(), want);
            assert_eq!(named.to_string().parse::<NamedEndpoint>().unwrap(), named);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        let bad = [
            "",
            "n1.example.org",
            "203.0.113.7:0",
            "0.0.0.0",
            "127.0.0.1",
            "[::1]:1",
            "fe80::1",
            "ff02::1",
            "203.0.113.7:x",
        ];
        for text in bad {
            assert!(text.parse::<NamedEndpoint>().is_err(), "{text}");
        }
    }
}
