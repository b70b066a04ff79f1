//! Values for tests.

use crate::table::Table;
use ployz_core::id::{DeployId, InstanceId, MachineId};
use ployz_core::routing::{HttpRoute, InstanceRoute, ServiceRef, ServiceRoute, State};
use ployz_nats::events::View;
use std::net::Ipv4Addr;

/// The table of one service with one route for `/` of a host.
pub fn table(host: &str, addresses: &[[u8; 4]], port: u16) -> Table {
    let service = ServiceRef { namespace: "shop".parse().unwrap(), service: "web".parse().unwrap() };
    let machine: MachineId = "node-1".parse().unwrap();
    let deploy = DeployId::from_bytes([7; 8]);
    let route = HttpRoute {
        host: host.into(),
        path: "/".into(),
        port,
        https_only: false,
        timeout_secs: None,
        max_body: None,
        rate_limit: None,
    };
    let running = addresses.iter().enumerate().map(|(slot, address)| {
        let id: InstanceId = format!("web-{slot}").parse().unwrap();
        let instance = InstanceRoute {
            address: Ipv4Addr::from(*address),
            revision: "r".into(),
            deploy: deploy.clone(),
            slot: slot as u32,
            ready: true,
            draining: false,
        };
        ((id, machine.clone()), instance)
    });
    let mut state = State::default();
    state.instances.insert(service.clone(), running.collect());
    let instances = state.instances[&service].keys().map(|(id, _)| id.clone()).collect();
    let wanted = ServiceRoute {
        deploy,
        revision: "r".into(),
        instances,
        ports: vec![],
        http: vec![route],
        tcp: vec![],
    };
    state.services.insert(service, wanted);
    Table::of(&state)
}
