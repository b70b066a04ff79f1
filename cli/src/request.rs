//! From the parsed command line to the daemon's [`Request`]. Standard input is handed in, so tests can be the operator.

mod cert;
mod images;
mod manifest;
mod services;

use crate::args::{Command, Invite, Machine, Mesh, NameOrStdin, Service, Shell, Subject, Token};
use crate::failure::Failure;
use ployz_core::id::NetworkName;
use ployz_core::text;
use ployz_core::wire::v1::api::Request;
use ployz_core::wire::v1::api_deploy::ServiceLogsRequest;
use std::io::Read;
use std::path::PathBuf;

/// What a command line asks for.
pub(crate) enum Task {
    /// A call of the daemon.
    Call(Request),
    /// Calls of the daemon without end, for the lines of a service.
    Follow(ServiceLogsRequest),
    /// Checks of this machine, by the daemon or without it.
    Doctor,
    /// Print a completion script.
    Completions(Shell),
    /// Write manual pages and completion scripts into this directory.
    Generate(PathBuf),
}

impl Task {
    /// The task of a command.
    pub(crate) fn of(command: Command, stdin: &mut dyn Read) -> Result<Self, Failure> {
        Ok(Self::Call(match command {
            Command::Mesh(mesh) => of_mesh(mesh, stdin)?,
            Command::Machine(machine) => of_machine(machine),
            Command::Deploy(deploy) => services::of_deploy(deploy, stdin)?,
            Command::Service(Service::Logs(logs)) if logs.follow => {
                return Ok(Self::Follow(services::of_logs(logs)));
            }
            Command::Service(service) => services::of_service(service),
            Command::Image(image) => images::of(image),
            Command::Cert(cert) => cert::of(cert, stdin)?,
            Command::Status => Request::Status,
            Command::Doctor => return Ok(Self::Doctor),
            Command::Explain { subject } => match subject {
                Some(Subject::Containers) => Request::Explain { component: None, containers: true },
                Some(Subject::Component(component)) => {
                    Request::Explain { component: Some(component), containers: false }
                }
                None => Request::Explain { component: None, containers: false },
            },
            Command::Completions { shell } => return Ok(Self::Completions(shell)),
            Command::Generate { dir } => return Ok(Self::Generate(dir)),
        }))
    }
}

/// Whether a request changes something: then the daemon's sentence about it is what the operator wants to read first.
pub(crate) fn changes(request: &Request) -> bool {
    match request {
        Request::Status
        | Request::Doctor
        | Request::Explain { .. }
        | Request::MeshList
        | Request::MeshStatus { .. }
        | Request::MeshReady
        | Request::MeshSelfRecord
        | Request::MachineList
        | Request::InviteList { .. }
        | Request::CertificateList
        | Request::DeployPreview(_)
        | Request::ServiceList(_)
        | Request::ServiceInspect(_)
        | Request::ServiceLogs(_)
        | Request::ImagePushPreview(_) => false,
        Request::MeshCreate { .. }
        | Request::MeshInit { .. }
        | Request::MeshStart { .. }
        | Request::MeshStop { .. }
        | Request::MeshJoin { .. }
        | Request::MeshDestroy { .. }
        | Request::InviteCreate { .. }
        | Request::InviteRevoke { .. }
        | Request::CertificateImport(_)
        | Request::CertificateRemove(_)
        | Request::Deploy(_)
        | Request::DeployAttach(_)
        | Request::ServiceRemove(_)
        | Request::ImagePush(_) => true,
    }
}

fn of_mesh(mesh: Mesh, stdin: &mut dyn Read) -> Result<Request, Failure> {
    Ok(match mesh {
        Mesh::List => Request::MeshList,
        Mesh::Status { network } => Request::MeshStatus { network },
        Mesh::Create { network } => Request::MeshCreate { network },
        Mesh::Init { name } => Request::MeshInit { network: network(name, stdin)? },
        Mesh::Start { network, restored } => Request::MeshStart { network, restored },
        Mesh::Stop { force } => Request::MeshStop { force },
        Mesh::Join(given) => Request::MeshJoin { token: token(given, stdin)? },
        Mesh::Ready => Request::MeshReady,
        Mesh::Destroy { name, local } => Request::MeshDestroy { network: network(name, stdin)?, local },
        Mesh::SelfRecord => Request::MeshSelfRecord,
    })
}

fn of_machine(machine: Machine) -> Request {
    match machine {
        Machine::Ls => Request::MachineList,
        Machine::Invite(Invite::Create { ttl_secs, endpoint: endpoints, network }) => {
            Request::InviteCreate { ttl_secs, endpoints, network }
        }
        Machine::Invite(Invite::List { network }) => Request::InviteList { network },
        Machine::Invite(Invite::Revoke { invite, network }) => Request::InviteRevoke { invite, network },
    }
}

fn network(given: NameOrStdin, stdin: &mut dyn Read) -> Result<NetworkName, Failure> {
    match given.network {
        Some(name) => Ok(name),
        None => {
            let name = read(stdin, "network name")?;
            name.parse().map_err(|error| Failure::Usage(format!("{error}")))
        }
    }
}

/// The token's text is never part of a message.
fn token(given: Token, stdin: &mut dyn Read) -> Result<String, Failure> {
    if !given.stray.is_empty() {
        let what = "a token is given with --token-stdin or --token, not as a bare argument";
        return Err(Failure::Usage(what.into()));
    }
    match given.token.map(|token| token.trim().to_owned()) {
        Some(token) if token.is_empty() => {
            Err(Failure::Usage("the token given with --token is empty".into()))
        }
        Some(token) => Ok(token),
        None => read(stdin, "token"),
    }
}

fn read(stdin: &mut dyn Read, what: &str) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Usage(format!("cannot read the {what} from standard input: {why}"));
    let mut bytes = Vec::with_capacity(16 * 1024);
    stdin.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| refused(&error.to_string()))?;
    let is = text::utf16(&bytes).unwrap_or("is not UTF-8 text");
    let text = std::str::from_utf8(&bytes).map_err(|_| refused(&format!("it {is}")))?;
    match text::without_mark(text).trim() {
        "" => Err(Failure::Usage(format!("no {what} on standard input: it is empty"))),
        _ if text.len() as u64 > MOST => {
            Err(Failure::Usage(format!("what is on standard input is too long for a {what}")))
        }
        trimmed => Ok(trimmed.to_owned()),
    }
}

/// Bytes of a name or token read from standard input at most; a token has about 1 KiB.
const MOST: u64 = 64 * 1024;
