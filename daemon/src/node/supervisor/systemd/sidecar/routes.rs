//! Sockets that come and go while their service and its other sockets stay.
//!
//! systemd opens no socket of a service that runs ("already active, refusing"). But it orders jobs: told in one breath to
//! restart the service and to start a socket, it stops the service, opens the socket and starts the service, which is given
//! all sockets there are. Seen on systemd 252 and 257: 200 of 200 when both are asked for without waiting for an answer in
//! between, 195 of 200 otherwise; so what was too late is asked for once more.

use crate::node::supervisor::error::{UnitCause, UnitError};
use crate::node::supervisor::ports;
use crate::node::supervisor::systemd::sidecar::units::{restart, socket, start};
use crate::node::supervisor::systemd::{START_TIMEOUT, Systemd};
use futures_util::future::BoxFuture;
use ployz_core::adopt::Seen;
use ployz_core::adopt::sidecar::superfluous;
use ployz_core::live::SidecarLive;
use ployz_core::spec::{SidecarSpec, SocketSpec};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zbus_systemd::systemd1::ManagerProxy;
use zbus_systemd::zbus::{OwnedObjectPath, Result as BusResult};

type Asking = BoxFuture<'static, BusResult<OwnedObjectPath>>;

impl Systemd {
    /// Starts or restarts the service with the sockets that its routes ask for, as far as they can be had.
    pub(super) async fn put_routes(&self, spec: &SidecarSpec, mut begin: Begin) -> Result<(), UnitError> {
        let fail = |cause| UnitError::new("open sockets of", &spec.unit.name, cause);
        let mut failed: BTreeMap<String, String> = BTreeMap::new();
        for attempt in 0..TRIES {
            let live = match self.find_sidecar(spec).await.map_err(|error| fail(error.into()))? {
                Seen::Present(live) => live,
                Seen::Absent if begin == Begin::Start => nothing(spec),
                other => return Err(fail(UnitCause::Standing(other.standing()))),
            };
            let close = superfluous(spec, &live);
            let open = self.to_open(spec, &live, &failed).await;
            if attempt > 0 && close.is_empty() && open.is_empty() {
                return Ok(());
            }
            failed = self.put_with(spec, begin, close, &open).await?;
            begin = Begin::Restart;
        }
        self.unwilling.note(failed);
        Ok(())
    }

    /// What is missing and free. Of what was tried already, what the process that ends holds for a moment longer is waited for.
    async fn to_open(
        &self,
        spec: &SidecarSpec,
        live: &SidecarLive,
        failed: &BTreeMap<String, String>,
    ) -> Vec<SocketSpec> {
        let missing = spec.routes.wanted.iter().filter(|want| ports::is_missing(want, live));
        let mut open = Vec::new();
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        for socket in missing.filter(|want| !live.refused.contains_key(&want.purpose)) {
            while failed.contains_key(&socket.purpose)
                && ports::taken(socket).is_some()
                && Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            open.push(socket.clone());
        }
        open
    }

    /// One start or restart; returns what was not opened and why, by purpose.
    async fn put_with(
        &self,
        spec: &SidecarSpec,
        begin: Begin,
        close: Vec<String>,
        open: &[SocketSpec],
    ) -> Result<BTreeMap<String, String>, UnitError> {
        let jobs = |manager: ManagerProxy<'static>| {
            let mut jobs: Vec<Asking> = vec![match begin {
                Begin::Start => Box::pin(start(manager.clone(), spec.clone())),
                Begin::Restart => Box::pin(restart(manager.clone(), spec.unit.name.clone())),
            }];
            for unit in close.iter().map(|name| format!("{name}.socket")) {
                let manager = manager.clone();
                jobs.push(Box::pin(async move { manager.stop_unit(unit, "replace".into()).await }));
            }
            for wanted in open {
                let (manager, (unit, properties)) = (manager.clone(), socket(wanted));
                jobs.push(Box::pin(async move {
                    manager.start_transient_unit(unit, "fail".into(), properties, Vec::new()).await
                }));
            }
            jobs
        };
        let (name, operation) = (&spec.unit.name, begin.word());
        let mut ends = self.run_jobs(operation, name, START_TIMEOUT, jobs).await?.into_iter();
        let begun = ends.next().unwrap_or(Ok(()));
        begun.map_err(|cause| UnitError::new(operation, name, cause))?;
        let opened = ends.skip(close.len()).zip(open);
        Ok(opened
            .filter_map(|(end, socket)| Some((socket.purpose.clone(), ployz_core::text::chain(&end.err()?))))
            .collect())
    }
}

/// What the service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// It is not there.
    Start,
    /// It runs.
    Restart,
}

impl Begin {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

fn nothing(spec: &SidecarSpec) -> SidecarLive {
    let nothing = SidecarLive::default();
    SidecarLive { refused: ports::refused(spec, &nothing), ..nothing }
}

const TRIES: usize = 4;
/// The gateway closes its sockets when it is told to end, while its successor already starts.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
