//! How a plan is made: each service against what is committed of it, then what concerns all of them.

use crate::deploy::claim::Claims;
use crate::deploy::image::Agreement;
use crate::deploy::instance::{self, Draw};
use crate::deploy::place::Places;
use crate::deploy::plan::{DeployPlan, Scope, World};
use crate::deploy::refusal::{MAX_SLOTS, PlanError, list};
use crate::deploy::revision::revision;
use crate::deploy::slots::Open;
use crate::id::{DeployId, InstanceId, MachineId, Namespace, ServiceName};
use crate::wire::v1::deploy::{
    Action, CommittedService, ImageContent, Placed, Preview, Retired, ServiceChange, SlotChange, Stray, Wave,
};
use crate::wire::v1::manifest::{Manifest, Order, Route, Service};
use crate::wire::v1::record::Lifecycle;
use std::collections::{BTreeMap, BTreeSet};

/// A plan in the making: what was decided so far, service by service, in the order of their names.
pub(super) struct Planner<'a, 'd> {
    namespace: &'a Namespace,
    world: &'a World<'a>,
    deploy: &'a DeployId,
    draw: Draw<'d>,
    places: Places<'a>,
    taken: BTreeSet<InstanceId>,
    changes: Vec<ServiceChange>,
    services: BTreeMap<ServiceName, CommittedService>,
    warnings: Vec<String>,
}

impl<'a, 'd> Planner<'a, 'd> {
    pub(super) fn new(
        namespace: &'a Namespace,
        world: &'a World<'a>,
        deploy: &'a DeployId,
        draw: Draw<'d>,
    ) -> Self {
        let mut places = Places::new(world.machines);
        let mut taken: BTreeSet<InstanceId> =
            world.found.values().flatten().map(|found| found.instance.clone()).collect();
        for committed in world.current.iter().flat_map(|current| current.services.values()) {
            for placed in committed.slots.values() {
                places.hold(&committed.service, &placed.machine);
                taken.insert(placed.instance.clone());
            }
        }
        let (changes, services, warnings) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { namespace, world, deploy, draw, places, taken, changes, services, warnings }
    }

    /// A service that is wanted no more.
    pub(super) fn remove(&mut self, name: &ServiceName, current: Option<&CommittedService>) {
        self.changes.push(removal(name, current));
    }

    /// A service that the manifest does not cover stays as it was committed, whatever else is known of it now.
    pub(super) fn keep(&mut self, name: &ServiceName, current: Option<&CommittedService>) {
        let Some(current) = current else { return };
        let slots = current.slots.iter();
        self.changes.push(ServiceChange {
            service: name.clone(),
            action: Action::Unchanged,
            current_revision: Some(current.revision.clone()),
            next_revision: Some(current.revision.clone()),
            slots: slots
                .map(|(slot, placed)| change(*slot, Action::Unchanged, Some(placed), Some(placed.clone())))
                .collect(),
        });
        self.services.insert(name.clone(), current.clone());
    }

    /// Brings one service to what is wanted of it.
    pub(super) fn service(
        &mut self,
        wanted: &Service,
        current: Option<&CommittedService>,
    ) -> Result<(), PlanError> {
        self.routes_are_free(wanted)?;
        let content = self.content(wanted, current);
        let revision = revision(wanted, content.as_ref(), current);
        let slots = self.slots(wanted, &revision, current)?;
        if slots.iter().all(|slot| slot.next.is_none()) {
            return Err(self.nowhere(wanted, 0));
        }
        let action = action(wanted, &revision, current, &slots);
        let starts = slots.iter().any(|slot| slot.next.is_some() && slot.action != Action::Unchanged);
        if starts {
            self.image_is_there(wanted)?;
        }
        // A revision is of what the image holds, and that is not known yet.
        let awaited = match self.world.images.get(&wanted.image) {
            Some(Agreement::Awaited) => true,
            Some(Agreement::Absent) => starts,
            _ => false,
        };
        self.warn_of_gap(wanted, &slots);
        let deploy = match (action, current) {
            (Action::Unchanged, Some(current)) => current.deploy.clone(),
            _ => self.deploy.clone(),
        };
        let placed = slots.iter().filter_map(|slot| Some((slot.slot, slot.next.clone()?))).collect();
        let committed = CommittedService {
            service: wanted.clone(),
            revision: revision.clone(),
            content,
            deploy,
            slots: placed,
        };
        self.services.insert(wanted.name.clone(), committed);
        self.changes.push(ServiceChange {
            service: wanted.name.clone(),
            action,
            current_revision: current.map(|current| current.revision.clone()),
            next_revision: (!awaited).then_some(revision),
            slots,
        });
        Ok(())
    }

    fn routes_are_free(&self, service: &Service) -> Result<(), PlanError> {
        for route in &service.routes {
            if let Route::Tcp(tcp) = route
                && let Some(whose) = self.world.reserved.get(&tcp.listen)
            {
                let (service, port, whose) = (service.name.clone(), tcp.listen, whose.clone());
                return Err(PlanError::PortReserved { service, port, whose });
            }
        }
        self.world.claims.leave(self.namespace, service)
    }

    /// What the image holds. Where machines do not agree or were not asked, what was known stays true for the same name.
    fn content(&mut self, service: &Service, current: Option<&CommittedService>) -> Option<ImageContent> {
        match self.world.images.get(&service.image) {
            Some(Agreement::Same(content)) => return Some(content.clone()),
            // Never committed: when it is there, a new plan is made of what it holds.
            Some(Agreement::Awaited) => return Some(ImageContent(AWAITED.to_owned())),
            Some(Agreement::Differs(who)) => {
                let machines: Vec<String> = who.values().map(list).collect();
                self.warnings.push(format!(
                    "{}: the image {} is not the same on every machine: {}",
                    service.name,
                    service.image,
                    machines.join(" | ")
                ));
            }
            Some(Agreement::Nowhere | Agreement::Absent) | None => {}
        }
        current.filter(|current| current.service.image == service.image)?.content.clone()
    }

    fn image_is_there(&self, service: &Service) -> Result<(), PlanError> {
        match self.world.images.get(&service.image) {
            Some(Agreement::Nowhere) => {
                Err(PlanError::ImageMissing { service: service.name.clone(), image: service.image.clone() })
            }
            _ => Ok(()),
        }
    }

    fn slots(
        &mut self,
        service: &Service,
        revision: &str,
        current: Option<&CommittedService>,
    ) -> Result<Vec<SlotChange>, PlanError> {
        let mut open = Open::of(service, &self.places, current);
        let mut slots = Vec::new();
        let mut spread: BTreeMap<MachineId, usize> = BTreeMap::new();
        let old = current.iter().flat_map(|current| &current.slots);
        let (stays, goes): (Vec<_>, Vec<_>) = old.partition(|(_, placed)| {
            let same = current.is_some_and(|current| current.revision == revision);
            same && self.places.may_stay(service, &placed.machine) && !self.is_lost(placed)
        });
        for (slot, placed) in stays {
            if open.keeps(*slot, placed) {
                *spread.entry(placed.machine.clone()).or_default() += 1;
                slots.push(change(*slot, Action::Unchanged, Some(placed), Some(placed.clone())));
            } else {
                slots.push(change(*slot, Action::Remove, Some(placed), None));
            }
        }
        // In place first: what can stay on its machine is not moved to make room for something new.
        let mut moves = Vec::new();
        for (slot, placed) in goes {
            if !open.replaces(*slot, placed) {
                slots.push(change(*slot, Action::Remove, Some(placed), None));
            } else if self.in_place(service, current, &placed.machine) {
                let next = self.start(service, *slot, &placed.machine, &mut spread);
                slots.push(change(*slot, Action::Replace, Some(placed), Some(next)));
            } else {
                moves.push((*slot, Some(placed)));
            }
        }
        moves.extend(open.new_slots().into_iter().map(|slot| (slot, None)));
        for (slot, placed) in moves {
            let machine = self.target(service, slot, placed, &mut open, &spread)?;
            let next = self.start(service, slot, &machine, &mut spread);
            let action = if placed.is_some() { Action::Replace } else { Action::Create };
            slots.push(change(slot, action, placed, Some(next)));
        }
        slots.sort_by_key(|slot| slot.slot);
        Ok(slots)
    }

    /// Whether a machine that reported its containers does not run this: a stopped container serves no request.
    fn is_lost(&self, placed: &Placed) -> bool {
        let found = self.world.found.get(&placed.machine);
        found.is_some_and(|found| !found.iter().any(|one| one.instance == placed.instance && one.runs))
    }

    /// Whether a slot's successor can start where its predecessor runs, whose ports it may take over if that stops first.
    fn in_place(
        &mut self,
        service: &Service,
        current: Option<&CommittedService>,
        machine: &MachineId,
    ) -> bool {
        let stops_first = service.rollout.order == Order::StopFirst;
        let Some(current) = current.filter(|_| stops_first) else {
            return self.places.may_start(service, machine);
        };
        self.places.release(&current.service, machine);
        let may = self.places.may_start(service, machine);
        // Held again either way: other slots of this plan must not take them while the old one is there to come back.
        self.places.hold(&current.service, machine);
        may
    }

    fn target(
        &self,
        service: &Service,
        slot: u32,
        placed: Option<&Placed>,
        open: &mut Open,
        spread: &BTreeMap<MachineId, usize>,
    ) -> Result<MachineId, PlanError> {
        let found = match open.assigned(slot, placed) {
            // Unreachable is judged with all participants, so that every machine that is missing is named at once.
            Some(machine) => {
                let able = self.places.may_start(service, &machine);
                let away = self.places.machine(&machine).is_some_and(|machine| !machine.reachable);
                (able || away).then_some(machine)
            }
            None => self.places.best(service, spread),
        };
        found.ok_or_else(|| self.nowhere(service, slot))
    }

    fn nowhere(&self, service: &Service, slot: u32) -> PlanError {
        let refusals = self.places.refusals(service).into_iter();
        PlanError::NoEligibleMachine {
            service: service.name.clone(),
            slot,
            refusals: refusals.map(|(machine, why)| (machine, why.to_owned())).collect(),
        }
    }

    fn start(
        &mut self,
        service: &Service,
        slot: u32,
        machine: &MachineId,
        spread: &mut BTreeMap<MachineId, usize>,
    ) -> Placed {
        let instance = instance::name(&service.name, slot, |id| self.taken.contains(id), self.draw);
        self.taken.insert(instance.clone());
        self.places.start(service, machine);
        *spread.entry(machine.clone()).or_default() += 1;
        Placed { machine: machine.clone(), instance }
    }

    fn warn_of_gap(&mut self, service: &Service, slots: &[SlotChange]) {
        let replaced = slots.iter().filter(|slot| slot.action == Action::Replace).count();
        let stays = slots.iter().any(|slot| slot.action == Action::Unchanged);
        if service.rollout.order == Order::StopFirst && replaced > 0 && !stays {
            self.warnings.push(format!(
                "{}: stop-first: unavailable from the stop of its old instances until the commit",
                service.name
            ));
        }
    }

    /// What the manifest asks for is not that of services which are kept. A manifest's own routes are known to differ.
    fn claims_are_free(&self, manifest: &Manifest) -> Result<(), PlanError> {
        let is_asked = |name: &ServiceName| manifest.services.iter().any(|service| service.name == *name);
        let (asked, kept): (Vec<_>, Vec<_>) = self.services.iter().partition(|(name, _)| is_asked(name));
        let mut claims = Claims::default();
        for (name, committed) in asked.iter().chain(&kept) {
            claims.add_service(self.namespace, name, &committed.service);
        }
        asked.iter().try_for_each(|(_, asked)| claims.leave(self.namespace, &asked.service))
    }

    /// Everything that concerns all services at once, and the plan.
    pub(super) fn finish(mut self, manifest: &Manifest, scope: &Scope) -> Result<DeployPlan, PlanError> {
        self.claims_are_free(manifest)?;
        let slots = self.services.values().map(|service| service.slots.len()).sum();
        if slots > MAX_SLOTS {
            return Err(PlanError::TooManySlots { slots });
        }
        let strays = self.strays(scope);
        let retired = self.retired(&strays);
        let participants = self.participants(&retired);
        let away = |id: &&MachineId| self.places.machine(id).is_some_and(|machine| !machine.reachable);
        let machines: BTreeSet<MachineId> = participants.iter().filter(away).cloned().collect();
        if !machines.is_empty() {
            return Err(PlanError::Unreachable { machines });
        }
        self.warn_of_absence();
        let removed = |change: &&ServiceChange| change.action == Action::Remove;
        let removed = self.changes.iter().filter(removed).map(|change| change.service.clone()).collect();
        let preview = Preview {
            namespace: manifest.namespace.clone(),
            manifest_hash: manifest.fingerprint(),
            baseline: self.world.current.map(|current| current.deploy.clone()),
            waves: waves(&self.changes, &self.services),
            services: self.changes,
            strays,
            participants,
            pulls: Vec::new(),
            operations: Vec::new(),
            warnings: self.warnings,
        };
        Ok(DeployPlan { deploy: self.deploy.clone(), preview, services: self.services, removed, retired })
    }

    /// Containers that nothing committed knows, of services that this deploy speaks for.
    fn strays(&self, scope: &Scope) -> Vec<Stray> {
        let current = self.world.current.iter().flat_map(|current| current.services.values());
        let known: BTreeSet<&Placed> = current.flat_map(|service| service.slots.values()).collect();
        let found = self.world.found.iter().flat_map(|(machine, found)| {
            found.iter().filter(|found| scope.covers(&found.service)).map(|found| Stray {
                service: found.service.clone(),
                placed: Placed { machine: machine.clone(), instance: found.instance.clone() },
            })
        });
        found.filter(|stray| !known.contains(&stray.placed)).collect()
    }

    /// What goes, on machines that are members: a machine that left took its containers with it.
    fn retired(&self, strays: &[Stray]) -> Vec<Retired> {
        let gone = self.changes.iter().flat_map(|change| {
            let slots = change.slots.iter().filter(|slot| slot.action != Action::Unchanged);
            slots.filter_map(|slot| {
                Some(Retired { service: change.service.clone(), placed: slot.current.clone()? })
            })
        });
        let strays = strays
            .iter()
            .map(|stray| Retired { service: stray.service.clone(), placed: stray.placed.clone() });
        gone.chain(strays).filter(|old| self.places.machine(&old.placed.machine).is_some()).collect()
    }

    fn participants(&self, retired: &[Retired]) -> BTreeSet<MachineId> {
        let slots = self.changes.iter().flat_map(|change| &change.slots);
        let starts =
            slots.filter(|slot| slot.action != Action::Unchanged).filter_map(|slot| slot.next.as_ref());
        let stops = retired.iter().map(|old| &old.placed);
        starts.chain(stops).map(|placed| placed.machine.clone()).collect()
    }

    fn warn_of_absence(&mut self) {
        let starts = self.changes.iter().flat_map(|change| &change.slots);
        if starts.filter(|slot| slot.action != Action::Unchanged && slot.next.is_some()).count() == 0 {
            return;
        }
        let away = self.world.machines.iter().filter(|m| !m.reachable && m.lifecycle == Lifecycle::Active);
        let away: Vec<&MachineId> = away.map(|machine| &machine.id).collect();
        if !away.is_empty() {
            self.warnings.push(format!("{} cannot be reached: nothing new is placed there", list(away)));
        }
    }
}

fn change(slot: u32, action: Action, current: Option<&Placed>, next: Option<Placed>) -> SlotChange {
    SlotChange { slot, action, current: current.cloned(), next }
}

fn removal(name: &ServiceName, current: Option<&CommittedService>) -> ServiceChange {
    let slots = current.iter().flat_map(|current| &current.slots);
    ServiceChange {
        service: name.clone(),
        action: Action::Remove,
        current_revision: current.map(|current| current.revision.clone()),
        next_revision: None,
        slots: slots.map(|(slot, placed)| change(*slot, Action::Remove, Some(placed), None)).collect(),
    }
}

fn action(
    wanted: &Service,
    revision: &str,
    current: Option<&CommittedService>,
    slots: &[SlotChange],
) -> Action {
    match current {
        None => Action::Create,
        Some(current) if current.revision != revision => Action::Replace,
        Some(current) if current.service != *wanted => Action::Update,
        Some(_) if slots.iter().any(|slot| slot.action != Action::Unchanged) => Action::Update,
        Some(_) => Action::Unchanged,
    }
}

/// New slots all at once, replaced ones so many at a time as the service says; services side by side.
fn waves(changes: &[ServiceChange], services: &BTreeMap<ServiceName, CommittedService>) -> Vec<Vec<Wave>> {
    let mut waves: Vec<Vec<Wave>> = Vec::new();
    for change in changes {
        let Some(committed) = services.get(&change.service) else { continue };
        let rollout = committed.service.rollout;
        let numbers = |action: Action| {
            change.slots.iter().filter(move |slot| slot.action == action).map(|slot| slot.slot)
        };
        let new: Vec<u32> = numbers(Action::Create).collect();
        let replaced: Vec<u32> = numbers(Action::Replace).collect();
        let mut groups: Vec<Vec<u32>> =
            replaced.chunks(rollout.parallelism.max(1) as usize).map(<[u32]>::to_vec).collect();
        if !new.is_empty() {
            groups.insert(0, new);
        }
        for (index, slots) in groups.into_iter().enumerate() {
            if waves.len() <= index {
                waves.push(Vec::new());
            }
            waves[index].push(Wave { service: change.service.clone(), order: rollout.order, slots });
        }
    }
    waves
}

/// What an image holds that is still to be fetched: nothing that one is known to hold.
const AWAITED: &str = "awaited";
