//! What services take for themselves in the whole cluster: routes, and published ports beside TCP routes.
//!
//! A gateway listens on every machine, so no service may publish a port of a TCP route, on any machine: the two would wait
//! for each other's end, and a container that is replaced or restarted would not get its port back.

use crate::deploy::refusal::PlanError;
use crate::id::{Namespace, ServiceName};
use crate::routing::ServiceRef;
use crate::wire::v1::deploy::DeployCommit;
use crate::wire::v1::manifest::{Protocol, Route, Service};
use std::collections::BTreeMap;

/// What services have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Routes, by [`Route::key`].
    pub routes: BTreeMap<String, ServiceRef>,
    /// TCP ports of machines that they publish.
    pub ports: BTreeMap<u16, ServiceRef>,
}

impl Claims {
    /// Adds everything that is committed of a namespace.
    pub fn add(&mut self, commit: &DeployCommit) {
        for (name, committed) in &commit.services {
            self.add_service(&commit.namespace, name, &committed.service);
        }
    }

    /// Adds one service's.
    pub fn add_service(&mut self, namespace: &Namespace, name: &ServiceName, service: &Service) {
        let owner = ServiceRef { namespace: namespace.clone(), service: name.clone() };
        self.routes.extend(service.routes.iter().map(|route| (route.key(), owner.clone())));
        self.ports.extend(published(service).map(|port| (port, owner.clone())));
    }

    /// Whether a service can have what it asks for beside all this.
    pub fn leave(&self, namespace: &Namespace, service: &Service) -> Result<(), PlanError> {
        let own = ServiceRef { namespace: namespace.clone(), service: service.name.clone() };
        let others = |owner: &&ServiceRef| **owner != own;
        for route in &service.routes {
            if let Some(owner) = self.routes.get(&route.key()).filter(others) {
                let (service, route) = (service.name.clone(), route.key());
                return Err(PlanError::RouteTaken { service, route, owner: owner.clone() });
            }
            if let Some((port, publisher)) = listens(route).and_then(|port| self.ports.get_key_value(&port)) {
                let (port, route, publisher) = (*port, own, publisher.clone());
                return Err(PlanError::PortShared { port, route, publisher });
            }
        }
        for port in published(service) {
            if let Some(route) = self.routes.get(&format!("tcp {port}")) {
                return Err(PlanError::PortShared { port, route: route.clone(), publisher: own });
            }
        }
        Ok(())
    }
}

fn listens(route: &Route) -> Option<u16> {
    match route {
        Route::Tcp(route) => Some(route.listen),
        Route::Http(_) => None,
    }
}

fn published(service: &Service) -> impl Iterator<Item = u16> + '_ {
    service.published().filter(|(protocol, _)| *protocol == Protocol::Tcp).map(|(_, port)| port)
}
