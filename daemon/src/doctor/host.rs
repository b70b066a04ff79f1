//! What the network relies on in the host, looked at now (docs/host.md).

use super::context::{Ground, Running};
use crate::network::context::Shared;
use crate::node::host::{self, Scene};
use crate::node::identity::check as identity_check;
use ployz_core::wire::v1::doctor::{Check, Level};

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

/// Whether the state here is this machine's, and the keys that two machines use. True: the network is held for that.
pub(super) fn identity(shared: &Shared, running: Option<&Running>) -> (Vec<Check>, bool) {
    let found = shared.identities.borrow().clone();
    let key = running.map(|running| running.spec.wireguard.private_key.public());
    let is_up = running
        .and_then(|running| running.live.wireguard.present())
        .is_some_and(|device| device.public_key.is_some() && device.public_key == key);
    let name = shared.disk.active().ok().flatten();
    // What the peers say of this machine's key says more than that the state is its own.
    let contested = found.iter().any(|check| check.check == "identity");
    let own = name.filter(|_| !contested).map(|name| identity_check(&shared.disk, &name, is_up));
    let held = own.as_ref().is_some_and(|check| check.level == Level::Fail);
    (own.into_iter().chain(found).collect(), held)
}
