//! What a NATS user must be allowed, and nothing else: found by taking each away and seeing what fails (nats-server
//! 2.15.1, async-nats 0.51). All tests on real servers run with exactly these.
//!
//! A machine's leaf connection is one user on the founder: it must be allowed what its followers and its daemon are.
//! Each right is there in both [`crate::dialect::Dialect`]s: which of them is spoken is the founder's server's choice.

use crate::dialect::{PREFIX, live};
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::subject::{
    self, CERTIFICATES, DEPLOY_COMMITS, DEPLOY_STATUS, DOMAIN, INVITES, LOCKS, MACHINES, ROUTING_EVENTS,
};

/// Subjects that a user may publish and subscribe to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// To publish.
    pub publish: Vec<String>,
    /// To subscribe.
    pub subscribe: Vec<String>,
}

impl Rights {
    /// With those of another too.
    pub fn and(mut self, other: Self) -> Self {
        self.publish.extend(other.publish);
        self.subscribe.extend(other.subscribe);
        self
    }
}

/// Of who follows the events ([`crate::events::Feed`]).
pub fn follower(machine: &MachineId, follower: &str) -> Rights {
    let consumer = Rights {
        publish: vec![
            // With a filter the filter would be part of the subject; a follower reads all of the stream.
            format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.{ROUTING_EVENTS}.*"),
            // Without it a consumer stalls for ever after some 2 MB.
            format!("$JS.FC.{ROUTING_EVENTS}.>"),
        ],
        subscribe: vec![format!("{}.>", subject::sidecar_inbox(machine, follower))],
    };
    consumer.and(stream_reader(ROUTING_EVENTS))
}

/// What else a user may do that reads and follows all of one KV bucket.
pub fn bucket_reader(bucket: &str) -> Rights {
    let consumer = Rights {
        publish: vec![
            format!("$JS.{DOMAIN}.API.STREAM.INFO.KV_{bucket}"),
            // A watch names no consumer.
            format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.KV_{bucket}"),
            // Without flow control a watch stalls for ever after about 2 MB.
            format!("$JS.FC.KV_{bucket}.>"),
        ],
        subscribe: Vec::new(),
    };
    consumer.and(stream_reader(&format!("KV_{bucket}")))
}

/// To read and follow a stream across the border of the store's account.
fn stream_reader(stream: &str) -> Rights {
    Rights {
        publish: vec![format!("{PREFIX}.STREAM.INFO.{stream}"), format!("{PREFIX}.DIRECT.GET.{stream}")],
        subscribe: vec![format!("{}.>", live(stream))],
    }
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
            format!("{PREFIX}.DIRECT.GET.{ROUTING_EVENTS}.{events}.>"),
        ],
        subscribe: vec![format!("{}.>", subject::inbox(machine))],
    }
}

/// Of a member's ployzd, and of its leaf connection, which carries what its sidecars ask for too: which of them asks is
/// not told by the subject. It reads and follows the buckets, writes records, serves its own commands.
pub fn member(network: &NetworkId, machine: &MachineId) -> Rights {
    let mut rights = Rights::default();
    for bucket in BUCKETS {
        rights = rights.and(bucket_member(bucket));
    }
    rights.publish.extend([
        // Every machine may coordinate; the stream itself refuses a second decision on a deploy.
        subject::deploy_commits(network),
        format!("$JS.{DOMAIN}.API.DIRECT.GET.{DEPLOY_COMMITS}.>"),
        format!("{PREFIX}.DIRECT.GET.{DEPLOY_COMMITS}.>"),
        format!("ployz.v1.{network}.rpc.>"),
        // To answer: in one account with who asked, and across the border of the store's.
        "_INBOX.>".to_owned(),
        "_R_.>".to_owned(),
    ]);
    rights.subscribe.push(subject::rpc_all(network, machine));
    let mut rights = rights.and(follower(machine, "")).and(publisher(network, machine));
    // The machine's inbox holds those of its sidecars.
    rights.subscribe.retain(|subject| *subject != format!("{}.>", subject::sidecar_inbox(machine, "")));
    rights
}

/// All of a bucket. With the client library, found by trying each alone.
fn bucket_member(bucket: &str) -> Rights {
    let publish = vec![
        format!("$JS.{DOMAIN}.API.STREAM.INFO.KV_{bucket}"),
        format!("$JS.{DOMAIN}.API.DIRECT.GET.KV_{bucket}"),
        format!("$JS.{DOMAIN}.API.DIRECT.GET.KV_{bucket}.>"),
        format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.KV_{bucket}"),
        format!("$JS.{DOMAIN}.API.CONSUMER.CREATE.KV_{bucket}.>"),
        format!("$JS.{DOMAIN}.API.CONSUMER.DELETE.KV_{bucket}.*"),
        format!("$JS.{DOMAIN}.API.CONSUMER.INFO.KV_{bucket}.*"),
        // Without flow control a watch stalls for ever after about 2 MB.
        format!("$JS.FC.KV_{bucket}.>"),
        // All keys: a member that issues invites makes the record of the machine it lets in; certificates with their
        // private keys, because every machine's gateway serves them and an operator at any machine imports them.
        format!("$JS.{DOMAIN}.API.$KV.{bucket}.>"),
        format!("{PREFIX}.$KV.{bucket}.>"),
        format!("{PREFIX}.DIRECT.GET.KV_{bucket}.>"),
    ];
    Rights { publish, subscribe: Vec::new() }.and(stream_reader(&format!("KV_{bucket}")))
}

/// The buckets of the store.
const BUCKETS: [&str; 5] = [MACHINES, INVITES, LOCKS, DEPLOY_STATUS, CERTIFICATES];
