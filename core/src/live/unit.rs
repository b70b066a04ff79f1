//! A sidecar process as found by its supervisor.

use crate::adopt::identity::Identity;
use crate::live::NsId;

/// One supervised process: a systemd unit, or a detached process where there is no systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLive {
    /// Its identity fields, read back (not remembered).
    pub identity: Identity,
    /// The fingerprint it carries, of whatever version; `None` = it carries none and is not ours.
    pub fingerprint: Option<String>,
    /// Whether it runs.
    pub state: ActiveState,
    /// Its main process; 0 when none runs.
    pub pid: u32,
    /// The network namespace that the main process is really in.
    pub netns: Option<NsId>,
}

/// Whether a unit runs, in systemd's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveState {
    /// It runs and, if it notifies, has said that it is ready.
    Active,
    /// Between states: starting, stopping or waiting for its restart.
    Changing,
    /// Stopped, or failed for good.
    Inactive,
}
