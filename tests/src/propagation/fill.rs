//! Routes of services that nobody runs, as deploys and daemons write them: what a gateway and a DNS server have to know.

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use ployz_core::id::{DeployId, MachineId};
use ployz_core::routing::{HttpRoute, InstanceRoute, Key, ServicePort, ServiceRef, ServiceRoute, Value};
use ployz_nats::dialect::Dialect;
use ployz_nats::events::Publisher;

use super::Store;

/// Writes `services` services in namespaces of a hundred, each with one route, one port and an instance on every machine.
pub async fn fill(store: &Store, services: usize, machines: &[MachineId]) -> Result<()> {
    let publisher = Publisher::new(&store.client, &store.network, Dialect::Domain);
    let mut events = Vec::new();
    for number in 0..services {
        events.extend(routes(number, machines)?);
    }
    let written = stream::iter(events).map(Ok::<_, anyhow::Error>);
    written
        .try_for_each_concurrent(AT_ONCE, |(key, value)| {
            let publisher = publisher.clone();
            async move { publisher.put(&key, &value).await.map(drop).context("write a route") }
        })
        .await
}

fn routes(number: usize, machines: &[MachineId]) -> Result<Vec<(Key, Value)>> {
    let (deploy, revision) = (DeployId::from_bytes([7; 8]), "0123456789ab".to_owned());
    let name = format!("s{number}");
    let service = ServiceRef { namespace: format!("fill-{}", number / 100).parse()?, service: name.parse()? };
    let (mut found, mut instances) = (Vec::new(), Vec::new());
    for (slot, machine) in (0_u32..).zip(machines) {
        let instance = format!("{name}-{slot}-aaaaa").parse()?;
        let address = format!("10.101.{slot}.{}", 10 + number % 200).parse()?;
        let route = InstanceRoute {
            address,
            revision: revision.clone(),
            deploy: deploy.clone(),
            slot,
            ready: true,
            draining: false,
        };
        instances.push(Clone::clone(&instance));
        let key = Key::Instance(machine.clone(), service.clone(), instance);
        found.push((key, Value::Instance(route)));
    }
    let http = HttpRoute {
        host: format!("{name}.example.org"),
        path: "/".into(),
        port: 8080,
        https_only: false,
        timeout_secs: None,
        max_body: None,
        rate_limit: None,
    };
    let port = ServicePort { name: "http".into(), port: 8080, protocol: "tcp".into() };
    let route = ServiceRoute {
        deploy,
        revision,
        instances: instances.into_iter().collect(),
        ports: vec![port],
        http: vec![http],
        tcp: Vec::new(),
    };
    found.push((Key::Service(service), Value::Service(route)));
    Ok(found)
}

const AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_one_of_its_key() {
        let machines = ["n1".parse().unwrap(), "n2".parse().unwrap()];
        let routes = routes(999, &machines).unwrap();
        assert_eq!(routes.len(), 3);
        assert!(routes.iter().all(|(key, value)| value.fits(key)));
    }
}
