//! Shell completion. The script a shell loads calls `ployzctl` back, so names of networks, machines, invites
//! and services are live.
//!
//! A daemon that is away or slow gives no candidates and no message: completion must never get in the way.

use crate::args::{Cli, Global, Shell};
use crate::client;
use crate::progress::Progress;
use crate::socket;
use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use ployz_core::wire::v1::api::{Payload, Request};
use ployz_core::wire::v1::api_deploy::{ServiceListRequest, ServiceRow};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Answers the shell and exits, when it is a shell that asks.
pub(crate) fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// Writes the script a shell loads.
pub(crate) fn write_script(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let writer = shells.completer(shell.name()).expect("these shells are built in");
    writer.write_registration(VARIABLE, NAME, NAME, NAME, out)?;
    match shell {
        // zsh autoloads the packaged file as the function `_ployzctl` and expects it to answer the first time too.
        Shell::Zsh => {
            writeln!(out, "[[ $funcstack[1] == _{NAME} ]] && _clap_dynamic_completer_{NAME} \"$@\"\ntrue")
        }
        Shell::Bash | Shell::Fish => Ok(()),
    }
}

/// Names of this machine's networks.
pub(crate) fn network_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let candidates = match ask(&Request::MeshList) {
        Some(Payload::MeshList { networks }) => {
            networks.into_iter().map(|network| (network.name.to_string(), network.state)).collect()
        }
        _ => Vec::new(),
    };
    beginning_with(current, candidates)
}

/// Ids of the invites that can still be taken back.
pub(crate) fn invite_ids(current: &OsStr) -> Vec<CompletionCandidate> {
    let candidates = match ask(&Request::InviteList { network: None }) {
        Some(Payload::MachineInviteList { invites }) => {
            let active = invites.into_iter().filter(|invite| invite.status == "active");
            active.map(|invite| (invite.invite_id.to_string(), format!("from {}", invite.issuer))).collect()
        }
        _ => Vec::new(),
    };
    beginning_with(current, candidates)
}

/// Names of the members.
pub(crate) fn machine_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let candidates = match ask(&Request::MachineList) {
        Some(Payload::MachineList { rows }) => {
            rows.into_iter().map(|row| (row.id.to_string(), row.overlay_ip.to_string())).collect()
        }
        _ => Vec::new(),
    };
    beginning_with(current, candidates)
}

/// Namespaces that have services.
pub(crate) fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in listed() {
        *counts.entry(row.namespace.to_string()).or_default() += 1;
    }
    let help = |count| format!("{count} service{}", if count == 1 { "" } else { "s" });
    beginning_with(current, counts.into_iter().map(|(name, count)| (name, help(count))).collect())
}

/// Names of services in any namespace: which one is meant is not known while the line is being typed.
pub(crate) fn service_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let names: BTreeSet<String> = listed().into_iter().map(|row| row.service.to_string()).collect();
    beginning_with(current, names.into_iter().map(|name| (name, "service".to_owned())).collect())
}

/// `NAMESPACE/SERVICE` of every service.
pub(crate) fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let name = |row: &ServiceRow| format!("{}/{}", row.namespace, row.service);
    beginning_with(current, listed().iter().map(|row| (name(row), row.image.to_string())).collect())
}

fn listed() -> Vec<ServiceRow> {
    match ask(&Request::ServiceList(ServiceListRequest::default())) {
        Some(Payload::ServiceList(list)) => list.services,
        _ => Vec::new(),
    }
}

fn beginning_with(current: &OsStr, candidates: Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let Some(start) = current.to_str() else { return Vec::new() };
    let fitting = candidates.into_iter().filter(|(value, _)| value.starts_with(start));
    fitting.map(|(value, help)| CompletionCandidate::new(value).help(Some(help.into()))).collect()
}

fn ask(request: &Request) -> Option<Payload> {
    // The words typed so far are not parsed yet; the environment and the configuration decide.
    let from = |name| std::env::var_os(name).map(PathBuf::from);
    let global = Global {
        json: false,
        plain: false,
        quiet: true,
        socket: from("PLOYZ_SOCKET"),
        config: from("PLOYZ_CONFIG"),
    };
    let socket = socket::find(&global).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(COMPLETION_TIMEOUT, client::call(&socket, request, &mut Progress::silent()))
            .await
    });
    answer.ok()?.ok()?.envelope.payload
}

const NAME: &str = "ployzctl";
/// Set by the scripts, so that no other program's variable is mistaken for a question.
const VARIABLE: &str = "PLOYZ_COMPLETE";
/// Longer than this and the operator has typed on.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(300);
