//! Which resolvers the host uses, and from where each of them is asked.
//!
//! What `ployz_core::resolv` says that only the host reaches (loopback, link-local, IPv6) is asked through a socket of the
//! host's namespace ([`super::outside`]); everything else from the namespace this process runs in.

use super::Address;
use ployz_core::resolv::{self, Nameserver};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the list of resolvers comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Given once and for all.
    Given(Vec<Address>),
    /// The first of these files that names one; read again when they change.
    Files {
        /// In order of preference.
        paths: Vec<PathBuf>,
        /// The socket of the process that opens sockets in the host's namespace.
        opener: PathBuf,
    },
}

/// The resolvers of a source, without those that are ourselves. `None`: nothing could be read, which says nothing about them.
pub fn resolvers(source: &Source, ours: impl Fn(IpAddr) -> bool) -> Option<Vec<Address>> {
    let (paths, opener) = match source {
        Source::Given(addresses) => return Some(addresses.clone()),
        Source::Files { paths, opener } => (paths, Arc::<Path>::from(opener.as_path())),
    };
    let texts: Vec<io::Result<String>> = paths.iter().map(std::fs::read_to_string).collect();
    let readable: Vec<&str> = texts.iter().flatten().map(String::as_str).collect();
    let chosen = resolv::chosen(readable.iter().copied(), ours);
    (!readable.is_empty()).then(|| chosen.into_iter().map(|one| reached(one, &opener)).collect())
}

/// The resolver that is meant where no file names one (resolv.conf(5)).
pub fn local(source: &Source) -> Option<Address> {
    match source {
        Source::Given(_) => None,
        Source::Files { opener, .. } => Some(reached(Nameserver::LOCAL, &Arc::from(opener.as_path()))),
    }
}

fn reached(nameserver: Nameserver, opener: &Arc<Path>) -> Address {
    if nameserver.is_of_host() {
        return Address::Host { nameserver, port: PORT, opener: opener.clone() };
    }
    Address::Net(SocketAddr::new(nameserver.ip, PORT))
}

impl std::str::FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(Path::new(path).to_owned()));
        }
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        let address = text.parse::<SocketAddr>().or(bare);
        address.map(Self::Net).map_err(|_| format!("{text:?} is not an address, address:port or unix:/path"))
    }
}

/// RFC 1035 section 4.2.1.
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_cannot_be_read_is_told_from_one_that_names_none() {
        let dir = std::env::temp_dir().join(format!("ployz-dns-resolvers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let paths = vec![dir.join("resolv.conf"), dir.join("other")];
        let source = Source::Files { paths: paths.clone(), opener: "/run/x".into() };
        let listed = || {
            let found = resolvers(&source, |_| false)?;
            Some(found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(listed(), None);
        std::fs::write(&paths[0], "search lan\n").unwrap();
        assert_eq!(listed(), Some(vec![]));
        std::fs::write(&paths[0], "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(listed(), Some(vec!["127.0.0.53 of the host".to_owned()]));
        std::fs::write(
            &paths[1],
            "nameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n",
        )
        .unwrap();
        let expected = ["192.168.1.1:53", "fe80::1%eth0 of the host", "2001:db8::1 of the host"];
        assert_eq!(listed(), Some(expected.map(str::to_owned).to_vec()));
        std::fs::remove_dir_all(&dir).unwrap();
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
