//! Taking up what should be running when the daemon starts, and again when that failed.

use crate::failure::{Failure, Result};
use crate::lifecycle::Daemon;
use crate::membership::join;
use crate::state::{Removal, Stored};
use ployz_core::adopt::Trigger;
use ployz_core::id::NetworkName;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_host::backoff::Backoff;
use std::sync::Arc;
use std::time::Duration;

impl Daemon {
    /// At the daemon's start. Trouble is logged, never fatal: the data plane is better left alone with a daemon that can say
    /// so. What failed (a full disk, a unit that would not stop) is tried again.
    pub async fn resume(self: &Arc<Self>) {
        if let Err(failure) = self.resume_once().await {
            log(&failure);
            // What is held waits for the operator.
            if failure.code != ErrorCode::IdentityHeld {
                self.resume_later();
            }
        }
    }

    /// Tries again and again, ever less often, until what should be running is, or nothing should be.
    pub(super) fn resume_later(self: &Arc<Self>) {
        let daemon = self.clone();
        tokio::spawn(async move {
            let (mut backoff, mut last) = (Backoff::new(RETRY_DELAY, RETRY_DELAY_MAX), String::new());
            loop {
                tokio::time::sleep(backoff.delay()).await;
                let Err(failure) = daemon.resume_once().await else { return };
                if failure.code == ErrorCode::IdentityHeld {
                    return log(&failure);
                }
                let told = format!("{failure}: {}", failure.causes.join(": "));
                if told != last {
                    log(&failure);
                    last = told;
                }
            }
        });
    }

    async fn resume_once(self: &Arc<Self>) -> Result<()> {
        let _alone = self.exclusive.lock().await;
        if self.current().is_some() {
            return Ok(());
        }
        if let Err(failure) = join::clear_leftover(&self.shared).await {
            log(&failure);
        }
        let active = self.shared.disk.active()?;
        if let Err(failure) = self.remove_left(active.as_ref()) {
            log(&failure);
        }
        match active {
            Some(active) => self.resume_network(&active).await,
            None => Ok(()),
        }
    }

    /// Removes networks whose destruction was cut short after their data plane was taken down: they are not active any more.
    fn remove_left(&self, active: Option<&NetworkName>) -> Result<()> {
        let disk = &self.shared.disk;
        for name in disk.networks()?.iter().filter(|name| Some(*name) != active) {
            if disk.network(name)?.is_some_and(|network| network.lifecycle == Stored::Leaving) {
                Removal::SetAside.apply(disk, name)?;
            }
        }
        Ok(())
    }

    async fn resume_network(self: &Arc<Self>, name: &NetworkName) -> Result<()> {
        let (network, keys) = self.load(name)?;
        match network.lifecycle {
            // A stop or a destruction that was cut short: the record said so first, the data plane follows.
            // On whose word is not known any more.
            Stored::Stopped | Stored::Leaving => self.finish_stop(&network, &keys, Removal::SetAside).await,
            Stored::Running => self.bring_up(network, keys, Trigger::Startup).await.map(|_| ()),
            Stored::Joining { .. } => {
                let mesh = self.bring_up(network, keys, Trigger::Startup).await?;
                tokio::spawn(self.clone().finish_join(mesh));
                Ok(())
            }
        }
    }
}

fn log(failure: &Failure) {
    tracing::error!(
        code = %failure.code,
        causes = failure.causes.join("; "),
        error = %failure,
        "cannot resume the running network"
    );
}

const RETRY_DELAY: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
