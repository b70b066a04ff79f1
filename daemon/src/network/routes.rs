//! This machine's own routing event: its addresses, for the names that DNS answers and the routes of the gateways.

use crate::state::NetworkFile;
use ployz_core::routing::{Key, MachineRoute, Value};
use ployz_nats::events::PublishError;
use ployz_nats::store::Store;

/// Says where this machine is, unless the stream says so already.
pub async fn publish(store: &Store, network: &NetworkFile) -> Result<(), PublishError> {
    let publisher = store.publisher();
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
    let publisher = store.publisher();
    publisher.remove(&Key::Machine(network.machine.id.clone())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{Machine, Server};
    use ployz_nats::events::ensure_stream;

    #[tokio::test]
    async fn a_machine_says_where_it_is_once_and_again_where_that_cannot_be_read() {
        let (server, machine) = (Server::start("routes"), Machine::founder("routes-n1"));
        let network = machine.mesh.network();
        let store = server.store(&network.id).await;
        ensure_stream(store.client(), &network.id).await.unwrap();
        let publisher = store.publisher();
        let key = Key::Machine(network.machine.id.clone());
        publish(&store, &network).await.unwrap();
        let first = publisher.current(&key).await.unwrap();
        publish(&store, &network).await.unwrap();
        assert_eq!(publisher.current(&key).await.unwrap(), first, "no event without news");
        let subject = format!("{}.{key}", ployz_core::wire::v1::subject::routing(&network.id));
        let js = async_nats::jetstream::with_domain(store.client().clone(), "hub");
        js.publish(subject, "junk".into()).await.unwrap().await.unwrap();
        publisher.current(&key).await.unwrap_err();
        publish(&store, &network).await.unwrap();
        assert_eq!(publisher.current(&key).await.unwrap().value, first.value);
        let mut moved = network.clone();
        moved.machine.subnet = network.plan.slice(9).unwrap();
        publish(&store, &moved).await.unwrap();
        assert_ne!(publisher.current(&key).await.unwrap().value, first.value);
        withdraw(&store, &network).await.unwrap();
        assert_eq!(publisher.current(&key).await.unwrap().value, None);
    }
}
