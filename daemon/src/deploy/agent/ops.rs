//! What is done to instances that are there: stopped, started again, taken out of service, removed.
//!
//! To one instance one thing after the other: Docker answers a start of a container that is in the grace of its stop with
//! "it runs", and ends it afterwards.

use crate::deploy::agent::container::{failed, not_kept};
use crate::deploy::agent::instances::Local;
use crate::state::instances::InstanceRecord;
use futures_util::future::join_all;
use ployz_core::adopt::Seen;
use ployz_core::id::{DeployId, InstanceId, Namespace};
use ployz_core::live::ContainerLive;
use ployz_core::spec::container::container_name;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::deploy::{DeployAnswer, DeployFailure, Drain, Instances};
use ployz_engine::docker::Docker;
use ployz_host::clock;
use std::time::Duration;

/// Why a command was not carried out.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// Its sender's lock is over.
    TooLate,
    /// This.
    Failed(DeployFailure),
}

/// Results of commands.
pub(super) type Result<T> = std::result::Result<T, Refused>;

impl From<DeployFailure> for Refused {
    fn from(failure: DeployFailure) -> Self {
        Self::Failed(failure)
    }
}

/// A command of a coordinator whose lock is over may be one that another has undone since.
pub(super) fn in_time(not_after: u64) -> Result<()> {
    if clock::now() <= not_after { Ok(()) } else { Err(Refused::TooLate) }
}

/// Stops them, and remembers who wanted that.
pub(super) async fn stop(local: &Local, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    each(asked, |instance| async move {
        let _turn = local.alone(&asked.namespace, &instance).await;
        in_time(asked.not_after)?;
        let Some(live) = find(docker, &asked.namespace, &instance).await? else { return Ok(()) };
        if live.state.runs() {
            // Before it is done: whoever comes after a crash must know that it was not somebody else's doing.
            note(local, &asked.namespace, &instance, Some(&asked.deploy))?;
        }
        docker.stop(&live.id, grace(local, &asked.namespace, &instance)).await.map_err(failed)?;
        Ok(())
    })
    .await
}

/// Starts those again that a deploy stopped.
pub(super) async fn restore(local: &Local, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    each(asked, |instance| async move {
        let _turn = local.alone(&asked.namespace, &instance).await;
        in_time(asked.not_after)?;
        let known = local.read().map_err(not_kept)?;
        if known.is_removed(&asked.namespace, &instance) {
            let what = format!("{instance} was removed and does not start again");
            return Err(DeployFailure::new(ErrorCode::DeployInterrupted, what).into());
        }
        // One that no deploy stopped is as it was before.
        let ours = known.get(&asked.namespace, &instance).is_none_or(|kept| kept.stopped_for.is_some());
        if ours { Ok(start_again(local, docker, &asked.namespace, &instance).await?) } else { Ok(()) }
    })
    .await
}

/// Starts one again; the caller holds its turn.
pub(super) async fn start_again(
    local: &Local,
    docker: &Docker,
    namespace: &Namespace,
    instance: &InstanceId,
) -> std::result::Result<(), DeployFailure> {
    // Nothing that this deploy did: it was gone before.
    let Some(live) = find(docker, namespace, instance).await? else { return Ok(()) };
    if live.state.runs() {
        // In the grace of a stop that this daemon's predecessor asked for: it would end after it was started.
        docker.stop(&live.id, grace(local, namespace, instance)).await.map_err(failed)?;
    }
    docker.start(&live.id).await.map_err(failed)?;
    note(local, namespace, instance, None)
}

/// Takes them out of service and gives their connections time to end.
pub(super) async fn drain(local: &Local, docker: &Docker, asked: &Drain) -> Result<DeployAnswer> {
    let which = &asked.which;
    in_time(which.not_after)?;
    let here = |kept: &InstanceRecord| {
        kept.owner.namespace == which.namespace && which.instances.contains(&kept.owner.instance)
    };
    let marked = local.change(|file| {
        file.instances.iter_mut().filter(|kept| here(kept)).for_each(|kept| kept.draining = true);
    });
    marked.map_err(not_kept)?;
    let known = local.read().map_err(not_kept)?;
    let found = docker.survey().await.map_err(failed)?;
    let running = found.live.iter().filter(|live| live.state.runs()).filter_map(ContainerLive::owner);
    let busy = running.chain(found.silent.into_iter().filter_map(|silent| silent.owner)).any(|owner| {
        // One that nobody can reach has no connections to end.
        let kept = known.get(&owner.namespace, &owner.instance);
        let reached = kept.is_none_or(|kept| !kept.service.ports.is_empty());
        owner.namespace == which.namespace && which.instances.contains(&owner.instance) && reached
    });
    if busy {
        tokio::time::sleep(asked.at_most.duration().min(DRAIN_DURATION_MAX)).await;
    }
    Ok(DeployAnswer::Done)
}

/// Removes them for ever.
pub(super) async fn remove(local: &Local, docker: &Docker, asked: &Instances) -> Result<DeployAnswer> {
    in_time(asked.not_after)?;
    tombstone(local, &asked.namespace, &asked.instances)?;
    each(
        asked,
        |instance| async move { Ok(remove_container(local, docker, &asked.namespace, &instance).await?) },
    )
    .await
}

/// Notes that they must never start again: first of all, so that a start which is on its way does not bring one back.
pub(super) fn tombstone(
    local: &Local,
    namespace: &Namespace,
    instances: &[InstanceId],
) -> std::result::Result<(), DeployFailure> {
    let written = local.change(|file| {
        instances.iter().for_each(|instance| file.tombstone(namespace, instance));
    });
    written.map_err(not_kept)
}

/// Removes one that was buried.
pub(super) async fn remove_container(
    local: &Local,
    docker: &Docker,
    namespace: &Namespace,
    instance: &InstanceId,
) -> std::result::Result<(), DeployFailure> {
    let _turn = local.alone(namespace, instance).await;
    if let Some(live) = find(docker, namespace, instance).await? {
        // One that does not stop is killed by the removal.
        let _ = docker.stop(&live.id, grace(local, namespace, instance)).await;
        docker.remove(&live.id).await.map_err(failed)?;
    }
    local.change(|file| file.forget(namespace, instance)).map_err(not_kept)
}

/// The container of an instance. A foreign one under that name is not the instance.
async fn find(
    docker: &Docker,
    namespace: &Namespace,
    instance: &InstanceId,
) -> std::result::Result<Option<ContainerLive>, DeployFailure> {
    let name = container_name(namespace, instance);
    match docker.inspect(&name).await {
        Seen::Present(live) => Ok(Some(live)),
        Seen::Absent | Seen::Foreign(_) => Ok(None),
        Seen::Unknown(why) => {
            let what = format!("container {name} cannot be inspected: {why}");
            Err(DeployFailure::new(ErrorCode::DockerUnavailable, what))
        }
    }
}

fn note(
    local: &Local,
    namespace: &Namespace,
    instance: &InstanceId,
    stopped_for: Option<&DeployId>,
) -> std::result::Result<(), DeployFailure> {
    let noted = local.change(|file| {
        if let Some(kept) = file.get_mut(namespace, instance) {
            kept.stopped_for = stopped_for.cloned();
        }
    });
    noted.map_err(not_kept)
}

/// The same for each of them at once; the first failure is the answer, when all have been tried.
async fn each<W: Future<Output = Result<()>>>(
    asked: &Instances,
    work: impl Fn(InstanceId) -> W,
) -> Result<DeployAnswer> {
    let done = join_all(asked.instances.iter().cloned().map(work)).await;
    done.into_iter().collect::<Result<Vec<()>>>().map(|_| DeployAnswer::Done)
}

fn grace(local: &Local, namespace: &Namespace, instance: &InstanceId) -> Duration {
    let known = local.read().unwrap_or_default();
    known.get(namespace, instance).map_or(STOP_GRACE, |kept| kept.service.stop_grace_period.duration())
}

const STOP_GRACE: Duration = Duration::from_secs(10);
const DRAIN_DURATION_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::agent::instances::tests::{OnDisk, kept};
    use ployz_core::wire::v1::deploy::{Debt, Owed, Placed};
    use ployz_engine::fake::{Fake, instance};

    /// A machine with the one instance that runs.
    struct Here {
        disk: OnDisk,
        fake: Fake,
        docker: Docker,
        which: Instances,
    }

    impl Here {
        async fn new() -> Self {
            let (disk, fake) = (OnDisk::empty(), Fake::start("1.45"));
            let one = kept("null");
            fake.put(instance("c1", &one.owner));
            let which = Instances {
                network: one.owner.network.clone(),
                namespace: one.owner.namespace.clone(),
                deploy: "00000000000000aa".parse().unwrap(),
                not_after: clock::now() + 60,
                instances: vec![one.owner.instance.clone()],
            };
            disk.local.change(|file| file.keep(one)).unwrap();
            let docker = fake.connect().await;
            Self { disk, fake, docker, which }
        }

        fn state(&self) -> String {
            let held = self.fake.state.lock();
            let state = held.containers.get("c1").map(|value| value["State"]["Status"].clone());
            state.map_or_else(|| "gone".into(), |state| state.as_str().unwrap().to_owned())
        }

        fn debt(&self, deploy: &DeployId, owed: Owed) -> Debt {
            let placed = Placed { machine: "n1".parse().unwrap(), instance: self.which.instances[0].clone() };
            Debt { deploy: deploy.clone(), owed, placed }
        }

        async fn settle(&self, debts: &[Debt]) {
            let own = "n1".parse().unwrap();
            crate::deploy::agent::pending::settle(
                &self.disk.local,
                &self.docker,
                &own,
                &self.which.namespace,
                debts,
            )
            .await
            .unwrap();
        }
    }

    #[tokio::test]
    async fn a_restore_that_comes_during_a_stop_waits_for_its_end() {
        let here = Here::new().await;
        here.fake.state.lock().stops_take = Duration::from_millis(400);
        let (stopped, restored) = tokio::join!(stop(&here.disk.local, &here.docker, &here.which), async {
            while here.fake.asked("/stop").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            restore(&here.disk.local, &here.docker, &here.which).await
        });
        assert_eq!((stopped, restored), (Ok(DeployAnswer::Done), Ok(DeployAnswer::Done)));
        assert_eq!(here.state(), "running", "it was said to run, and ended after that");
    }

    #[tokio::test]
    async fn a_stop_that_was_cut_off_in_its_grace_is_over_before_the_restore() {
        let here = Here::new().await;
        here.fake.state.lock().stops_take = Duration::from_millis(400);
        let cut = stop(&here.disk.local, &here.docker, &here.which);
        let cut = tokio::time::timeout(Duration::from_millis(200), cut).await;
        assert!(cut.is_err() && here.state() == "running");
        restore(&here.disk.local, &here.docker, &here.which).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(here.state(), "running");
    }

    #[tokio::test]
    async fn only_what_a_deploy_stopped_is_started_again() {
        let here = Here::new().await;
        here.docker.stop("c1", Duration::ZERO).await.unwrap();
        restore(&here.disk.local, &here.docker, &here.which).await.unwrap();
        assert_eq!(here.state(), "exited", "somebody else stopped it");
        here.docker.start("c1").await.unwrap();
        stop(&here.disk.local, &here.docker, &here.which).await.unwrap();
        restore(&here.disk.local, &here.docker, &here.which).await.unwrap();
        assert_eq!(here.state(), "running");
    }

    #[tokio::test]
    async fn a_command_that_waited_too_long_for_its_turn_is_too_late() {
        let here = Here::new().await;
        let late = Instances { not_after: clock::now() - 1, ..here.which.clone() };
        for refused in [
            stop(&here.disk.local, &here.docker, &late).await,
            restore(&here.disk.local, &here.docker, &late).await,
            remove(&here.disk.local, &here.docker, &late).await,
        ] {
            assert_eq!(refused, Err(Refused::TooLate));
        }
        assert_eq!(here.state(), "running");
    }

    #[tokio::test]
    async fn a_machine_that_comes_back_settles_what_it_owes() {
        let here = Here::new().await;
        stop(&here.disk.local, &here.docker, &here.which).await.unwrap();
        let other = "00000000000000bb".parse().unwrap();
        here.settle(&[here.debt(&other, Owed::Restore)]).await;
        assert_eq!(here.state(), "exited", "another deploy's stop");
        let debt = here.debt(&here.which.deploy, Owed::Restore);
        here.settle(std::slice::from_ref(&debt)).await;
        assert_eq!(here.state(), "running");
        here.docker.stop("c1", Duration::ZERO).await.unwrap();
        here.settle(&[debt]).await;
        assert_eq!(here.state(), "exited", "settled once, it is not done again");

        let mut elsewhere = here.debt(&other, Owed::Remove);
        elsewhere.placed.machine = "n2".parse().unwrap();
        here.settle(&[elsewhere]).await;
        assert_eq!(here.state(), "exited");
        here.settle(&[here.debt(&other, Owed::Remove)]).await;
        assert_eq!(here.state(), "gone");
        assert!(here.disk.local.read().unwrap().instances.is_empty());
    }
}
