//! The plan of a deploy: from a manifest and what is known of the cluster to a preview, and to the records that carry it
//! out. Nothing here changes anything; equal inputs give equal plans.

use crate::address::NodeSubnet;
use crate::deploy::claim::Claims;
use crate::deploy::image::Agreement;
use crate::deploy::instance::Draw;
use crate::deploy::operations;
use crate::deploy::planner::Planner;
pub use crate::deploy::refusal::{MAX_SLOTS, PlanError};
use crate::id::{DeployId, InstanceId, MachineId, ServiceName};
use crate::wire::v1::deploy::{
    CommittedService, DeployCommit, DeployPhase, DeployStatus, Placed, Preview, Retired, ServiceChange,
    SlotChange, SlotWork, VERSION,
};
use crate::wire::v1::manifest::{ImageRef, Manifest, Order, Protocol, Service};
use crate::wire::v1::record::{Lifecycle, MachineMembership};
use std::collections::{BTreeMap, BTreeSet};

/// A machine as planning sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// What it may be used for.
    pub lifecycle: Lifecycle,
    /// The operator's labels, and `region` and `az`.
    pub labels: BTreeMap<String, String>,
    /// Its node subnet; containers get addresses of it.
    pub subnet: NodeSubnet,
    /// Whether it answers.
    pub reachable: bool,
    /// Containers of ours on it, of all namespaces, stopped ones too: each has an address.
    pub instances: usize,
    /// Ports of it that containers of other namespaces, or anybody else, hold.
    pub published: BTreeSet<(Protocol, u16)>,
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// All members.
    pub machines: &'a [Machine],
    /// What is committed for the namespace.
    pub current: Option<&'a DeployCommit>,
    /// What services of other namespaces have.
    pub claims: &'a Claims,
    /// Ports that no TCP route can have, with whose they are.
    pub reserved: &'a BTreeMap<u16, String>,
    /// What machines have under the names of images; those that were not asked about are missing.
    pub images: &'a BTreeMap<ImageRef, Agreement>,
    /// Containers of the namespace on each machine that answered; a machine that did not is missing.
    pub found: &'a BTreeMap<MachineId, Vec<Found>>,
}

/// A container of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its service, by its label.
    pub service: ServiceName,
    /// Which it is.
    pub instance: InstanceId,
    /// Whether it runs; one of which that is not known counts as if it did.
    pub runs: bool,
}

/// What a manifest speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole namespace: services it does not name are removed.
    Namespace,
    /// One service: the others stay as they are. Not named in the manifest = removed.
    Service(ServiceName),
}

/// What a deploy does, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployPlan {
    /// The deploy.
    pub deploy: DeployId,
    /// What an operator sees.
    pub preview: Preview,
    /// The namespace after it.
    pub services: BTreeMap<ServiceName, CommittedService>,
    /// Services that are no more.
    pub removed: BTreeSet<ServiceName>,
    /// Instances that are no more, on machines that still are.
    pub retired: Vec<Retired>,
}

/// The plan of a deploy.
pub fn plan(
    manifest: &Manifest,
    scope: &Scope,
    world: &World<'_>,
    deploy: &DeployId,
    draw: Draw<'_>,
) -> Result<DeployPlan, PlanError> {
    if manifest.uses_volumes() {
        return Err(PlanError::Volumes);
    }
    let mut planner = Planner::new(&manifest.namespace, world, deploy, draw);
    for (name, wanted, current) in pairs(manifest, scope, world.current) {
        match wanted {
            Wanted::Service(service) => planner.service(service, current)?,
            Wanted::Kept => planner.keep(name, current),
            Wanted::Gone => planner.remove(name, current),
        }
    }
    let mut plan = planner.finish(manifest, scope)?;
    plan.preview.operations = operations::of_plan(&plan);
    Ok(plan)
}

impl DeployPlan {
    /// Whether others have left alone what this deploy changes: they deploy to their namespaces at the same time.
    pub fn beside(&self, claims: &Claims) -> Result<(), PlanError> {
        let changed = self.services.values().filter(|committed| committed.deploy == self.deploy);
        changed.into_iter().try_for_each(|changed| claims.leave(&self.preview.namespace, &changed.service))
    }
}

impl Machine {
    /// A member that answers and on which nothing runs; the caller fills in what it answered.
    pub fn of(record: &MachineMembership) -> Self {
        let mut labels = record.labels.clone();
        let topology = &record.topology;
        for (name, value) in [("region", &topology.region), ("az", &topology.availability_zone)] {
            labels.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
        }
        Self {
            id: record.id.clone(),
            lifecycle: record.lifecycle,
            labels,
            subnet: record.subnet,
            reachable: true,
            instances: 0,
            published: BTreeSet::new(),
        }
    }
}

impl Scope {
    /// Whether it speaks for a service.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Namespace => true,
            Self::Service(only) => only == service,
        }
    }
}

impl DeployPlan {
    /// The first status of this deploy.
    pub fn status(&self, coordinator: &MachineId, now: u64) -> DeployStatus {
        DeployStatus {
            version: VERSION,
            namespace: self.preview.namespace.clone(),
            deploy: self.deploy.clone(),
            coordinator: coordinator.clone(),
            phase: DeployPhase::Locked,
            base: self.preview.baseline.clone(),
            manifest_hash: self.preview.manifest_hash.clone(),
            work: self.work(),
            failure: None,
            debts: Vec::new(),
            started_at: now,
            updated_at: now,
        }
    }

    /// What is committed when all candidates are ready.
    pub fn commit(&self, coordinator: &MachineId, now: u64) -> DeployCommit {
        DeployCommit {
            version: VERSION,
            namespace: self.preview.namespace.clone(),
            deploy: self.deploy.clone(),
            previous: self.preview.baseline.clone(),
            coordinator: coordinator.clone(),
            committed_at: now,
            manifest_hash: self.preview.manifest_hash.clone(),
            services: self.services.clone(),
            removed: self.removed.clone(),
            retired: self.retired.clone(),
        }
    }

    /// What it does in each slot.
    pub(super) fn work(&self) -> Vec<SlotWork> {
        let retired: BTreeSet<&Placed> = self.retired.iter().map(|retired| &retired.placed).collect();
        let order = |service: &ServiceName| {
            self.services.get(service).map_or(Order::StartFirst, |committed| committed.service.rollout.order)
        };
        let work = |(service, slot): (&ServiceChange, &SlotChange)| SlotWork {
            service: service.service.clone(),
            slot: slot.slot,
            start: slot.next.clone(),
            stop: slot.current.clone().filter(|placed| retired.contains(placed)),
            order: order(&service.service),
        };
        self.preview.changes().map(work).collect()
    }
}

/// What is wanted of one service.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// This.
    Service(&'a Service),
    /// What it is: the manifest does not speak for it.
    Kept,
    /// Nothing any more.
    Gone,
}

type Pair<'a> = (&'a ServiceName, Wanted<'a>, Option<&'a CommittedService>);

/// Every service of the namespace, wanted and current, by name.
fn pairs<'a>(manifest: &'a Manifest, scope: &Scope, current: Option<&'a DeployCommit>) -> Vec<Pair<'a>> {
    let mut pairs: BTreeMap<&ServiceName, (Wanted<'_>, Option<&CommittedService>)> = BTreeMap::new();
    for (name, committed) in current.iter().flat_map(|current| &current.services) {
        let wanted = if scope.covers(name) { Wanted::Gone } else { Wanted::Kept };
        pairs.insert(name, (wanted, Some(committed)));
    }
    for service in manifest.services.iter().filter(|service| scope.covers(&service.name)) {
        pairs.entry(&service.name).or_insert((Wanted::Gone, None)).0 = Wanted::Service(service);
    }
    pairs.into_iter().map(|(name, (wanted, current))| (name, wanted, current)).collect()
}
