//! The Docker network on the workload bridge. The bridge is ours and exists before it; Docker only hands out its ports.
//!
//! Docker 20.10 to 28 leave a bridge that they did not make as it is, with its address, MTU and alias, on `network
//! create`, `network rm` and their own restart (docs/decisions/0005-containers-on-the-bridge.md).

use crate::docker::{Docker, limited};
use crate::error::{DockerError, Result};
use crate::slot::Slot;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use ployz_core::address::NodeSubnet;
use ployz_core::adopt::{Cause, Drift, Seen, Verdict};
use ployz_core::id::NetworkId;
use ployz_core::spec::container::{BRIDGE as NAME, label};
use ployz_core::spec::link::BRIDGE;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The wanted network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Whose it is.
    pub network: NetworkId,
    /// The node's subnet.
    pub subnet: NodeSubnet,
    /// The tunnel's MTU.
    pub mtu: u32,
}

/// The network as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLive {
    /// Docker's id.
    pub id: String,
    /// Its fields, by the names in [`NetworkSpec::fields`].
    pub fields: BTreeMap<&'static str, String>,
}

/// How [`ensure`] ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ensured {
    /// Nobody looked yet.
    #[default]
    Unasked,
    /// It is there and right; Docker's id.
    Ready(String),
    /// It was left alone.
    Held(String),
}

impl NetworkSpec {
    /// Everything that makes it the right one.
    pub fn fields(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("network", self.network.to_string()),
            ("driver", DRIVER.to_owned()),
            ("bridge", BRIDGE.to_owned()),
            ("subnet", self.subnet.net().to_string()),
            ("gateway", self.subnet.bridge().to_string()),
            ("reserved", self.reserved().map(|(_, address)| address).join(" ")),
            ("mtu", self.mtu.to_string()),
            ("masquerade", "false".to_owned()),
        ])
    }

    /// What Docker never gives to a container, in the order of the names it has there.
    fn reserved(&self) -> [(&'static str, String); 2] {
        [(EGRESS, self.subnet.egress().to_string()), (SERVICE, self.subnet.service().to_string())]
    }

    fn request(&self) -> NetworkCreateRequest {
        let pool = IpamConfig {
            subnet: Some(self.subnet.net().to_string()),
            gateway: Some(self.subnet.bridge().to_string()),
            ip_range: None,
            auxiliary_addresses: Some(
                self.reserved().map(|(name, address)| (name.to_owned(), address)).into(),
            ),
        };
        let options = [
            (OPTION_BRIDGE, BRIDGE.into()),
            (OPTION_MASQUERADE, "false".into()),
            (OPTION_MTU, self.mtu.to_string()),
        ];
        NetworkCreateRequest {
            name: NAME.to_owned(),
            driver: Some(DRIVER.to_owned()),
            ipam: Some(Ipam { config: Some(vec![pool]), ..Default::default() }),
            options: Some(options.map(|(name, value): (&str, String)| (name.to_owned(), value)).into()),
            labels: Some(HashMap::from([(label::NETWORK.to_owned(), self.network.to_string())])),
            ..Default::default()
        }
    }
}

/// Adopts the network or makes it; one that is not ours, or not right while containers are on it, is held. One of ours
/// that is not right and has no containers is made anew.
///
/// One at a time: Docker would make two networks of one name.
pub async fn ensure(docker: &Docker, spec: &NetworkSpec) -> Result<Ensured> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let seen = inspect(docker).await?;
    match decide(spec, &seen) {
        Verdict::Hold(why) => Ok(Ensured::Held(why)),
        Verdict::Recreate(cause) => {
            let Seen::Present(old) = &seen else { return Ok(Ensured::Held("it changed meanwhile".into())) };
            if !delete_unused(docker, &old.id).await? {
                let why = Verdict::Recreate(cause).why();
                return Ok(Ensured::Held(format!("differs, and containers are attached to it: {why}")));
            }
            create(docker, spec).await.map(Ensured::Ready)
        }
        Verdict::Adopt | Verdict::Converge(_) => {
            Ok(Ensured::Ready(seen.present().map(|live| live.id.clone()).unwrap_or_default()))
        }
        Verdict::Create => create(docker, spec).await.map(Ensured::Ready),
    }
}

/// Removes the network if it is ours and no container is attached; whether it is gone.
pub async fn remove(docker: &Docker) -> Result<bool> {
    match inspect(docker).await? {
        Seen::Absent => Ok(true),
        Seen::Foreign(_) | Seen::Unknown(_) => Ok(false),
        Seen::Present(live) if live.fields.get("network") != Some(&docker.network.to_string()) => Ok(false),
        Seen::Present(live) => delete_unused(docker, &live.id).await,
    }
}

/// Whether it could be removed. Docker itself only minds running containers; a stopped one whose network was removed
/// never starts again.
async fn delete_unused(docker: &Docker, id: &str) -> Result<bool> {
    let filters = HashMap::from([("network", vec![id])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let users =
        limited("list users of network", NAME, NETWORK_TIMEOUT, docker.api.list_containers(options)).await?;
    if !users.is_empty() {
        return Ok(false);
    }
    match limited("remove network", NAME, NETWORK_TIMEOUT, docker.api.remove_network(Slot::object(id)?)).await
    {
        Ok(()) | Err(DockerError::Missing { .. }) => Ok(true),
        // Somebody was attached meanwhile.
        Err(error) if matches!(error.status(), Some(403 | 409)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What carries our name.
pub async fn inspect(docker: &Docker) -> Result<Seen<NetworkLive>> {
    let filters = HashMap::from([("name", vec![NAME])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let found = limited("list", "networks", NETWORK_TIMEOUT, docker.api.list_networks(options)).await?;
    // The filter finds every name that contains ours, and two networks may have one name.
    let named: Vec<Network> = found.into_iter().filter(|one| one.name.as_deref() == Some(NAME)).collect();
    let [one] = named.as_slice() else {
        let several = || Seen::Foreign(format!("{} Docker networks are called {NAME}", named.len()));
        return Ok(if named.is_empty() { Seen::Absent } else { several() });
    };
    Ok(match owner(one) {
        Some(_) => Seen::Present(read(one)),
        None => Seen::Foreign(format!("Docker network {NAME} carries no {}", label::NETWORK)),
    })
}

/// What is to be done about it.
pub fn decide(spec: &NetworkSpec, seen: &Seen<NetworkLive>) -> Verdict {
    ployz_core::adopt::decide(seen, |live| {
        let wanted = spec.fields();
        let differs = wanted.iter().filter_map(|(field, want)| {
            let have = live.fields.get(field).map_or("-", String::as_str);
            (have != want).then(|| Drift::new(field, have, want))
        });
        let drift: Vec<Drift> = differs.collect();
        if drift.is_empty() { Verdict::Adopt } else { Verdict::Recreate(Cause::Drift(drift)) }
    })
}

async fn create(docker: &Docker, spec: &NetworkSpec) -> Result<String> {
    limited("create network", NAME, NETWORK_TIMEOUT, docker.api.create_network(spec.request()))
        .await
        .map(|made| made.id)
}

/// The network of ours that it was made for; a machine has one at a time, so another's is a leftover.
fn owner(found: &Network) -> Option<&String> {
    found.labels.as_ref()?.get(label::NETWORK)
}

fn read(found: &Network) -> NetworkLive {
    let options = found.options.clone().unwrap_or_default();
    let pool =
        found.ipam.as_ref().and_then(|ipam| ipam.config.as_ref()?.first().cloned()).unwrap_or_default();
    let option = |name: &str| options.get(name).cloned();
    let reserved = pool.auxiliary_addresses.map(|names| {
        let known = [EGRESS, SERVICE].map(|name| names.get(name).map_or("-", String::as_str));
        known.join(" ")
    });
    let fields = [
        ("network", owner(found).cloned()),
        ("driver", found.driver.clone()),
        ("bridge", option(OPTION_BRIDGE)),
        ("subnet", pool.subnet),
        ("gateway", pool.gateway),
        ("reserved", reserved),
        ("mtu", option(OPTION_MTU)),
        ("masquerade", option(OPTION_MASQUERADE)),
    ];
    NetworkLive {
        id: found.id.clone().unwrap_or_default(),
        fields: fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    }
}

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const DRIVER: &str = "bridge";
const EGRESS: &str = "ployz-egress";
const SERVICE: &str = "ployz-service";
const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
const NETWORK_TIMEOUT: Duration = Duration::from_secs(15);
