//! Which ports of the gateway the routes of the cluster ask for, as far as that is known.

use crate::state::{Disk, DiskError, NetworkFile, make_dir};
use ployz_core::config::Config;
use ployz_core::deploy::reserved_port;
use ployz_core::routing::{Freshness, State, Value};
use ployz_core::spec::sidecar::tcp_purpose;
use ployz_core::spec::{RouteSockets, UnitName};
use ployz_nats::events::{Snapshot, View};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What is asked for. At first nothing and not live at first: nothing is opened, and nothing is closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The ports.
    pub ports: BTreeSet<u16>,
    /// Whether that is all, now. As last known, or never known, it takes nothing away.
    pub live: bool,
}

/// The ports of TCP routes.
pub struct Ports(pub(super) BTreeSet<u16>);

impl View for Ports {
    fn of(state: &State) -> Self {
        Self(state.services.values().flat_map(|service| &service.tcp).map(|route| route.listen).collect())
    }

    fn reads(value: &Value) -> bool {
        matches!(value, Value::Service(service) if !service.tcp.is_empty())
    }
}

impl Asked {
    /// What a snapshot says.
    pub fn of(snapshot: &Snapshot<Ports>) -> Self {
        match snapshot.freshness {
            Freshness::Empty => Self::default(),
            freshness => Self { ports: snapshot.view.0.clone(), live: freshness == Freshness::Live },
        }
    }

    /// What was last known, as it is on disk.
    pub fn last_known(disk: &Disk, network: &NetworkFile) -> Self {
        let state = ployz_nats::events::last_good(&snapshot(disk, network), &network.id);
        Self { ports: state.map(|state| Ports::of(&state).0).unwrap_or_default(), live: false }
    }

    /// The sockets for it, and where both families are served, IPv6's of HTTP. `has_ipv6`: whether this kernel knows it.
    pub fn sockets(&self, config: &Config, has_ipv6: bool) -> RouteSockets {
        let both = has_ipv6 && config.gateway_takes_both();
        let mut sockets = RouteSockets { complete: self.live, ..RouteSockets::default() };
        if both {
            sockets.wanted.push(RouteSockets::http6(&UnitName::GATEWAY, config.gateway_listen_addr.port()));
        }
        for port in &self.ports {
            let address = SocketAddr::new(config.gateway_listen_addr.ip(), *port);
            match reserved(config, *port) {
                Some(whose) => {
                    sockets.refused.insert(tcp_purpose(*port), format!("the port is {whose}"));
                }
                None => {
                    sockets.wanted.push(RouteSockets::tcp(&UnitName::GATEWAY, address));
                    sockets.wanted.extend(both.then(|| RouteSockets::tcp6(&UnitName::GATEWAY, *port)));
                }
            }
        }
        sockets
    }
}

/// Whose a port is that no TCP route can have on a machine with this configuration.
pub fn reserved(config: &Config, port: u16) -> Option<&'static str> {
    let own = [
        (Some(config.gateway_listen_addr), "used by the gateway (gateway_listen_addr)"),
        (config.gateway_https_listen_addr, "used by the gateway (gateway_https_listen_addr)"),
        (config.gateway_metrics_listen_addr, "used by metrics (gateway_metrics_listen_addr)"),
        (config.dns_metrics_listen_addr, "used by metrics (dns_metrics_listen_addr)"),
        (config.daemon_metrics_listen_addr, "used by metrics (daemon_metrics_listen_addr)"),
    ];
    let own = own.into_iter().find(|(at, _)| at.is_some_and(|at| at.port() == port)).map(|(_, whose)| whose);
    let numbers = [
        (config.wireguard_listen_port, "used by the tunnel (wireguard_listen_port)"),
        (config.zfs_transfer_port, "used by transfers between machines (zfs_transfer_port)"),
    ];
    own.or_else(|| numbers.into_iter().find(|(number, _)| *number == port).map(|(_, whose)| whose))
        .or_else(|| reserved_port(port))
}

/// Makes the directory in which they are kept.
pub fn prepare(disk: &Disk, network: &NetworkFile) -> Result<(), DiskError> {
    snapshot(disk, network).parent().map_or(Ok(()), |dir| make_dir(dir, 0o700))
}

/// Where they are kept on disk.
pub(super) fn snapshot(disk: &Disk, network: &NetworkFile) -> PathBuf {
    disk.network_dir(&network.name).join("routes").join("routes.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::config::Layer;
    use std::sync::Arc;

    fn config(text: &str) -> Config {
        Config::resolve(&[Layer::from_toml("config.toml", text).unwrap()]).unwrap()
    }

    fn asked(ports: &[u16], live: bool) -> Asked {
        Asked { ports: ports.iter().copied().collect(), live }
    }

    #[test]
    fn sockets_are_on_the_gateways_own_address_and_not_in_its_own_way() {
        let config = config(
            "gateway_listen_addr = \"127.0.0.1:8080\"\ngateway_metrics_listen_addr = \"127.0.0.1:9101\"",
        );
        let sockets = asked(&[80, 5432, 8080, 9101], true).sockets(&config, true);
        let wanted: Vec<_> =
            sockets.wanted.iter().map(|socket| (&*socket.name, socket.listen[0].to_string())).collect();
        assert_eq!(wanted, [("ployz-gateway-tcp-5432", "stream:127.0.0.1:5432".to_owned())]);
        assert_eq!(sockets.refused.keys().collect::<Vec<_>>(), ["tcp-80", "tcp-8080", "tcp-9101"]);
        assert!(sockets.complete);
    }

    #[test]
    fn ipv6_has_sockets_of_its_own_where_no_address_is_given_and_the_kernel_knows_it() {
        let names = |text: &str, has_ipv6| -> Vec<String> {
            let sockets = asked(&[5432], false).sockets(&config(text), has_ipv6);
            sockets.wanted.into_iter().map(|socket| socket.purpose).collect()
        };
        assert_eq!(names("", true), ["http6", "tcp-5432", "tcp6-5432"]);
        assert_eq!(names("", false), ["tcp-5432"]);
        for given in ["0.0.0.0:80", "[::]:80"] {
            assert_eq!(names(&format!("gateway_listen_addr = \"{given}\""), true), ["tcp-5432"]);
        }
    }

    #[test]
    fn only_what_is_known_to_be_all_takes_anything_away() {
        let view = Arc::new(Ports(BTreeSet::from([5432])));
        let told = |freshness| Asked::of(&Snapshot { view: view.clone(), freshness, sequence: 1 });
        assert_eq!(told(Freshness::Empty), Asked::default());
        assert_eq!(told(Freshness::LastGood(7)), asked(&[5432], false));
        assert_eq!(told(Freshness::Live), asked(&[5432], true));
        let config = config("");
        let complete = |asked: Asked| asked.sockets(&config, true).complete;
        assert!(!complete(Asked::default()) && !complete(asked(&[1], false)));
    }
}
