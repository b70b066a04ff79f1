//! Carrying out a plan. A step makes one call and decides nothing; a component whose parent failed is not tried.

use crate::node::nats::config;
use crate::node::reconcile::inspect;
use crate::node::supervisor::Supervisor;
use ployz_core::adopt::{Component, Plan, Seen, Verdict, sidecar};
use ployz_core::live::{NodeLive, SidecarLive};
use ployz_core::spec::{NatsSpec, NodeSpec, SidecarSpec, TunnelBackend, UnitName, UnitSpec};
use ployz_netns::{firewall, link, namespace, wireguard};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Applies every step that writes; returns what failed.
pub(super) async fn plan(
    supervisor: &Supervisor,
    spec: &NodeSpec,
    plan: &Plan,
    live: &NodeLive,
) -> BTreeMap<Component, String> {
    let mut failures: BTreeMap<Component, String> = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| step.verdict.writes()) {
        let failed_parent = parents(step.component).iter().find(|parent| failures.contains_key(parent));
        let result = match failed_parent {
            Some(parent) => Err(format!("not tried: {parent} failed")),
            None => {
                let work = component(supervisor, spec, live, step.component, &step.verdict);
                match tokio::time::timeout(STEP, work).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("timed out after {}s", STEP.as_secs())),
                }
            }
        };
        if let Err(error) = result {
            failures.insert(step.component, error);
        }
    }
    failures
}

fn parents(component: Component) -> &'static [Component] {
    match component {
        Component::Netns => &[],
        Component::Tunnel | Component::Firewall | Component::Gateway | Component::Dns => &[Component::Netns],
        Component::Wireguard => &[Component::Netns, Component::Tunnel],
        Component::Link | Component::Nats => &[Component::Netns, Component::Wireguard],
    }
}

async fn component(
    supervisor: &Supervisor,
    spec: &NodeSpec,
    live: &NodeLive,
    component: Component,
    verdict: &Verdict,
) -> Result<(), String> {
    let file = namespace::path(&spec.netns.name);
    let anew = matches!(verdict, Verdict::Recreate(_));
    match component {
        Component::Netns => {
            leave_old_namespace(supervisor, live).await?;
            if anew {
                namespace::remove(&spec.netns.name).map_err(words)?;
            }
            namespace::create(&spec.netns).await.map_err(words)
        }
        Component::Tunnel => match &spec.tunnel {
            Some(unit) => put_unit(supervisor, unit, anew).await,
            None => Ok(()),
        },
        Component::Wireguard => tunnel(supervisor, spec, live, verdict, &file).await,
        Component::Link => link::apply(&spec.link, &file).await.map_err(words),
        Component::Firewall => firewall::apply(&spec.firewall, &file).await.map_err(words),
        Component::Nats => store(supervisor, &spec.nats, verdict, &file).await,
        Component::Gateway => sidecar(supervisor, &spec.gateway, &live.gateway, &file).await,
        Component::Dns => sidecar(supervisor, &spec.dns, &live.dns, &file).await,
    }
}

/// A process that still runs in the old namespace keeps that alive, and with it the old device and its UDP port.
async fn leave_old_namespace(supervisor: &Supervisor, live: &NodeLive) -> Result<(), String> {
    for (name, found) in [(UnitName::GATEWAY, &live.gateway), (UnitName::DNS, &live.dns)] {
        if found.present().is_some_and(sidecar::is_ours) {
            supervisor.stop_sidecar(&name).await.map_err(words)?;
        }
    }
    match live.nats.present() {
        Some(nats) if nats.unit.fingerprint.is_some() => {
            supervisor.stop(&UnitName::NATS).await.map_err(words)
        }
        _ => Ok(()),
    }
}

async fn tunnel(
    supervisor: &Supervisor,
    spec: &NodeSpec,
    live: &NodeLive,
    verdict: &Verdict,
    file: &Path,
) -> Result<(), String> {
    let kernel = spec.wireguard.backend == TunnelBackend::Kernel;
    if matches!(verdict, Verdict::Recreate(_)) {
        // Changing over to the kernel: the device of the userspace process ends with it.
        if let (None, Seen::Present(_)) = (&spec.tunnel, &live.tunnel) {
            supervisor.stop(&UnitName::WIREGUARD).await.map_err(words)?;
        }
        if kernel {
            wireguard::remove(&spec.wireguard.name, file).await.map_err(words)?;
        }
    }
    if !matches!(verdict, Verdict::Converge(_)) {
        wireguard::create(&spec.wireguard, file).await.map_err(words)?;
    }
    let deadline = Instant::now() + APPEAR;
    loop {
        match wireguard::inspect(&spec.wireguard.name, file).await {
            Seen::Present(device) => match wireguard::converge(&spec.wireguard, &device, file).await {
                Ok(()) => return Ok(()),
                // The kernel lets go of a removed namespace's port a little later.
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(words(error)),
            },
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return Err(format!("the device did not appear: {}", other.standing())),
        }
    }
}

async fn store(
    supervisor: &Supervisor,
    spec: &NatsSpec,
    verdict: &Verdict,
    file: &Path,
) -> Result<(), String> {
    config::install(spec).map_err(words)?;
    if matches!(verdict, Verdict::Converge(_)) {
        supervisor.reload(&spec.unit).await.map_err(words)?;
    } else {
        put_unit(supervisor, &spec.unit, matches!(verdict, Verdict::Recreate(_))).await?;
    }
    let deadline = Instant::now() + READY;
    loop {
        match inspect::store(supervisor, file).await {
            Seen::Present(live) if live.loaded.as_deref() == Some(&spec.revision) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(25)).await,
            Seen::Present(live) => {
                let loaded = live.loaded.unwrap_or_else(|| "nothing".into());
                return Err(format!("it answers with settings {loaded}, not {}", spec.revision));
            }
            other => return Err(format!("it did not come up: {}", other.standing())),
        }
    }
}

/// What was found may have gone with the old namespace since.
async fn sidecar(
    supervisor: &Supervisor,
    spec: &SidecarSpec,
    found: &Seen<SidecarLive>,
    file: &Path,
) -> Result<(), String> {
    let netns = namespace::id_of(file).ok().flatten();
    let live = match found {
        Seen::Present(_) => supervisor.inspect_sidecar(spec).await,
        other => other.clone(),
    };
    let what = sidecar::replace(spec, live.present(), netns);
    supervisor.put_sidecar(spec, what).await.map_err(words)
}

async fn put_unit(supervisor: &Supervisor, unit: &UnitSpec, anew: bool) -> Result<(), String> {
    if anew {
        supervisor.stop(&unit.name).await.map_err(words)?;
    }
    supervisor.start(unit).await.map_err(words)
}

fn words(error: impl std::error::Error) -> String {
    ployz_core::text::chain(&error)
}

/// Longer than any step's own deadlines together.
const STEP: Duration = Duration::from_secs(90);
const APPEAR: Duration = Duration::from_secs(5);
/// A store with much to read back takes a while; the unit itself is up at once.
const READY: Duration = Duration::from_secs(20);
