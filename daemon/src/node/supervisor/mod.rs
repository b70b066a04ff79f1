//! Who runs the sidecars. Two hands with one contract: systemd's transient units, or detached processes where
//! there is no systemd. Neither needs ployzd to go on living.

pub mod error;
pub mod ports;
pub mod process;
pub mod systemd;
#[cfg(test)]
pub mod tests;

use error::UnitError;
use ployz_core::adopt::Seen;
use ployz_core::adopt::sidecar::Replace;
use ployz_core::live::{SidecarLive, UnitLive};
use ployz_core::spec::{SidecarSpec, UnitName, UnitSpec};

/// The supervisor in use.
#[derive(Clone)]
pub enum Supervisor {
    /// systemd over D-Bus.
    Systemd(systemd::Systemd),
    /// Detached processes.
    Process(process::Processes),
    /// A node in memory, which the reconciler inspects and changes instead of the machine.
    #[cfg(test)]
    Fake(tests::Fake),
}

impl Supervisor {
    /// `system` or `user`, the service modes of `ployzd run --service-mode`.
    pub fn service_mode(&self) -> &'static str {
        match self {
            Self::Systemd(_) => "system",
            Self::Process(_) => "user",
            #[cfg(test)]
            Self::Fake(_) => "fake",
        }
    }

    /// What runs under this name.
    pub async fn inspect(&self, name: &UnitName) -> Seen<UnitLive> {
        match self {
            Self::Systemd(hands) => hands.inspect(name).await,
            Self::Process(hands) => hands.inspect(name).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// Starts a unit that is not there; returns when it runs (or is ready, for one that notifies).
    pub async fn start(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        match self {
            Self::Systemd(hands) => hands.start(spec).await,
            Self::Process(hands) => hands.start(spec).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// Stops a unit and forgets it; one that is not there is no error.
    pub async fn stop(&self, name: &UnitName) -> Result<(), UnitError> {
        match self {
            Self::Systemd(hands) => hands.stop(name).await,
            Self::Process(hands) => hands.stop(name).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// What runs of a process with sockets, and which of those are there.
    pub async fn inspect_sidecar(&self, spec: &SidecarSpec) -> Seen<SidecarLive> {
        match self {
            Self::Systemd(hands) => hands.inspect_sidecar(spec).await,
            Self::Process(hands) => hands.inspect_sidecar(spec).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// Starts a process with its sockets, or makes anew as much as `what` says of what is there.
    pub async fn put_sidecar(&self, spec: &SidecarSpec, what: Replace) -> Result<(), UnitError> {
        match self {
            Self::Systemd(hands) => hands.put_sidecar(spec, what).await,
            Self::Process(hands) => hands.put_sidecar(spec).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// Stops a process, all that is left of earlier ones, and its sockets.
    pub async fn stop_sidecar(&self, name: &UnitName) -> Result<(), UnitError> {
        match self {
            Self::Systemd(hands) => hands.stop_sidecar(name).await,
            Self::Process(hands) => hands.stop(name).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }

    /// Makes a unit read its settings again.
    pub async fn reload(&self, spec: &UnitSpec) -> Result<(), UnitError> {
        match self {
            Self::Systemd(hands) => hands.reload(spec).await,
            Self::Process(hands) => hands.reload(spec).await,
            #[cfg(test)]
            Self::Fake(_) => unreachable!("the reconciler asks a fake before it comes here"),
        }
    }
}
