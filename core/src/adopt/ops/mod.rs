//! From verdicts to operations: what each component that is written needs, in the order it is done.

mod link;

use crate::adopt::device::DeviceChange;
use crate::adopt::op::{Op, PlannedOp};
use crate::adopt::plan::Component;
use crate::adopt::sidecar::{self, Replace};
use crate::adopt::{Cause, Seen, Step, Verdict, decide};
use crate::live::{NodeLive, SidecarLive, WireguardLive};
use crate::spec::{NodeSpec, Side, SidecarSpec, TunnelBackend, UnitName};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// What the operations of one component are made from.
struct Context<'a> {
    spec: &'a NodeSpec,
    live: &'a NodeLive,
    /// The namespace is made before: what is inside it now is not there then.
    new_netns: bool,
    /// The same of the device `wg0`.
    new_wireguard: bool,
}

/// The operations that a step has so far.
struct Ops<'a> {
    component: Component,
    verdict: &'a Verdict,
    ops: Vec<PlannedOp>,
}

/// Gives each step that writes its operations.
pub(super) fn plan(spec: &NodeSpec, live: &NodeLive, steps: &mut [Step]) {
    let recreated = |component| {
        let step = steps.iter().find(|step: &&Step| step.component == component);
        step.is_some_and(|step| matches!(step.verdict, Verdict::Create | Verdict::Recreate(_)))
    };
    let new_netns = recreated(Component::Netns);
    let new_wireguard = recreated(Component::Wireguard);
    let context = Context { spec, live, new_netns, new_wireguard };
    for step in steps.iter_mut().filter(|step| step.verdict.writes()) {
        let mut ops = Ops { component: step.component, verdict: &step.verdict, ops: Vec::new() };
        context.component(step.component, &mut ops);
        step.ops = ops.ops;
    }
}

impl Context<'_> {
    fn component(&self, component: Component, ops: &mut Ops<'_>) {
        let (spec, live) = (self.spec, self.live);
        match component {
            Component::Netns => self.netns(ops),
            Component::Tunnel => {
                if ops.is_recreation() {
                    ops.push(Op::StopUnit(UnitName::WIREGUARD), "");
                }
                ops.push(Op::StartUnit(UnitName::WIREGUARD), "");
            }
            Component::Wireguard => self.wireguard(ops),
            Component::Link => self.link(ops),
            Component::Firewall => self.firewall(ops),
            Component::Nats => self.nats(ops),
            Component::Gateway => self.sidecar(&spec.gateway, &live.gateway, ops),
            Component::Dns => self.sidecar(&spec.dns, &live.dns, ops),
        }
    }

    /// A process that still runs in the old namespace keeps that alive, and with it the old device and its UDP port.
    fn netns(&self, ops: &mut Ops<'_>) {
        for (unit, found) in [(UnitName::GATEWAY, &self.live.gateway), (UnitName::DNS, &self.live.dns)] {
            if found.present().is_some_and(sidecar::is_ours) {
                ops.push_because(Op::StopSidecar(unit), OLD_NETNS.to_owned());
            }
        }
        if self.store_is_ours() {
            ops.push_because(Op::StopUnit(UnitName::NATS), OLD_NETNS.to_owned());
        }
        let name = &self.spec.netns.name;
        if ops.is_recreation() {
            ops.push(Op::RemoveNetns(name.clone()), "");
        }
        ops.push(Op::CreateNetns(name.clone()), "");
    }

    fn wireguard(&self, ops: &mut Ops<'_>) {
        let spec = &self.spec.wireguard;
        let name = || spec.name.clone();
        let kernel = spec.backend == TunnelBackend::Kernel;
        if ops.is_recreation() && self.spec.tunnel.is_none() {
            // Changing over to the kernel: the device of the userspace process ends with it.
            if self.live.tunnel.present().is_some_and(|unit| unit.fingerprint.is_some()) {
                ops.push(Op::StopUnit(UnitName::WIREGUARD), "");
            }
        }
        if ops.is_recreation() && kernel && !self.new_netns {
            ops.push(Op::RemoveWireguard(name()), "");
        }
        if self.new_wireguard {
            ops.push(if kernel { Op::CreateWireguard(name()) } else { Op::AwaitWireguard(name()) }, "");
        }
        self.wireguard_settings(ops);
    }

    fn wireguard_settings(&self, ops: &mut Ops<'_>) {
        let spec = &self.spec.wireguard;
        let name = || spec.name.clone();
        let blank = WireguardLive::blank(spec.backend);
        let found = self.live.wireguard.present().filter(|_| !self.new_wireguard).unwrap_or(&blank);
        if found.alias.as_deref() != Some(&spec.alias()) {
            // The mark comes first: a device that is configured and unmarked would be foreign.
            ops.push(Op::SetAlias(Side::Netns, name(), spec.alias()), "owner");
        }
        let change = DeviceChange::between(spec, found);
        if !change.is_empty() {
            let fields = change.fields().join(", ");
            ops.push(Op::ConfigureWireguard(name(), change), &fields);
        }
        if !found.ipv6 {
            // It has no addresses of IPv6 before that, and takes none.
            ops.push(Op::EnableIpv6(name()), "ipv6");
        }
        if found.mtu != spec.mtu {
            ops.push(Op::SetMtu(Side::Netns, name(), spec.mtu), "mtu");
        }
        if !found.up {
            ops.push(Op::BringUpWireguard(name()), "up");
        }
        ops.addresses(Side::Netns, &spec.name, &found.addresses, &spec.addresses, "addresses");
    }

    /// A table is replaced whole: only the one that differs.
    fn firewall(&self, ops: &mut Ops<'_>) {
        let found = self.live.firewall.present();
        let spec = &self.spec.firewall;
        let sides = [
            (Side::Host, &spec.host, found.and_then(|found| found.host.as_ref())),
            (
                Side::Netns,
                &spec.netns,
                found.and_then(|found| found.netns.as_ref()).filter(|_| !self.new_netns),
            ),
        ];
        for (side, want, have) in sides {
            match have.map(|have| decide::table_drift(side.as_str(), want, have)) {
                Some(drift) if drift.is_empty() => {}
                Some(drift) => ops.push(Op::LoadTable(side), &drift[0].field),
                None => ops.push(Op::LoadTable(side), "missing"),
            }
        }
    }

    fn nats(&self, ops: &mut Ops<'_>) {
        let revision = || self.spec.nats.revision.clone();
        ops.push(Op::WriteStoreConfig(revision()), "settings");
        if let Verdict::Converge(_) = ops.verdict {
            ops.push(Op::ReloadUnit(UnitName::NATS), "settings");
        } else {
            // With the namespace it was stopped already.
            if ops.is_recreation() && !(self.new_netns && self.store_is_ours()) {
                ops.push(Op::StopUnit(UnitName::NATS), "");
            }
            ops.push(Op::StartUnit(UnitName::NATS), "");
        }
        ops.push(Op::AwaitStore(revision()), "settings");
    }

    fn store_is_ours(&self) -> bool {
        self.live.nats.present().is_some_and(|nats| nats.unit.fingerprint.is_some())
    }

    fn sidecar(&self, spec: &SidecarSpec, found: &Seen<SidecarLive>, ops: &mut Ops<'_>) {
        let unit = spec.unit.name.clone();
        // What is found goes with the namespace.
        let found = found.present().filter(|_| !self.new_netns);
        let netns = self.live.netns.present().map(|netns| netns.id);
        let what = sidecar::replace(spec, found, netns);
        let (mut opens, mut closes) = (Vec::new(), Vec::new());
        if let (Replace::Routes, Some(found)) = (what, found) {
            opens = sidecar::missing(spec, found);
            closes = sidecar::superfluous(spec, found);
        }
        ops.push(Op::PutSidecar { unit, what, opens, closes }, "");
    }
}

impl Ops<'_> {
    fn is_recreation(&self) -> bool {
        matches!(self.verdict, Verdict::Recreate(_))
    }

    /// Of something that stays, `field` is the cause; else why all of it is made.
    fn push(&mut self, op: Op, field: &str) {
        let cause = match self.verdict {
            Verdict::Converge(_) if !field.is_empty() => field.to_owned(),
            Verdict::Create => "missing".to_owned(),
            Verdict::Recreate(Cause::Parent(parent)) => format!("{parent} is recreated"),
            Verdict::Converge(drift) | Verdict::Recreate(Cause::Drift(drift)) => {
                drift.iter().map(|drift| drift.field.as_str()).collect::<Vec<_>>().join(", ")
            }
            Verdict::Adopt | Verdict::Hold(_) => return,
        };
        self.push_because(op, cause);
    }

    fn push_because(&mut self, op: Op, cause: String) {
        self.ops.push(PlannedOp { component: self.component, op, cause });
    }

    fn addresses(
        &mut self,
        side: Side,
        name: &str,
        live: &BTreeSet<IpNet>,
        want: &BTreeSet<IpNet>,
        field: &str,
    ) {
        for address in want.difference(live) {
            self.push(Op::AddAddress(side, name.to_owned(), *address), field);
        }
        for address in live.difference(want) {
            self.push(Op::DeleteAddress(side, name.to_owned(), *address), field);
        }
    }
}

const OLD_NETNS: &str = "it keeps the old namespace alive";
