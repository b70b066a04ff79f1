//! Bringing a network up: its data plane first, then the tasks that talk to others.

use crate::network::asked::{Asked, Ports};
use crate::network::context::{Network, Parts, Shared};
use crate::network::{endpoints, host, listener, monitor, ports, probe, sync};
use crate::node::reconcile::Outcome;
use crate::state::{DiskError, Keys, NetworkFile};
use ployz_core::adopt::Trigger;
use ployz_core::wire::v1::api::Phase;
use ployz_nats::events::Feed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Brings a network up from what is on disk. Returns as soon as the data plane was reconciled once, whatever the store does.
pub async fn start(
    shared: Arc<Shared>,
    network: NetworkFile,
    mut keys: Keys,
    trigger: Trigger,
    compose: impl FnOnce(&Arc<Network>) -> Parts,
) -> Result<(Arc<Network>, Arc<Outcome>), DiskError> {
    if keys.sidecars.is_none() {
        keys.sidecars = Some(crate::keys::sidecar_seeds());
        shared.disk.put_keys(&network.name, &keys)?;
    }
    let (triggers, requests) = mpsc::channel(16);
    let mesh = Arc::new(Network::new(shared, network, keys, triggers)?);
    let parts = compose(&mesh);
    mesh.choose_backend().await?;
    mesh.phase.send_replace(Phase::Provisioning);
    let routes = ports::follow(&mesh);
    mesh.asked.send_replace(Asked::of(&routes.watch().borrow()));
    let outcome = mesh.reconcile(trigger).await;
    mesh.phase.send_replace(Phase::Bootstrapping);
    spawn(&mesh, requests, routes, parts);
    Ok((mesh, outcome))
}

fn spawn(mesh: &Arc<Network>, requests: mpsc::Receiver<Trigger>, routes: Feed<Ports>, parts: Parts) {
    // Not cut off in the middle of a run: a step that was begun must not land after a teardown.
    mesh.tasks.spawn(reconcile_on_request(mesh.clone(), requests));
    // It writes to disk at its end, which is waited for.
    mesh.tasks.spawn(ports::run(mesh.clone(), routes));
    mesh.task(sync::run(mesh.clone(), parts.session));
    mesh.task(listener::run(mesh.clone(), parts.membership));
    mesh.task(probe::run(mesh.clone()));
    mesh.task(endpoints::run(mesh.clone()));
    mesh.task(host::run(mesh.clone()));
    mesh.task(monitor::run(mesh.clone()));
    parts.tasks.into_iter().for_each(|task| mesh.task(task));
}

/// Reconciles when asked, and resyncs by itself: often while something is wrong, rarely while all is well.
async fn reconcile_on_request(mesh: Arc<Network>, mut requests: mpsc::Receiver<Trigger>) {
    let soon = |good: bool| if good { RESYNC_INTERVAL } else { RETRY_DELAY };
    let mut pause = soon(mesh.outcome.borrow().as_ref().is_some_and(|outcome| outcome.is_good()));
    loop {
        // Cancel-safe: a request that is not taken is not needed any more.
        let request = tokio::select! {
            () = mesh.cancel.cancelled() => return,
            request = tokio::time::timeout(pause, requests.recv()) => request,
        };
        let trigger = match request {
            Ok(None) => return,
            Ok(Some(trigger)) => trigger,
            Err(_) => Trigger::PeriodicResync,
        };
        if trigger.comes_in_bursts() {
            tokio::time::sleep(DEBOUNCE).await;
            while requests.try_recv().is_ok() {}
        }
        let good = mesh.reconcile(trigger).await.is_good();
        pause = soon(good && mesh.unwritten.borrow().is_none());
    }
}

const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Several changes at once (twenty joiners) become one run.
const DEBOUNCE: Duration = Duration::from_millis(50);
