//! The configuration of the gateway process: defaults, then a file, then `PLOYZ_GATEWAY_*`, then flags.
//!
//! The file is TOML with the same names (`http = ["0.0.0.0:80"]`); an unknown key is refused. What the service manager hands
//! over as sockets is not configured here.

use crate::listen::Kind;
use clap::Parser;
use ipnet::Ipv4Net;
use ployz_core::address::AddressPlan;
use ployz_core::id::{MachineId, NetworkId};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The gateway of a machine of a Ployz network.
#[derive(Debug, Default, Parser, Deserialize)]
#[command(name = "ployz-gateway", version)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// File with these settings
    #[arg(long, env = "PLOYZ_GATEWAY_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Workers
    #[arg(long, env = "PLOYZ_GATEWAY_THREADS", value_name = "N")]
    pub threads: Option<u16>,
    /// Addresses for HTTP, unless sockets are handed over
    #[arg(long, env = "PLOYZ_GATEWAY_HTTP", value_name = "ADDRESS", value_delimiter = ',')]
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTP over IPv6 alone, beside one of IPv4 on the same port, unless sockets are handed over
    #[arg(long, env = "PLOYZ_GATEWAY_HTTP6", value_name = "ADDRESS", value_delimiter = ',')]
    pub http6: Vec<SocketAddr>,
    /// Addresses for HTTPS, unless sockets are handed over
    #[arg(long, env = "PLOYZ_GATEWAY_HTTPS", value_name = "ADDRESS", value_delimiter = ',')]
    pub https: Vec<SocketAddr>,
    /// Addresses for TCP routes, each for the route of its port, unless sockets are handed over
    #[arg(long, env = "PLOYZ_GATEWAY_TCP", value_name = "ADDRESS", value_delimiter = ',')]
    pub tcp: Vec<SocketAddr>,
    /// The same over IPv6 alone, beside one of IPv4 on the same port
    #[arg(long, env = "PLOYZ_GATEWAY_TCP6", value_name = "ADDRESS", value_delimiter = ',')]
    pub tcp6: Vec<SocketAddr>,
    /// Address for Prometheus, unless a socket is handed over
    #[arg(long, env = "PLOYZ_GATEWAY_METRICS", value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// Port that redirects to HTTPS lead to, if not that of the socket
    #[arg(long, env = "PLOYZ_GATEWAY_HTTPS_PORT", value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Client address of NATS
    #[arg(long, env = "PLOYZ_GATEWAY_NATS", value_name = "ADDRESS")]
    pub nats: Option<SocketAddr>,
    /// File with the nkey seed of this machine's user
    #[arg(long, env = "PLOYZ_GATEWAY_SEED", value_name = "FILE")]
    pub seed: Option<PathBuf>,
    /// This machine
    #[arg(long, env = "PLOYZ_GATEWAY_MACHINE", value_name = "ID", value_parser = parsed::<MachineId>)]
    pub machine: Option<MachineId>,
    /// The network
    #[arg(long, env = "PLOYZ_GATEWAY_NETWORK", value_name = "ID", value_parser = parsed::<NetworkId>)]
    pub network: Option<NetworkId>,
    /// Range of the cluster's IPv4 addresses: routes to what is outside of it are not believed
    #[arg(long, env = "PLOYZ_GATEWAY_CLUSTER_CIDR", value_name = "CIDR")]
    pub cluster_cidr: Option<Ipv4Net>,
    /// Prefix length of each machine's part of it
    #[arg(long, env = "PLOYZ_GATEWAY_SUBNET_PREFIX_LEN", value_name = "BITS")]
    pub subnet_prefix_len: Option<u8>,
    /// Where the last good routes are kept
    #[arg(long, env = "PLOYZ_GATEWAY_SNAPSHOT", value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Certificate chain for names without a certificate of their own
    #[arg(long, env = "PLOYZ_GATEWAY_TLS_CERT_PATH", value_name = "FILE")]
    pub tls_cert_path: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "PLOYZ_GATEWAY_TLS_KEY_PATH", value_name = "FILE")]
    pub tls_key_path: Option<PathBuf>,
    /// Directory of certificates: `<name>.crt` with `<name>.key`, `_` for the `*` of a wildcard
    #[arg(long, env = "PLOYZ_GATEWAY_TLS_DIR", value_name = "DIRECTORY")]
    pub tls_dir: Option<PathBuf>,
    /// Seconds until what is still open is cut when the gateway is told to end
    #[arg(long, env = "PLOYZ_GATEWAY_DRAIN_SECS", value_name = "SECONDS")]
    pub drain_secs: Option<u16>,
    /// Whether requests are logged (the default)
    #[arg(long, env = "PLOYZ_GATEWAY_ACCESS_LOG", value_name = "BOOL")]
    pub access_log: Option<bool>,
}

/// Settings that contradict each other or lack something.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{} is not a valid configuration", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and why not.
        #[source]
        cause: Box<toml::de::Error>,
    },
    /// A certificate without its key, or the other way round.
    #[error("{given} is set without {missing}: both or neither")]
    HalfPair {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Certificates that nobody could ask for.
    #[error("PLOYZ_GATEWAY_TLS_CERT_PATH and PLOYZ_GATEWAY_TLS_KEY_PATH need an address for HTTPS")]
    PairWithoutHttps,
    /// Nothing to listen on.
    #[error("no address for HTTP or HTTPS, and no socket was passed")]
    NoSocket,
    /// Something that has no default.
    #[error("{name} is not set")]
    Missing {
        /// Its name.
        name: &'static str,
    },
}

impl Given {
    /// What flags, environment and file say together.
    pub fn read() -> Result<Self, BadConfig> {
        let given = Self::parse();
        match given.config.clone() {
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|cause| BadConfig::Unreadable { path: path.clone(), cause })?;
                let file = toml::from_str(&text)
                    .map_err(|cause| BadConfig::Text { path, cause: Box::new(cause) })?;
                Ok(given.over(file))
            }
            None => Ok(given),
        }
    }

    /// These settings where they are given, otherwise those.
    pub fn over(self, under: Self) -> Self {
        let list = |own: Vec<SocketAddr>, under| if own.is_empty() { under } else { own };
        Self {
            config: self.config,
            threads: self.threads.or(under.threads),
            http: list(self.http, under.http),
            http6: list(self.http6, under.http6),
            https: list(self.https, under.https),
            tcp: list(self.tcp, under.tcp),
            tcp6: list(self.tcp6, under.tcp6),
            metrics: self.metrics.or(under.metrics),
            https_port: self.https_port.or(under.https_port),
            nats: self.nats.or(under.nats),
            seed: self.seed.or(under.seed),
            machine: self.machine.or(under.machine),
            network: self.network.or(under.network),
            cluster_cidr: self.cluster_cidr.or(under.cluster_cidr),
            subnet_prefix_len: self.subnet_prefix_len.or(under.subnet_prefix_len),
            snapshot: self.snapshot.or(under.snapshot),
            tls_cert_path: self.tls_cert_path.or(under.tls_cert_path),
            tls_key_path: self.tls_key_path.or(under.tls_key_path),
            tls_dir: self.tls_dir.or(under.tls_dir),
            drain_secs: self.drain_secs.or(under.drain_secs),
            access_log: self.access_log.or(under.access_log),
        }
    }

    /// The addresses to listen on when no sockets were handed over.
    pub fn addresses(&self) -> Vec<(Kind, SocketAddr)> {
        let http = self.http.iter().map(|address| (Kind::Http, *address));
        let https = self.https.iter().map(|address| (Kind::Https, *address));
        let tcp = self.tcp.iter().map(|address| (Kind::Tcp(address.port()), *address));
        let metrics = self.metrics.iter().map(|address| (Kind::Metrics, *address));
        http.chain(https).chain(tcp).chain(metrics).collect()
    }

    /// Those of IPv6 alone. Without one of them the others are served all the same.
    pub fn addresses6(&self) -> Vec<(Kind, SocketAddr)> {
        let http = self.http6.iter().map(|address| (Kind::Http, *address));
        let tcp = self.tcp6.iter().map(|address| (Kind::Tcp(address.port()), *address));
        http.chain(tcp).collect()
    }

    /// How the cluster's addresses are divided, where that was said.
    pub fn plan(&self) -> Option<AddressPlan> {
        AddressPlan::new(self.cluster_cidr?, self.subnet_prefix_len?).ok()
    }

    /// The static pair, when it is whole and somebody can ask for it.
    pub fn pair(&self, listens_to_https: bool) -> Result<Option<(PathBuf, PathBuf)>, BadConfig> {
        let (cert, key) = ("PLOYZ_GATEWAY_TLS_CERT_PATH", "PLOYZ_GATEWAY_TLS_KEY_PATH");
        match (self.tls_cert_path.clone(), self.tls_key_path.clone()) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(BadConfig::HalfPair { given: cert, missing: key }),
            (None, Some(_)) => Err(BadConfig::HalfPair { given: key, missing: cert }),
            (Some(_), Some(_)) if !listens_to_https => Err(BadConfig::PairWithoutHttps),
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
        }
    }
}

/// A setting that has no default.
pub fn needed<T>(value: Option<T>, name: &'static str) -> Result<T, BadConfig> {
    value.ok_or(BadConfig::Missing { name })
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_refused() {
        let file: Given = toml::from_str("threads = 4\nhttp = [\"0.0.0.0:80\"]\ndrain_secs = 9").unwrap();
        let flags = Given::parse_from(["ployz-gateway", "--threads", "2", "--tcp", "127.0.0.1:5432"]);
        let both = flags.over(file);
        assert_eq!((both.threads, both.drain_secs), (Some(2), Some(9)));
        assert_eq!(
            both.addresses(),
            [
                (Kind::Http, "0.0.0.0:80".parse().unwrap()),
                (Kind::Tcp(5432), "127.0.0.1:5432".parse().unwrap())
            ]
        );
        assert!(toml::from_str::<Given>("thread = 4").is_err());
    }

    #[test]
    fn pair_is_whole_and_has_somebody_to_ask_for_it() {
        let with = |cert: Option<&str>, key: Option<&str>| Given {
            tls_cert_path: cert.map(Into::into),
            tls_key_path: key.map(Into::into),
            ..Given::default()
        };
        assert!(matches!(with(None, None).pair(true), Ok(None)));
        assert!(matches!(with(Some("c"), Some("k")).pair(true), Ok(Some(_))));
        assert!(matches!(with(Some("c"), None).pair(true), Err(BadConfig::HalfPair { .. })));
        assert!(matches!(with(None, Some("k")).pair(true), Err(BadConfig::HalfPair { .. })));
        assert!(matches!(with(Some("c"), Some("k")).pair(false), Err(BadConfig::PairWithoutHttps)));
    }
}
