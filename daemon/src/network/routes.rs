//! This machine's own routing event: its addresses, for the names that DNS answers and the routes of the gateways.

use crate::state::NetworkFile;
use ployz_core::routing::{Key, MachineRoute, Value};
use ployz_nats::events::{PublishError, Publisher};
use ployz_nats::store::Store;

/// Says where this machine is, unless the stream says so already.
pub async fn publish(store: &Store, network: &NetworkFile) -> Result<(), PublishError> {
    let publisher = Publisher::new(store.client().clone(), &network.id);
    let key = Key::Machine(network.machine.id.clone());
    let route = MachineRoute { overlay_ip: network.machine.overlay_ip, subnet: network.machine.subnet };
    let wanted = Value::Machine(route);
    match publisher.current(&key).await {
        Ok(current) if current.value.as_ref() == Some(&wanted) => Ok(()),
        // What cannot be read is replaced: the key is this machine's alone.
        Ok(_) | Err(PublishError::Damaged { .. }) => publisher.put(&key, &wanted).await.map(drop),
        Err(error) => Err(error),
    }
}

/// Takes this machine's event away.
pub async fn withdraw(store: &Store, network: &NetworkFile) -> Result<(), PublishError> {
    let publisher = Publisher::new(store.client().clone(), &network.id);
    publisher.remove(&Key::Machine(network.machine.id.clone())).await.map(drop)
}
