//! What a plan is made from: every member is asked what it runs and which images it has, the store what is committed.

use crate::deploy::coordinator::ask::ask;
use crate::failure::Result;
use crate::network::asked;
use crate::network::context::Network;
use futures_util::future::join_all;
use ployz_core::config::Config;
use ployz_core::deploy::claim::Claims;
use ployz_core::deploy::image::{Agreement, agree};
use ployz_core::deploy::pull::Seen;
use ployz_core::deploy::{Found, Machine, World};
use ployz_core::id::{MachineId, Namespace};
use ployz_core::wire::v1::deploy::{
    DeployAnswer, DeployCommand, DeployCommit, DeployFailure, DeployStatus, InstanceSeen, List, Probe, Probed,
};
use ployz_core::wire::v1::manifest::{ImageRef, Manifest, Route};
use ployz_core::wire::v1::record::MachineMembership;
use ployz_nats::bucket::StoreError;
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;
use std::collections::{BTreeMap, BTreeSet};

/// What is known.
pub(super) struct Survey {
    machines: Vec<Machine>,
    found: BTreeMap<MachineId, Vec<Found>>,
    images: BTreeMap<ImageRef, Agreement>,
    /// What each machine has under each name.
    seen: BTreeMap<ImageRef, Seen>,
    platforms: BTreeMap<MachineId, String>,
    claims: Claims,
    reserved: BTreeMap<u16, String>,
    /// What is committed.
    pub current: Option<DeployCommit>,
}

impl Survey {
    /// Asks every member.
    pub(super) async fn make(
        mesh: &Network,
        store: &Store,
        records: &Records,
        manifest: &Manifest,
    ) -> Result<Self> {
        let namespace = &manifest.namespace;
        let images: BTreeSet<ImageRef> =
            manifest.services.iter().map(|service| service.image.clone()).collect();
        let statuses = records.statuses().await?;
        let current = match statuses.iter().find(|status| status.namespace == *namespace) {
            Some(status) => records.committed(status).await?,
            None => None,
        };
        let claims = claims(records, &statuses, namespace).await?;
        let members = mesh.peers.borrow().machines.clone();
        let wanted = &images;
        let asked = members.iter().map(|member| async move {
            let answer = look(store, member, namespace, wanted).await;
            (member, answer)
        });
        let mut survey = Self {
            machines: Vec::new(),
            found: BTreeMap::new(),
            images: BTreeMap::new(),
            seen: images.iter().map(|image| (image.clone(), Seen::new())).collect(),
            platforms: BTreeMap::new(),
            claims,
            reserved: reserved(&mesh.shared.around.config, manifest),
            current,
        };
        for (member, answer) in join_all(asked).await {
            match answer {
                Ok((instances, probed)) => {
                    for (image, seen) in probed.images {
                        if let Some(known) = survey.seen.get_mut(&image) {
                            known.insert(member.id.clone(), seen);
                        }
                    }
                    survey.platforms.extend(probed.platform.map(|platform| (member.id.clone(), platform)));
                    survey.take_in(member, namespace, instances);
                }
                Err(failure) => {
                    tracing::info!(
                        machine = %member.id,
                        %namespace,
                        error = %failure,
                        "a machine does not take part"
                    );
                    survey.machines.push(Machine { reachable: false, ..Machine::of(member) });
                }
            }
        }
        let agreed = |seen: &Seen| agree(seen.iter().map(|(machine, seen)| (machine, &seen.content)));
        survey.images = survey.seen.iter().map(|(image, seen)| (image.clone(), agreed(seen))).collect();
        Ok(survey)
    }

    /// What the machines that answered have under a name.
    pub(super) fn seen(&self, image: &ImageRef) -> &Seen {
        static NONE: Seen = Seen::new();
        self.seen.get(image).unwrap_or(&NONE)
    }

    /// What a machine's engine runs, as `linux/amd64`.
    pub(super) fn platform(&self, machine: &MachineId) -> Option<&str> {
        self.platforms.get(machine).map(String::as_str)
    }

    /// Takes an image for what was found out of it.
    pub(super) fn judge(&mut self, image: &ImageRef, agreement: Agreement) {
        self.images.insert(image.clone(), agreement);
    }

    fn take_in(&mut self, member: &MachineMembership, namespace: &Namespace, instances: Vec<InstanceSeen>) {
        let (ours, others): (Vec<_>, Vec<_>) =
            instances.into_iter().partition(|instance| instance.namespace == *namespace);
        let ports = others.iter().flat_map(|other| &other.publish).map(|port| (port.protocol, port.host));
        self.machines.push(Machine {
            instances: ours.len() + others.len(),
            published: ports.collect(),
            ..Machine::of(member)
        });
        self.found.insert(member.id.clone(), ours.into_iter().map(found).collect());
    }

    /// As planning sees it.
    pub(super) fn world(&self) -> World<'_> {
        World {
            machines: &self.machines,
            current: self.current.as_ref(),
            claims: &self.claims,
            reserved: &self.reserved,
            images: &self.images,
            found: &self.found,
        }
    }
}

/// Of the ports that TCP routes of the manifest ask for, those that this machine's gateway cannot have. Others may be
/// configured otherwise; what is not to be had there is their gateways' own matter.
fn reserved(config: &Config, manifest: &Manifest) -> BTreeMap<u16, String> {
    let routes = manifest.services.iter().flat_map(|service| &service.routes);
    let ports = routes.filter_map(|route| match route {
        Route::Tcp(route) => Some(route.listen),
        Route::Http(_) => None,
    });
    ports.filter_map(|port| Some((port, asked::reserved(config, port)?.to_owned()))).collect()
}

/// What nobody says of a container is not held against it.
fn found(seen: InstanceSeen) -> Found {
    Found { service: seen.service, instance: seen.instance, runs: seen.runs.unwrap_or(true) }
}

/// What one machine runs, and which images it holds.
async fn look(
    store: &Store,
    member: &MachineMembership,
    namespace: &Namespace,
    images: &BTreeSet<ImageRef>,
) -> std::result::Result<(Vec<InstanceSeen>, Probed), DeployFailure> {
    let probe = DeployCommand::Probe(Probe {
        network: store.network().clone(),
        namespace: namespace.clone(),
        images: images.clone(),
        publish: BTreeSet::new(),
        releases: BTreeSet::new(),
        starts: 0,
    });
    let (listed, probed) = tokio::join!(list(store, &member.id, None), ask(store, &member.id, &probe));
    match probed? {
        DeployAnswer::Probed(probed) => Ok((listed?, probed)),
        _ => Err(odd(&member.id)),
    }
}

/// What a machine runs.
pub(super) async fn list(
    store: &Store,
    machine: &MachineId,
    namespace: Option<&Namespace>,
) -> std::result::Result<Vec<InstanceSeen>, DeployFailure> {
    let list = List { network: store.network().clone(), namespace: namespace.cloned() };
    match ask(store, machine, &DeployCommand::List(list)).await? {
        DeployAnswer::Listed { instances } => Ok(instances),
        _ => Err(odd(machine)),
    }
}

/// An answer to another question than was asked.
pub(super) fn odd(machine: &MachineId) -> DeployFailure {
    use ployz_core::wire::v1::api::ErrorCode;
    DeployFailure::new(ErrorCode::InvalidRequest, "unexpected response type").on(machine)
}

/// What services of all other namespaces have.
pub(super) async fn claims(
    records: &Records,
    statuses: &[DeployStatus],
    namespace: &Namespace,
) -> std::result::Result<Claims, StoreError> {
    let mut claims = Claims::default();
    for status in statuses.iter().filter(|status| status.namespace != *namespace) {
        if let Some(commit) = records.committed(status).await? {
            claims.add(&commit);
        }
    }
    Ok(claims)
}
