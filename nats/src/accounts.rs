//! The accounts of the founder's server: who reaches the store, and by what.
//!
//! NATS looks at the subject that a message is published to, never at the one it is to be answered to. In one account
//! with the streams, the server would write its answer to any of them for any user who may ask it anything. So the
//! streams are in an account of their own with the founder's ployzd alone; the others reach it by services that are
//! named here one by one, and an answer comes back across the border to the asker's account, where no stream is
//! (tried on nats-server 2.15.1: `tests/accounts.rs`).
//!
//! Members are in one account, so that their commands to each other need no border; what each may say there is in
//! [`crate::permissions`]. A sidecar has an account of its own.

use crate::dialect::{PREFIX, live};
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::subject::{
    self, CERTIFICATES, DEPLOY_COMMITS, DEPLOY_STATUS, INVITES, LOCKS, MACHINES, ROUTING_EVENTS,
};
use std::fmt::Write as _;

/// The account of the streams and of the founder's ployzd.
pub const STORE: &str = "STORE";
/// The account of the other members.
pub const MEMBERS: &str = "MEMBERS";

/// One account as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Whether it holds the streams.
    pub jetstream: bool,
    /// What others may import from it.
    pub exports: Vec<Export>,
    /// What it imports.
    pub imports: Vec<Import>,
}

/// What an account offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// Requests to these subjects, answered once.
    Service(String),
    /// Requests to these subjects, answered by a page of messages.
    Pages(String),
    /// Messages of these subjects.
    Stream(String),
}

/// What an account uses of another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Whose.
    pub account: &'static str,
    /// What, as its owner has it.
    pub export: Export,
    /// By which name, if by another.
    pub name: Option<String>,
}

/// The accounts of a founder with these other members and these sidecars.
pub fn founder(
    network: &NetworkId,
    founder: &MachineId,
    members: &[&MachineId],
    sidecars: &[&str],
) -> Vec<Account> {
    let commands = |machine: &MachineId| Export::Service(subject::rpc_all(network, machine));
    let offered: Vec<Export> = STREAMS
        .iter()
        .flat_map(|stream| reading(stream))
        .chain(BUCKETS.iter().map(|bucket| written(bucket)))
        .chain([decisions(), Export::Service(subject::deploy_commits(network)), events(network)])
        .collect();
    let members_use = offered.iter().cloned().map(import).chain([import(commands(founder))]).collect();
    let mut accounts = vec![
        Account {
            name: STORE.into(),
            jetstream: true,
            exports: offered.into_iter().chain([commands(founder)]).collect(),
            // One by one: with a wildcard the founder's own would be a cycle.
            imports: members
                .iter()
                .map(|member| Import { account: MEMBERS, export: commands(member), name: None })
                .collect(),
        },
        Account {
            name: MEMBERS.into(),
            jetstream: false,
            exports: members.iter().map(|member| commands(member)).collect(),
            imports: members_use,
        },
    ];
    accounts.extend(sidecars.iter().map(|sidecar| Account {
        name: sidecar.to_uppercase(),
        jetstream: false,
        exports: Vec::new(),
        imports: read_by(sidecar).iter().flat_map(|stream| follows(stream)).map(import).collect(),
    }));
    accounts
}

impl Account {
    /// As the configuration has it, with its users, each a text of its own.
    pub fn text(&self, users: &str) -> String {
        let mut text = format!("  {}: {{\n", self.name);
        if self.jetstream {
            text.push_str("    jetstream: enabled\n");
        }
        let _ = write!(text, "    users: [\n{users}    ]\n");
        for (what, lines) in [
            ("exports", self.exports.iter().map(Export::text).collect::<Vec<_>>()),
            ("imports", self.imports.iter().map(Import::text).collect()),
        ] {
            if !lines.is_empty() {
                let _ = write!(text, "    {what}: [\n      {}\n    ]\n", lines.join("\n      "));
            }
        }
        text + "  }\n"
    }
}

impl Export {
    fn subject(&self) -> &str {
        match self {
            Self::Service(subject) | Self::Pages(subject) | Self::Stream(subject) => subject,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Service(subject) => {
                format!("{{ service: \"{subject}\", response_threshold: \"{ANSWER_LIMIT}\" }}")
            }
            Self::Pages(subject) => format!(
                "{{ service: \"{subject}\", response_type: stream, response_threshold: \"{PAGE_LIMIT}\" }}"
            ),
            Self::Stream(subject) => format!("{{ stream: \"{subject}\" }}"),
        }
    }
}

impl Import {
    fn text(&self) -> String {
        let what = match self.export {
            Export::Stream(_) => "stream",
            _ => "service",
        };
        let to = self.name.as_ref().map(|name| format!(", to: \"{name}\"")).unwrap_or_default();
        format!("{{ {what}: {{ account: {}, subject: \"{}\" }}{to} }}", self.account, self.export.subject())
    }
}

/// By the names of [`crate::dialect::Dialect::Border`].
fn import(export: Export) -> Import {
    let subject = export.subject();
    let name = match subject.strip_prefix("$JS.API.") {
        Some(call) => Some(format!("{PREFIX}.{call}")),
        None if subject.starts_with("$KV.") => Some(format!("{PREFIX}.{subject}")),
        None => None,
    };
    Import { account: STORE, name, export }
}

/// To read a stream whole and to follow it.
fn follows(stream: &str) -> [Export; 3] {
    [
        Export::Service(format!("$JS.API.STREAM.INFO.{stream}")),
        Export::Pages(format!("$JS.API.DIRECT.GET.{stream}")),
        Export::Stream(format!("{}.>", live(stream))),
    ]
}

/// And single keys of it.
fn reading(stream: &str) -> Vec<Export> {
    let keys = Export::Service(format!("$JS.API.DIRECT.GET.{stream}.>"));
    follows(stream).into_iter().chain([keys]).collect()
}

fn written(bucket: &str) -> Export {
    Export::Service(format!("$KV.{bucket}.>"))
}

fn decisions() -> Export {
    Export::Service(format!("$JS.API.DIRECT.GET.{DEPLOY_COMMITS}.>"))
}

fn events(network: &NetworkId) -> Export {
    Export::Service(format!("{}.>", subject::routing(network)))
}

/// The streams that a sidecar reads: certificates have private keys, which only the gateway needs.
fn read_by(sidecar: &str) -> &'static [&'static str] {
    match sidecar {
        "gateway" => &[ROUTING_EVENTS, "KV_certificates"],
        _ => &[ROUTING_EVENTS],
    }
}

const BUCKETS: [&str; 5] = [MACHINES, INVITES, LOCKS, DEPLOY_STATUS, CERTIFICATES];
const STREAMS: [&str; 6] =
    ["KV_machines", "KV_invites", "KV_locks", "KV_deploy_status", "KV_certificates", ROUTING_EVENTS];
/// How long a border remembers whom an answer goes to: longer than any command takes.
const ANSWER_LIMIT: &str = "20m";
/// The same between two messages of a page. Every reader asks once a second.
const PAGE_LIMIT: &str = "5s";
