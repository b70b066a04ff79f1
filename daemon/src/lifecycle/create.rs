//! A new network's record and keys, and what this machine is and has: its name, its candidates, its place.

use crate::failure::{Failure, Result};
use crate::keys;
use crate::lifecycle::Daemon;
use crate::membership::record::{hostname, membership};
use crate::network::endpoints::named_first;
use crate::state::{Founder, NetworkFile, PeersFile, Stored};
use ployz_core::address::{OverlayPrefix, candidates};
use ployz_core::id::{NetworkId, NetworkName};
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::record::{RegionRole, StorageParticipation, Topology};
use ployz_netns::underlay;
use std::net::IpAddr;

impl Daemon {
    /// Makes the record and keys of a new network. One that is to run at once takes the place of one that was to: its `init` was
    /// cut short before anything of it ran.
    pub(super) async fn found(&self, name: &NetworkName, lifecycle: Stored) -> Result<NetworkFile> {
        let old = self.shared.disk.network(name)?;
        if let Some(old) = &old
            && (lifecycle != Stored::Running || !self.never_ran(old)?)
        {
            return Err(Failure::new(ErrorCode::NetworkAlreadyExists, format!("network {name} exists")));
        }
        has_ipv6()?;
        self.no_old_store(name)?;
        let plan = self.shared.around.config.plan;
        self.no_conflict(plan.cluster_cidr).await?;
        let id = NetworkId::from_bytes(ployz_host::random::bytes());
        let keys = keys::fresh(None);
        let subnet =
            plan.slice(0).ok_or_else(|| Failure::new(ErrorCode::SubnetExhausted, "no subnet fits"))?;
        let mut machine = membership(hostname(), &keys, OverlayPrefix::of(&id), subnet)?;
        machine.storage = StorageParticipation::Authority;
        machine.region_role = RegionRole::HomeData;
        machine.topology = self.topology();
        machine.endpoints = self.endpoints(&id, plan.cluster_cidr).await?;
        let network = NetworkFile {
            version: 1,
            id,
            name: name.clone(),
            plan,
            lifecycle,
            founder: Founder { id: machine.id.clone(), overlay_ip: machine.overlay_ip },
            machine: machine.clone(),
            backend: None,
        };
        let peers = PeersFile { machines: vec![machine], ..Default::default() };
        let disk = &self.shared.disk;
        if old.is_some() {
            disk.remove_network(name)?;
        }
        if let Err(error) = disk.put_keys(name, &keys).and_then(|()| disk.put_new(&network, &peers)) {
            let _ = disk.remove_network(name); // what is left is swept away by the next start
            return Err(error.into());
        }
        Ok(network)
    }

    /// Whether a network is what an `init` left that was cut short before anything of it ran, and before anything was promised in its
    /// name: one whose start was cut short may have handed out tokens.
    fn never_ran(&self, network: &NetworkFile) -> Result<bool> {
        let disk = &self.shared.disk;
        let promised = !disk.peers(&network.name)?.drafts.is_empty();
        let active = disk.active()?.as_ref() == Some(&network.name);
        Ok(network.lifecycle == Stored::Running && network.backend.is_none() && !active && !promised)
    }

    /// A new network begins with an empty store: one that is there without a record is somebody's, and holds another
    /// network's members and keys.
    pub(super) fn no_old_store(&self, name: &NetworkName) -> Result<()> {
        let Some(store) = self.shared.disk.orphaned_store(name) else { return Ok(()) };
        let message = format!("{} is the store of a network {name} whose record is missing", store.display());
        let hint = "move its directory away, or remove it if nothing of it is needed, or choose another name";
        Err(Failure { hint: Some(hint.into()), ..Failure::new(ErrorCode::NetworkAlreadyExists, message) })
    }

    /// The cluster's range must not hide an address that the machine already has.
    pub(super) async fn no_conflict(&self, cidr: ipnet::Ipv4Net) -> Result<()> {
        let seen = underlay::observe().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's addresses", &error)
        })?;
        let ours = ["ployz0", "ployz-veth"];
        let clash = seen.iter().find(|seen| {
            !ours.contains(&seen.interface.as_str())
                && matches!(seen.address, IpAddr::V4(ip) if cidr.contains(&ip))
        });
        let conflict = |what: String| Err(Failure::new(ErrorCode::AddressConflict, what));
        if let Some(seen) = clash {
            return conflict(format!("cluster_cidr {cidr} contains {} of {}", seen.address, seen.interface));
        }
        let routes = underlay::routes().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's routes", &error)
        })?;
        // A wider network that holds the range (a data centre's 10.0.0.0/8) goes on as before; one inside it would not.
        match routes.iter().find(|to| matches!(to, ipnet::IpNet::V4(to) if cidr.contains(to))) {
            Some(to) => {
                conflict(format!("cluster_cidr {cidr} contains {to}, to which this machine has a route"))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn endpoints(
        &self,
        network: &NetworkId,
        cidr: ipnet::Ipv4Net,
    ) -> Result<Vec<std::net::SocketAddr>> {
        let seen = underlay::observe().await.map_err(|error| {
            Failure::because(ErrorCode::IoError, "cannot read this machine's addresses", &error)
        })?;
        let prefix = OverlayPrefix::of(network).net();
        let overlay = move |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => cidr.contains(ip),
            IpAddr::V6(ip) => prefix.contains(ip),
        };
        let config = &self.shared.around.config;
        Ok(named_first(config, &candidates(&seen, &[], config.wireguard_listen_port, overlay)))
    }

    pub(super) fn topology(&self) -> Topology {
        let config = &self.shared.around.config;
        Topology { region: config.region.clone(), availability_zone: config.az.clone() }
    }
}

/// A kernel without IPv6 cannot carry a network, and would say so only deep inside.
pub(super) fn has_ipv6() -> Result<()> {
    if ployz_netns::sysctl::kernel_has_ipv6() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Ipv6Unavailable, "this kernel runs without IPv6"))
}
