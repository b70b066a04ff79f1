//! What a NATS user must be allowed, and nothing else: found by taking each away and seeing what fails (nats-server
//! 2.15.1, async-nats 0.51). All tests on real servers run with exactly these.
//!
//! A machine's leaf connection is one user on the founder: it must be allowed what its followers and its daemon are.

use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::subject::{self, DOMAIN, ROUTING_EVENTS};

/// Subjects that a user may publish and subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// To publish.
    pub publish: Vec<String>,
    /// To subscribe.
    pub subscribe: Vec<String>,
}

/// Of who follows the events ([`crate::events::Feed`]).
pub fn follower(machine: &MachineId, follower: &str) -> Rights {
    Rights {
        publish: vec![
            // With a filter the filter would be part of the subject; a follower reads all of the stream.
            format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.{ROUTING_EVENTS}.*"),
            // Without it a consumer stalls for ever after some 2 MB.
            format!("$JS.FC.{ROUTING_EVENTS}.>"),
        ],
        subscribe: vec![format!("{}.>", subject::sidecar_inbox(machine, follower))],
    }
}

/// What else a user may publish that reads and follows all of one KV bucket with the client library.
pub fn bucket_reader(bucket: &str) -> Vec<String> {
    vec![
        format!("$JS.{DOMAIN}.API.STREAM.INFO.KV_{bucket}"),
        // A watch names no consumer.
        format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.KV_{bucket}"),
        // Without flow control a watch stalls for ever after about 2 MB.
        format!("$JS.FC.KV_{bucket}.>"),
    ]
}

/// Of who writes them ([`crate::events::Publisher`]): what the machine itself is and runs, and, because every machine may commit
/// a deploy, all services.
pub fn publisher(network: &NetworkId, machine: &MachineId) -> Rights {
    let events = subject::routing(network);
    Rights {
        publish: vec![
            format!("{events}.machine.{machine}"),
            format!("{events}.instance.{machine}.>"),
            format!("{events}.service.>"),
            format!("$JS.{DOMAIN}.API.DIRECT.GET.{ROUTING_EVENTS}.{events}.>"),
        ],
        subscribe: vec![format!("{}.>", subject::inbox(machine))],
    }
}
