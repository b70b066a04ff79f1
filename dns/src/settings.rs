//! What the process is told: flags, or the environment of its unit, which `systemctl show` lets an operator read.

use crate::forward::{Address, Source};
use clap::Parser;
use ipnet::Ipv4Net;
use ployz_core::address::AddressPlan;
use ployz_core::id::{MachineId, NetworkId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The DNS server of a machine of a Ployz network.
///
/// Answers names below ployz.internal from the routing state and forwards everything else. Sockets that systemd passes
/// (LISTEN_FDS) are used as they are; without them the addresses given are listened on.
#[derive(Debug, Clone, Parser)]
#[command(name = "ployz-dns", version)]
pub struct Settings {
    /// This machine's name
    #[arg(long, env = "PLOYZ_DNS_MACHINE", value_name = "NAME")]
    pub machine: MachineId,
    /// The network's id
    #[arg(long, env = "PLOYZ_DNS_NETWORK", value_name = "ID")]
    pub network: NetworkId,
    /// Range of the cluster's IPv4 addresses; its reverse zones are answered here
    #[arg(long, env = "PLOYZ_DNS_CLUSTER_CIDR", value_name = "CIDR")]
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of each machine's part of it: routes to addresses that no container can have are then not believed
    #[arg(long, env = "PLOYZ_DNS_SUBNET_PREFIX_LEN", value_name = "BITS")]
    pub subnet_prefix_len: Option<u8>,
    /// Addresses to listen on, UDP and TCP, when systemd passes no sockets
    #[arg(long, env = "PLOYZ_DNS_LISTEN", value_name = "ADDRESS", value_delimiter = ',', value_parser = one_address)]
    pub listen: Vec<SocketAddr>,
    /// Where to serve Prometheus metrics
    #[arg(long, env = "PLOYZ_DNS_METRICS_LISTEN_ADDR", value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// Resolvers to forward to (address, address:port or unix:/path); otherwise those of the host, read again when changed
    #[arg(long = "upstream", env = "PLOYZ_DNS_UPSTREAMS", value_name = "RESOLVER", value_delimiter = ',')]
    pub upstreams: Vec<Address>,
    /// Files that name the host's resolvers, in order of preference
    #[arg(
        long,
        env = "PLOYZ_DNS_RESOLV_CONF",
        value_name = "FILE",
        value_delimiter = ',',
        default_value = "/etc/resolv.conf,/run/systemd/resolve/resolv.conf"
    )]
    pub resolv_conf: Vec<PathBuf>,
    /// Socket of ployz-sockets, which opens sockets to those resolvers that only the host's namespace reaches
    #[arg(
        long,
        env = "PLOYZ_DNS_SOCKETS",
        value_name = "SOCKET",
        default_value = "/run/ployzd-sockets.sock"
    )]
    pub sockets: PathBuf,
    /// Client address of this machine's NATS server
    #[arg(long, env = "PLOYZ_DNS_NATS", value_name = "ADDRESS")]
    pub nats: SocketAddr,
    /// File with the seed of the NATS user
    #[arg(long, env = "PLOYZ_DNS_NATS_SEED_FILE", value_name = "FILE")]
    pub nats_seed_file: PathBuf,
    /// Where the last good state is kept for a start without NATS
    #[arg(long, env = "PLOYZ_DNS_SNAPSHOT", value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Seconds that a stop waits for what is on its way
    #[arg(long, env = "PLOYZ_DNS_DRAIN_SECONDS", value_name = "SECONDS", default_value = "6", value_parser = clap::value_parser!(u64).range(0..=600))]
    pub drain_seconds: u64,
}

impl Settings {
    /// How the cluster's addresses are divided, where that was said.
    pub fn plan(&self) -> Option<AddressPlan> {
        AddressPlan::new(self.cluster_cidr, self.subnet_prefix_len?).ok()
    }

    /// Where the resolvers come from.
    pub fn source(&self) -> Source {
        if self.upstreams.is_empty() {
            Source::Files { paths: self.resolv_conf.clone(), opener: self.sockets.clone() }
        } else {
            Source::Given(self.upstreams.clone())
        }
    }

    /// How long a stop may take.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// A reply must come from the address that was asked, which a socket for all addresses does not ensure.
fn one_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "not an address:port".to_owned())?;
    if address.ip().is_unspecified() {
        return Err("must be one address of this machine, not all".to_owned());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Settings, clap::Error> {
        let base = ["ployz-dns", "--machine=db-1", "--network=0123456789abcdef0123456789abcdef"];
        let rest = ["--cluster-cidr=10.101.0.0/16", "--nats=127.0.0.1:4222", "--nats-seed-file=/x"];
        Settings::try_parse_from(base.iter().chain(&rest).chain(more))
    }

    #[test]
    fn upstreams_that_are_given_replace_those_of_the_host() {
        let paths = ployz_core::resolv::FILES.map(PathBuf::from).to_vec();
        let of_host = Source::Files { paths, opener: "/run/ployzd-sockets.sock".into() };
        assert_eq!(parse(&[]).unwrap().source(), of_host);
        let given = parse(&["--upstream=9.9.9.9,unix:/run/x.sock"]).unwrap().source();
        let expected = ["9.9.9.9", "unix:/run/x.sock"].map(|text| text.parse().unwrap());
        assert_eq!(given, Source::Given(expected.into()));
    }

    #[test]
    fn a_socket_for_all_addresses_is_refused() {
        assert!(parse(&["--listen=10.101.1.2:53,[fd00::1]:53"]).is_ok());
        assert!(parse(&["--listen=0.0.0.0:53"]).is_err());
        assert!(parse(&["--listen=[::]:53"]).is_err());
    }
}
