//! What both halves of deploys share on this machine.

use crate::deploy::agent::instances::Local;
use crate::deploy::coordinator::attended::Running;
use crate::failure::{Failure, Result};
use crate::network::context::Network;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_engine::watch::{Checks, View};
use ployz_nats::deploys::Records;
use ployz_nats::store::Store;
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

/// The store's connection and the records in it.
pub async fn open(mesh: &Network) -> Result<(Store, Records)> {
    let away = || Failure::new(ErrorCode::StoreUnavailable, "the store is not connected");
    let store = mesh.store.borrow().clone().ok_or_else(away)?;
    let records = Records::open(&store).await?;
    Ok((store, records))
}
