//! Routing events: the whole value of one key each, so that the last event of a key says all there is to say of it.

use crate::address::NodeSubnet;
use crate::id::{DeployId, InstanceId, InvalidId, MachineId, Namespace, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A service in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub service: ServiceName,
}

/// What an event is about; as text the last part of its subject.
///
/// A machine writes only keys that begin with `machine.<itself>` or `instance.<itself>`; services are written by
/// the coordinator that commits a deploy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `machine.<machine>`
    Machine(MachineId),
    /// `service.<namespace>.<service>`
    Service(ServiceRef),
    /// `instance.<machine>.<namespace>.<service>.<instance>`
    Instance(MachineId, ServiceRef, InstanceId),
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Value {
    /// Of [`Key::Machine`].
    Machine(MachineRoute),
    /// Of [`Key::Service`].
    Service(ServiceRoute),
    /// Of [`Key::Instance`].
    Instance(InstanceRoute),
}

/// One change: the key's new value, or `None` when it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub key: Key,
    /// Its value now.
    pub value: Option<Value>,
}

/// Something in the stream that the contract does not allow, or that a later release wrote.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A subject that is no key: it is about nothing, so it changes nothing.
    #[error("an event names no key")]
    Key(#[source] InvalidId),
    /// A value that is no value.
    #[error("the value of {key} cannot be read")]
    Value {
        /// Whose.
        key: Key,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A value of another kind than its key.
    #[error("the value of {0} belongs to another kind of key")]
    Kind(Key),
}

/// Addresses of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRoute {
    /// Overlay IPv6 address.
    pub overlay_ip: Ipv6Addr,
    /// Its node subnet; `.2` is its service address.
    pub subnet: NodeSubnet,
}

/// What a committed deploy says of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// The deploy that committed this.
    pub deploy: DeployId,
    /// Fingerprint of the service's part of the manifest.
    pub revision: String,
    /// The instances that are current: one a slot. Others, although they run, are not routed to.
    pub instances: BTreeSet<InstanceId>,
    /// Ports the containers listen on.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Requests the gateway takes for it.
    #[serde(default)]
    pub http: Vec<HttpRoute>,
    /// Connections the gateway takes for it.
    #[serde(default)]
    pub tcp: Vec<TcpRoute>,
}

/// A port of a service, also an SRV name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name, a DNS label; the SRV owner is `_<name>._<protocol>.<service>...`.
    pub name: String,
    /// Port in the container.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// Requests for a host and path prefix go to a port of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// Host name in lower case; `*.example.org` matches exactly one label more; `*` matches every host.
    pub host: String,
    /// Path prefix, matched by whole segments; `/` matches everything.
    #[serde(default = "root")]
    pub path: String,
    /// Port in the container.
    pub port: u16,
    /// Answer plain HTTP with a redirect to HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub https_only: bool,
    /// Seconds until the first byte of an answer; the gateway's default otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u32>,
    /// Largest request body in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    /// Requests a second from one client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
}

/// Connections to a port of every gateway go to a port of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpRoute {
    /// Port of the gateway.
    pub listen: u16,
    /// Port in the container.
    pub port: u16,
}

/// One running copy of a service, said by the machine that runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRoute {
    /// Address of its container, in the machine's node subnet.
    pub address: Ipv4Addr,
    /// Revision it was made from.
    pub revision: String,
    /// Deploy it was made by.
    pub deploy: DeployId,
    /// Its slot, from 0.
    pub slot: u32,
    /// Whether it passed its readiness check and still runs.
    pub ready: bool,
    /// Whether it is being taken out of service: connections that exist go on, new ones go elsewhere.
    #[serde(default)]
    pub draining: bool,
}

impl Event {
    /// Reads what the stream holds: the last part of a subject, and its message; an empty one says that the key is gone.
    pub fn parse(key: &str, payload: &[u8]) -> Result<Self, Unreadable> {
        let key: Key = key.parse().map_err(Unreadable::Key)?;
        if payload.is_empty() {
            return Ok(Self { key, value: None });
        }
        match serde_json::from_slice::<Value>(payload) {
            Ok(value) if value.fits(&key) => Ok(Self { key, value: Some(value) }),
            Ok(_) => Err(Unreadable::Kind(key)),
            Err(source) => Err(Unreadable::Value { key, source }),
        }
    }
}

impl Unreadable {
    /// What it has to count as: its key is gone.
    ///
    /// The value before it is gone from the stream. A follower that kept it would differ from one that starts now,
    /// until its next rebuild dropped it at an arbitrary moment.
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::Key(_) => None,
            Self::Value { key, .. } | Self::Kind(key) => Some(Event { key: key.clone(), value: None }),
        }
    }
}

impl Value {
    /// Whether this is a value such a key can have.
    pub fn fits(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Self::Machine(_), Key::Machine(_))
                | (Self::Service(_), Key::Service(_))
                | (Self::Instance(_), Key::Instance(..))
        )
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.service)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(machine) => write!(f, "machine.{machine}"),
            Self::Service(service) => write!(f, "service.{service}"),
            Self::Instance(machine, service, instance) => {
                write!(f, "instance.{machine}.{service}.{instance}")
            }
        }
    }
}

impl FromStr for Key {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts: Vec<&str> = text.split('.').collect();
        let service = |namespace: &str, service: &str| {
            Ok(ServiceRef { namespace: namespace.parse()?, service: service.parse()? })
        };
        match parts[..] {
            ["machine", machine] => Ok(Self::Machine(machine.parse()?)),
            ["service", namespace, name] => Ok(Self::Service(service(namespace, name)?)),
            ["instance", machine, namespace, name, instance] => {
                Ok(Self::Instance(machine.parse()?, service(namespace, name)?, instance.parse()?))
            }
            _ => Err(InvalidId {
                what: "routing key",
                text: text.to_owned(),
                rule: "machine., service. or instance.",
            }),
        }
    }
}

fn root() -> String {
    "/".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_message_says_that_the_key_is_gone() {
        let event = Event::parse("machine.n1", b"").unwrap();
        assert_eq!(event, Event { key: "machine.n1".parse().unwrap(), value: None });
    }

    #[test]
    fn fields_of_a_later_release_are_passed_over() {
        let text = br#"{"kind":"instance","address":"10.101.1.3","revision":"r","deploy":"00112233445566aa",
            "slot":0,"ready":true,"weight":3,"zone":{"a":[1]}}"#;
        let event = Event::parse("instance.n1.shop.web.web-1", text).unwrap();
        let Some(Value::Instance(route)) = event.value else { panic!("{event:?}") };
        assert!(route.ready && !route.draining);
    }

    #[test]
    fn what_cannot_be_read_counts_as_gone_and_says_why() {
        let machine = br#"{"kind":"machine","overlay_ip":"fd00::1","subnet":"10.101.1.0/24"}"#;
        assert!(Event::parse("machine.n1", machine).unwrap().value.is_some());
        for (key, payload) in [
            ("service.shop.web", machine.as_slice()),
            ("machine.n1", b"{".as_slice()),
            ("machine.n1", br#"{"kind":"planet"}"#),
            ("machine.n1", b"\xff"),
        ] {
            let said = Event::parse(key, payload).unwrap_err();
            assert_eq!(said.event(), Some(Event { key: key.parse().unwrap(), value: None }));
        }
        assert!(Event::parse("volume.n1", machine).unwrap_err().event().is_none());
    }

    #[test]
    fn keys_that_are_none() {
        for text in [
            "",
            "machine",
            "machine.",
            "machine.a.b",
            "machine.A",
            "service.a",
            "service.a.b.c",
            "instance.a.b.c",
            "a.b",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }
}
