//! This machine's instances as routing events: said when they change, taken away when they are gone.
//!
//! While Docker does not answer, what was said stands: unknown is not absent. A daemon that just started does not take
//! instances out of service because nobody has asked them yet.

use crate::deploy::agent::instances::LocalError;
use crate::deploy::context::Deploys;
use crate::state::instances::{InstanceRecord, InstancesFile};
use ployz_core::id::MachineId;
use ployz_core::live::ContainerState;
use ployz_core::routing::{InstanceRoute, Key, ServiceRef, Value};
use ployz_engine::watch::{Engine, Instance, InstanceKey, View};
use ployz_nats::events::{PublishError, Publisher};
use ployz_nats::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

type Routes = BTreeMap<Key, Value>;

/// Says them for as long as the network runs here.
pub async fn run(deploys: Arc<Deploys>) {
    let mut views = deploys.workloads.subscribe();
    let mut stores = deploys.network.store.subscribe();
    let mut said: Option<Routes> = None;
    loop {
        let view = views.borrow_and_update().clone();
        // A new connection may be to a store that lost something: what it holds is looked at again.
        if stores.has_changed().unwrap_or(false) {
            said = None;
            deploys.local.set_routable(BTreeSet::new());
        }
        let store = stores.borrow_and_update().clone();
        let mut again = REPUBLISH_INTERVAL;
        if matches!(view.engine, Engine::Live(_))
            && let Err(error) = look(&deploys, &view, store.as_ref(), &mut said).await
        {
            tracing::warn!(
                error = %ployz_core::text::chain(error.as_ref()),
                "cannot publish the routes of instances"
            );
            said = None;
            again = RETRY_DELAY;
        }
        // Cancel-safe: all of them keep what was sent.
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            changed = stores.changed() => if changed.is_err() { return } else { stores.mark_changed() },
            () = deploys.local.changed.notified() => {}
            () = tokio::time::sleep(again) => {}
        }
    }
}

type Done = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Says what is seen now. While what deploys made here is not known, what was said stands.
async fn look(deploys: &Deploys, view: &View, store: Option<&Store>, said: &mut Option<Routes>) -> Done {
    let (known, young) = (deploys.local.read()?, deploys.network.millis());
    if let Err(error) = remember(deploys, view, young) {
        tracing::warn!(
            error = %ployz_core::text::chain(&error),
            "cannot write the readiness of instances to disk"
        );
    }
    let wanted = wanted(&deploys.network.network().machine.id, view, &known, young);
    let Some(store) = store else { return Ok(()) };
    let routable = routable(&wanted);
    let publisher = store.publisher();
    say(deploys, &publisher, said, wanted).await?;
    deploys.local.set_routable(routable);
    Ok(())
}

/// Keeps on disk who was ready, for the next start.
fn remember(deploys: &Deploys, view: &View, young: u64) -> Result<(), LocalError> {
    deploys.local.change(|file| {
        for kept in &mut file.instances {
            kept.ready = is_ready(kept, view.instances.get(&kept.key()), young);
        }
    })
}

/// Instances that requests are sent to by these routes.
fn routable(routes: &Routes) -> BTreeSet<InstanceKey> {
    let takes = |(key, value): (&Key, &Value)| match (key, value) {
        (Key::Instance(_, service, instance), Value::Instance(route)) if route.ready && !route.draining => {
            Some((service.namespace.clone(), instance.clone()))
        }
        _ => None,
    };
    routes.iter().filter_map(takes).collect()
}

/// Whether requests may go there. One that was ready before this daemon started is, until it was asked often enough.
fn is_ready(kept: &InstanceRecord, seen: Option<&Instance>, age_millis: u64) -> bool {
    let Some(seen) = seen.filter(|seen| seen.state == ContainerState::Running) else { return false };
    let asked = kept.service.readiness.as_ref().map_or(0, |readiness| {
        let rounds = u64::from(readiness.threshold.max(3)) + 1;
        rounds * (readiness.interval.as_millis() + readiness.timeout.as_millis()) + FIRST_SURVEY_MILLIS
    });
    seen.ready || (kept.ready && age_millis < asked)
}

fn wanted(own: &MachineId, view: &View, known: &InstancesFile, young: u64) -> Routes {
    let routes = view.instances.values().filter_map(|seen| {
        let owner = &seen.owner;
        let kept = known.get(&owner.namespace, &owner.instance);
        let service = ServiceRef { namespace: owner.namespace.clone(), service: owner.service.clone() };
        let route = InstanceRoute {
            address: seen.address?,
            revision: owner.revision.clone(),
            deploy: owner.deploy.clone(),
            slot: owner.slot,
            ready: kept.map_or(seen.ready, |kept| is_ready(kept, Some(seen), young)),
            draining: kept.is_some_and(|kept| kept.draining),
        };
        Some((Key::Instance(own.clone(), service, owner.instance.clone()), Value::Instance(route)))
    });
    routes.collect()
}

/// Brings the stream to what is wanted; writes only what differs.
async fn say(deploys: &Deploys, publisher: &Publisher, said: &mut Option<Routes>, wanted: Routes) -> Done {
    if said.as_ref() == Some(&wanted) {
        return Ok(());
    }
    // On disk before the stream, so that a key which was said is never forgotten.
    deploys.local.change(|file| announce(file, &wanted))?;
    let before = said.clone().unwrap_or_default();
    for (key, value) in wanted.iter().filter(|(key, value)| before.get(key) != Some(value)) {
        let there = match publisher.current(key).await {
            Ok(current) => current.value.as_ref() == Some(value),
            // What cannot be read is replaced: the key is this machine's alone.
            Err(PublishError::Damaged { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if !there {
            publisher.put(key, value).await?;
        }
    }
    let names: BTreeSet<String> = wanted.keys().map(ToString::to_string).collect();
    let gone: Vec<String> = deploys.local.read()?.announced.difference(&names).cloned().collect();
    for name in &gone {
        if let Ok(key) = name.parse::<Key>() {
            publisher.remove(&key).await?;
        }
    }
    deploys.local.change(|file| file.announced.retain(|name| !gone.contains(name)))?;
    *said = Some(wanted);
    Ok(())
}

/// Takes this machine's instances out of the routes.
pub async fn withdraw(deploys: &Deploys, store: &Store) -> Result<(), PublishError> {
    let publisher = store.publisher();
    let known = deploys.local.read().unwrap_or_default();
    for key in known.announced.iter().filter_map(|name| name.parse::<Key>().ok()) {
        publisher.remove(&key).await?;
    }
    Ok(())
}

fn announce(file: &mut InstancesFile, wanted: &Routes) {
    file.announced.extend(wanted.keys().map(ToString::to_string));
}

const REPUBLISH_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Until a daemon that just started has seen its containers for the first time.
const FIRST_SURVEY_MILLIS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::agent::instances::tests::kept;

    #[test]
    fn published_is_what_takes_requests() {
        let owner = kept("null").owner;
        let service = ServiceRef { namespace: owner.namespace.clone(), service: owner.service };
        let route = |instance: &str, ready, draining| {
            let key = Key::Instance(owner.machine.clone(), service.clone(), instance.parse().unwrap());
            let (revision, deploy) = (owner.revision.clone(), owner.deploy.clone());
            let address = "10.101.0.3".parse().unwrap();
            let route = InstanceRoute { address, revision, deploy, slot: 0, ready, draining };
            (key, Value::Instance(route))
        };
        let routes = [route("a", true, false), route("b", false, false), route("c", true, true)];
        let published = routable(&routes.into());
        assert_eq!(published, BTreeSet::from([(owner.namespace, "a".parse().unwrap())]));
    }

    #[test]
    fn a_start_takes_nobody_out_of_service_before_he_was_asked() {
        let mut kept = kept(r#"{"kind": "tcp", "port": 80, "interval": "1s", "timeout": "1s"}"#);
        let mut seen = Instance {
            id: "c".into(),
            owner: kept.owner.clone(),
            address: None,
            state: ContainerState::Running,
            ready: false,
            started_at: None,
            restarts: 0,
            why_not_ready: None,
        };
        assert!(!is_ready(&kept, Some(&seen), 0), "it never was");
        kept.ready = true;
        assert!(is_ready(&kept, Some(&seen), 12_000));
        assert!(!is_ready(&kept, Some(&seen), 13_000), "asked four times by now");
        seen.ready = true;
        assert!(is_ready(&kept, Some(&seen), 99_000));
        seen.state = ContainerState::Exited(1);
        assert!(!is_ready(&kept, Some(&seen), 0) && !is_ready(&kept, None, 0));
    }
}
