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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::Machine;
    use ployz_core::adopt::{KernelEvent, Seen};
    use ployz_core::spec::Side;
    use tokio::sync::watch;
    use tokio::time::Instant;

    struct Run {
        machine: Machine,
        triggers: mpsc::Sender<Trigger>,
        outcomes: watch::Receiver<Option<Arc<Outcome>>>,
    }

    impl Run {
        /// After a first run that was good.
        async fn new(name: &str) -> Self {
            let machine = Machine::founder(name);
            machine.mesh.reconcile(Trigger::Startup).await;
            let (triggers, requests) = mpsc::channel(16);
            let outcomes = machine.mesh.outcome.subscribe();
            tokio::spawn(reconcile_on_request(machine.mesh.clone(), requests));
            Self { machine, triggers, outcomes }
        }

        /// Milliseconds until the next one.
        async fn next(&mut self) -> u128 {
            let began = Instant::now();
            let next = tokio::time::timeout(Duration::from_secs(120), self.outcomes.changed());
            next.await.expect("it comes").unwrap();
            began.elapsed().as_millis()
        }

        fn last(&self) -> String {
            self.machine.mesh.shared.reconciler.history().pop().unwrap().trigger
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_at_once_are_one_run() {
        let mut run = Run::new("burst").await;
        let event = Trigger::KernelEvent(KernelEvent::Links(Side::Host));
        for _ in 0..16 {
            run.triggers.try_send(event).unwrap();
        }
        assert_eq!(run.next().await, DEBOUNCE.as_millis());
        assert_eq!(run.last(), event.to_string());
        assert_eq!(run.next().await, 30_000);
        assert_eq!(run.last(), "periodic resync");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_is_tried_again_every_second_and_what_is_well_every_half_minute() {
        let mut run = Run::new("resync").await;
        assert_eq!(run.next().await, 30_000);
        let fake = run.machine.fake.clone();
        fake.state().live.nats = Seen::Foreign("another's".into());
        assert_eq!(run.next().await, 30_000);
        assert_eq!(run.next().await, 1_000);
        fake.state().live.nats = Seen::Absent;
        assert_eq!(run.next().await, 1_000);
        assert_eq!(run.next().await, 30_000, "it is well again");
        // A file that could not be written is not there for the next start.
        let routes =
            run.machine.mesh.shared.disk.network_dir(&run.machine.mesh.network().name).join("routes");
        std::fs::remove_dir_all(&routes).unwrap();
        std::fs::write(&routes, "in the way").unwrap();
        assert_eq!(run.next().await, 30_000);
        assert!(run.machine.mesh.unwritten.borrow().is_some());
        assert_eq!(run.next().await, 1_000);
        std::fs::remove_file(&routes).unwrap();
        assert_eq!(run.next().await, 1_000);
        assert_eq!((run.next().await, run.machine.mesh.unwritten.borrow().clone()), (30_000, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_is_left_is_not_reconciled_again() {
        let run = Run::new("left").await;
        run.machine.fake.state().live.nats = Seen::Absent;
        run.machine.mesh.cancel.cancel();
        let outcome = run.machine.mesh.reconcile(Trigger::PeriodicResync).await;
        assert!(outcome.is_good() && run.machine.fake.inspect().nats == Seen::Absent);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(run.triggers.is_closed() && !run.outcomes.has_changed().unwrap());
    }
}
