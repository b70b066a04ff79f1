//! Deploys: the coordinator plans one and carries it out, the agent does this machine's part of every deploy.
//!
//! The decisions are `ployz_core::deploy`'s. Both halves talk over the store ([`ployz_nats::rpc`]), on one machine too.
//! What is next follows from two durable records and nothing else, so a coordinator may die anywhere: the next deploy to
//! the namespace, or the daemon that was cut off when it starts again, finishes or undoes what it finds.

pub mod agent;
pub mod coordinator;

use crate::network::Network;
use agent::instances::Local;
use coordinator::attended::Running;
use ployz_engine::watch::{Checks, View};
use std::sync::Arc;
use tokio::sync::watch;

/// The deploys of one running network on this machine: what both halves share.
pub struct Deploys {
    /// The network.
    pub network: Arc<Network>,
    /// What deploys made on this machine.
    pub local: Local,
    /// The containers of this machine.
    pub workloads: watch::Sender<View>,
    /// How they are asked whether they are ready.
    pub readiness: watch::Sender<Checks>,
    /// Deploys that this machine carries out, and those that ended lately.
    pub attended: Running,
}

impl Deploys {
    /// Of a network, from what is on disk.
    pub fn open(network: Arc<Network>) -> Arc<Self> {
        let local = Local::open(&network.shared.disk, &network.network().name);
        Arc::new(Self {
            network,
            workloads: watch::Sender::new(View::default()),
            readiness: local.checks(),
            local,
            attended: Running::default(),
        })
    }
}
