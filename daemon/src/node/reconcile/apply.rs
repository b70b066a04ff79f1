//! Carrying out a plan: each operation is one call, in order, and decides nothing. A component whose parent failed is not
//! tried, and none of its operations after one that failed.

use super::running::Progress;
use crate::node::nats::config;
use crate::node::reconcile::inspect;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::error::UnitError;
use ployz_core::adopt::device::DeviceChange;
use ployz_core::adopt::sidecar::Replace;
use ployz_core::adopt::{Component, Op, Plan, Seen, Step};
use ployz_core::spec::{NodeSpec, Side, SidecarSpec, UnitName, UnitSpec};
use ployz_netns::edit::Edit;
use ployz_netns::{firewall, namespace, wireguard};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Applies every step that has operations; returns what failed.
pub(super) async fn plan(
    supervisor: &Supervisor,
    spec: &NodeSpec,
    plan: &Plan,
    progress: &Progress,
) -> BTreeMap<Component, String> {
    let mut failures: BTreeMap<Component, String> = BTreeMap::new();
    let file = namespace::path(&spec.netns.name);
    let apply = Apply { supervisor, spec, edit: Edit { netns: &file }, netns: &file };
    for planned in plan.steps.iter().filter(|step| !step.ops.is_empty()) {
        let failed_parent = planned.component.parents().iter().find(|parent| failures.contains_key(parent));
        let result = match failed_parent {
            Some(parent) => Err(format!("not tried: {parent} failed")),
            None => match tokio::time::timeout(STEP_TIMEOUT, apply.step(planned, progress)).await {
                Ok(result) => result,
                Err(_) => Err(format!("timed out after {}s", STEP_TIMEOUT.as_secs())),
            },
        };
        if let Err(error) = result {
            failures.insert(planned.component, error);
        }
    }
    failures
}

/// What operations are carried out with.
struct Apply<'a> {
    supervisor: &'a Supervisor,
    spec: &'a NodeSpec,
    edit: Edit<'a>,
    netns: &'a Path,
}

impl Apply<'_> {
    async fn step(&self, step: &Step, progress: &Progress) -> Result<(), String> {
        for planned in &step.ops {
            progress.begin(planned);
            self.one(&planned.op).await.map_err(|error| ployz_core::text::chain(&error))?;
        }
        Ok(())
    }

    async fn one(&self, op: &Op) -> Result<(), ApplyError> {
        #[cfg(test)]
        if let Supervisor::Fake(fake) = self.supervisor {
            return Ok(fake.apply(op, self.spec)?);
        }
        let (spec, edit, netns) = (self.spec, self.edit, self.netns);
        match op {
            Op::RemoveNetns(name) => namespace::remove(name)?,
            Op::CreateNetns(_) => namespace::create(&spec.netns).await?,
            Op::StartUnit(unit) => self.supervisor.start(self.unit(unit)?).await?,
            Op::StopUnit(unit) => self.supervisor.stop(unit).await?,
            Op::ReloadUnit(unit) => self.supervisor.reload(self.unit(unit)?).await?,
            Op::StopSidecar(unit) => self.supervisor.stop_sidecar(unit).await?,
            Op::PutSidecar { unit, what, .. } => self.put_sidecar(unit, *what).await?,
            Op::WriteStoreConfig(_) => config::install(&spec.nats)?,
            Op::AwaitStore(revision) => await_store(self.supervisor, revision, netns).await?,
            Op::LoadTable(side) => firewall::load(&spec.firewall, *side, netns).await?,
            Op::CreateWireguard(_) => wireguard::create(&spec.wireguard, netns).await?,
            Op::RemoveWireguard(name) => wireguard::remove(name, netns).await?,
            Op::AwaitWireguard(name) => await_wireguard(name, netns).await?,
            Op::ConfigureWireguard(name, change) => self.configure(name, change).await?,
            Op::BringUpWireguard(name) => {
                while_port_is_held(|| edit.set_up(Side::Netns, name)).await?;
            }
            Op::EnableIpv6(name) => edit.enable_ipv6(name)?,
            Op::DeleteLink(side, name) => edit.delete_link(*side, name).await?,
            Op::CreateVeth(outer, inner) => edit.create_veth(outer, inner).await?,
            Op::CreateBridge(name, mac) => edit.create_bridge(name, *mac).await?,
            Op::SetAlias(side, name, alias) => edit.set_alias(*side, name, alias).await?,
            Op::SetMac(side, name, mac) => edit.set_mac(*side, name, *mac).await?,
            Op::SetMtu(side, name, mtu) => edit.set_mtu(*side, name, *mtu).await?,
            Op::SetUp(side, name) => edit.set_up(*side, name).await?,
            Op::AttachPort(port, bridge) => edit.attach_port(port, bridge).await?,
            Op::AddAddress(side, name, address) => edit.add_address(*side, name, *address).await?,
            Op::DeleteAddress(side, name, address) => edit.delete_address(*side, name, *address).await?,
            Op::AddRoute(side, route) => edit.add_route(*side, route).await?,
            Op::DeleteRoute(side, route) => edit.delete_route(*side, route).await?,
            Op::AddRule(rule) => edit.add_rule(rule).await?,
            Op::DeleteRule(rule) => edit.delete_rule(rule).await?,
            Op::SetSysctl(side, name, value) => edit.set_sysctl(*side, name, value)?,
        }
        Ok(())
    }

    /// Operations name units; the spec has what they run.
    fn unit(&self, name: &UnitName) -> Result<&UnitSpec, ApplyError> {
        let units = self.spec.tunnel.iter().chain([&self.spec.nats.unit]);
        units.into_iter().find(|unit| unit.name == *name).ok_or_else(|| ApplyError::NoSpec(name.clone()))
    }

    /// Which sockets of routes are opened and closed is looked up again for each of the supervisor's attempts: systemd opens
    /// some of them only at the second, and another program may take a port in between.
    async fn put_sidecar(&self, name: &UnitName, what: Replace) -> Result<(), ApplyError> {
        let sidecars: [&SidecarSpec; 2] = [&self.spec.gateway, &self.spec.dns];
        let spec = sidecars.into_iter().find(|spec| spec.unit.name == *name);
        let spec = spec.ok_or_else(|| ApplyError::NoSpec(name.clone()))?;
        Ok(self.supervisor.put_sidecar(spec, what).await?)
    }

    async fn configure(&self, name: &str, change: &DeviceChange) -> ployz_netns::Result<()> {
        let backend = self.spec.wireguard.backend;
        while_port_is_held(|| wireguard::configure(backend, name, self.netns, change)).await
    }
}

/// The kernel lets go of the UDP port of a removed namespace's device a little later: until then it is retried.
async fn while_port_is_held<F>(attempt: impl Fn() -> F) -> ployz_netns::Result<()>
where
    F: Future<Output = ployz_netns::Result<()>>,
{
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PORT_POLL_INTERVAL).await,
            done => return done,
        }
    }
}

/// The process says that it is ready before its device is seen by all.
async fn await_wireguard(name: &str, netns: &Path) -> Result<(), ApplyError> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        match wireguard::inspect(name, netns).await {
            Seen::Present(_) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            other => return Err(ApplyError::NoDevice(other.standing())),
        }
    }
}

async fn await_store(supervisor: &Supervisor, revision: &str, netns: &Path) -> Result<(), ApplyError> {
    let deadline = Instant::now() + STORE_TIMEOUT;
    loop {
        match inspect::store(supervisor, netns).await {
            Seen::Present(live) if live.loaded.as_deref() == Some(revision) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            Seen::Present(live) => {
                let loaded = live.loaded.unwrap_or_else(|| "nothing".into());
                return Err(ApplyError::OtherSettings { loaded, wanted: revision.to_owned() });
            }
            other => return Err(ApplyError::NoStore(other.standing())),
        }
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    Kernel(#[from] ployz_netns::Error),
    #[error(transparent)]
    Disk(#[from] crate::state::DiskError),
    #[error("the node's spec has no unit {0}")]
    NoSpec(UnitName),
    #[error("the device did not appear: {0}")]
    NoDevice(String),
    #[error("it did not come up: {0}")]
    NoStore(String),
    #[error("it answers with settings {loaded}, not {wanted}")]
    OtherSettings { loaded: String, wanted: String },
}

/// Longer than the timeouts of any step's operations together.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
const DEVICE_TIMEOUT: Duration = Duration::from_secs(5);
/// A store with much to read back takes a while; the unit itself is up at once.
const STORE_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(25);
const PORT_POLL_INTERVAL: Duration = Duration::from_millis(100);
