//! What the network relies on in the host, looked at now (docs/host.md).

use super::Ground;
use crate::host::{self, Scene};
use ployz_core::wire::v1::doctor::Check;

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let data_dir = &ground.config().data_dir;
    match &ground.network {
        None => vec![host::room("disk", data_dir)],
        Some(running) => {
            let (spec, live, machines) = (&running.spec, &running.live, &running.peers.machines);
            host::look(&Scene { spec, live, machines, data_dir }).await
        }
    }
}
