//! The command line as operators type it. What a command means to the daemon is in `request`.
//!
//! The doc comments below are the help texts and, through clap_mangen, the manual pages.

mod cert;
mod images;
mod services;

pub(crate) use cert::Cert;
pub(crate) use images::Image;
pub(crate) use services::{Attach, Deploy, DeployVerb, Logs, Named, OneService, Service};

use crate::complete::{invite_ids, network_names};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use ployz_core::address::NamedEndpoint;
use ployz_core::adopt::Component;
use ployz_core::id::{InviteId, NetworkName};
use std::path::PathBuf;

/// Operate this machine's Ployz daemon: the mesh, its machines and the services on them.
#[derive(Parser)]
#[command(name = "ployzctl", version, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags accepted anywhere on the line.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print the daemon's complete response as JSON
    #[arg(long, global = true, conflicts_with = "plain")]
    pub(crate) json: bool,
    /// Print compact text for scripts: `key: value` lines and tab-separated rows
    #[arg(long, global = true)]
    pub(crate) plain: bool,
    /// Print nothing on success
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// The daemon's socket [default: `socket` of the configuration, else /run/ployz/ployzd.sock]
    #[arg(long, global = true, value_name = "PATH", env = "PLOYZ_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Configuration to read `socket` from [default: /etc/ployz/config.toml, then
    /// ~/.config/ployz/config.toml]
    #[arg(long, global = true, value_name = "PATH", env = "PLOYZ_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create, join, start, stop and inspect the encrypted overlay network
    #[command(subcommand, visible_alias = "network")]
    Mesh(Mesh),
    /// List member machines and invite new ones
    #[command(subcommand)]
    Machine(Machine),
    /// Apply a manifest to a namespace
    #[command(after_help = services::DEPLOY_HELP)]
    Deploy(Deploy),
    /// List, inspect and remove services, and read their logs
    #[command(subcommand)]
    Service(Service),
    /// Send images of this machine to the others
    #[command(subcommand)]
    Image(Image),
    /// Import, list and remove the certificates that every gateway serves HTTPS with
    #[command(subcommand)]
    Cert(Cert),
    /// Show the daemon, its network and every component of the data plane
    Status,
    /// Check this machine: what was found, and what to do about it
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Show what the last reconciliations adopted, changed, recreated or held, and why
    Explain {
        /// Only this component, or the containers of services
        #[arg(value_name = "COMPONENT", value_parser = subject_parser())]
        subject: Option<Subject>,
    },
    /// Print a shell completion script; it completes names from the daemon
    #[command(after_help = COMPLETION_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages and completion scripts (for the package build)
    #[command(name = "__generate", hide = true)]
    Generate {
        /// Where to
        dir: PathBuf,
    },
}

/// `mesh`.
#[derive(Subcommand)]
pub(crate) enum Mesh {
    /// List the networks of this machine and their state
    #[command(visible_alias = "ls")]
    List,
    /// Show one network: overlay address, lifecycle, subnet and every peer
    Status {
        /// The network [default: the running one, or the only one of this machine]
        #[arg(add = ArgValueCompleter::new(network_names))]
        network: Option<NetworkName>,
    },
    /// Create a network's record, keys and subnet without starting it
    Create {
        /// Name of the new network: 1-63 of a-z, 0-9 and `-`
        network: NetworkName,
    },
    /// Create a network, start it and make it the current one
    Init {
        #[command(flatten)]
        name: NameOrStdin,
    },
    /// Start a network that was created or stopped
    Start {
        /// The network [default: the only one of this machine]
        #[arg(add = ArgValueCompleter::new(network_names))]
        network: Option<NetworkName>,
        /// The state was moved or restored to this machine; the machine it comes from is off for good
        #[arg(long)]
        restored: bool,
    },
    /// Stop the running network; refused while workloads of this machine depend on it
    Stop {
        /// Stop even if workloads depend on it
        #[arg(long)]
        force: bool,
    },
    /// Join the network a token was made for
    #[command(after_help = JOIN_HELP)]
    Join(Token),
    /// Check whether the mesh is ready: exit code 0 if so, 1 if not
    Ready,
    /// Remove a network permanently, on all its machines
    #[command(after_help = DESTROY_HELP)]
    Destroy {
        #[command(flatten)]
        name: NameOrStdin,
        /// Remove only this machine's part, without asking the peers
        #[arg(long)]
        local: bool,
    },
    /// Print this machine's membership record
    SelfRecord,
}

/// A network's name, given or read.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NameOrStdin {
    /// The network
    #[arg(add = ArgValueCompleter::new(network_names))]
    pub(crate) network: Option<NetworkName>,
    /// Read the name from standard input
    #[arg(long)]
    pub(crate) name_stdin: bool,
}

/// A join token, given or read.
#[derive(Args)]
pub(crate) struct Token {
    /// The token; other users of this machine can see it in the process list
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_stdin")]
    #[arg(required_unless_present_any = ["token_stdin", "stray"])]
    pub(crate) token: Option<String>,
    /// Read the token from standard input
    #[arg(long)]
    pub(crate) token_stdin: bool,
    /// Catches a token given without a flag, which clap would print back.
    #[arg(hide = true, num_args = 0..)]
    pub(crate) stray: Vec<String>,
}

/// `machine`.
#[derive(Subcommand)]
pub(crate) enum Machine {
    /// List the members of the running network
    #[command(visible_alias = "list")]
    Ls,
    /// Create, list and revoke invites
    #[command(subcommand)]
    Invite(Invite),
}

/// `machine invite`.
#[derive(Subcommand)]
pub(crate) enum Invite {
    /// Create a single-use token for one machine
    #[command(after_help = INVITE_HELP)]
    Create {
        /// Seconds until the token expires (1 to 604800, a week)
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=604_800))]
        ttl_secs: u64,
        /// Address at which the new machine can reach this one, tried before those found: behind NAT, or a unique
        /// local address. Repeatable
        #[arg(long, value_name = "ADDRESS[:PORT]")]
        endpoint: Vec<NamedEndpoint>,
        /// Network that is not started yet, on its bootstrap node [default: the running one]
        #[arg(long, value_name = "NETWORK", add = ArgValueCompleter::new(network_names))]
        network: Option<NetworkName>,
    },
    /// List invites and their state
    #[command(visible_alias = "ls")]
    List {
        /// Network that is not started yet, on its bootstrap node [default: the running one]
        #[arg(long, value_name = "NETWORK", add = ArgValueCompleter::new(network_names))]
        network: Option<NetworkName>,
    },
    /// Revoke an invite; its token becomes invalid
    Revoke {
        /// The invite's id, as `machine invite list` shows it
        #[arg(add = ArgValueCompleter::new(invite_ids))]
        invite: InviteId,
        /// Network that is not started yet, on its bootstrap node [default: the running one]
        #[arg(long, value_name = "NETWORK", add = ArgValueCompleter::new(network_names))]
        network: Option<NetworkName>,
    },
}

/// Shells there is a completion script for.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// The name clap_complete knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

/// What `explain` may be asked for alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// A part of the data plane.
    Component(Component),
    /// The containers of services on this machine.
    Containers,
}

fn subject_parser() -> impl clap::builder::TypedValueParser<Value = Subject> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    const CONTAINERS: &str = "containers";
    let names = Component::ALL.map(Component::as_str).into_iter().chain([CONTAINERS]);
    PossibleValuesParser::new(names).map(|name| {
        let found = Component::ALL.into_iter().find(|component| component.as_str() == name);
        // The parser lets nothing else through.
        found.map_or(Subject::Containers, Subject::Component)
    })
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 the operation failed, ployzd cannot be reached, the \
mesh is not ready, or a check of `doctor` failed; 2 wrong usage, configuration or manifest; 130 Ctrl-C; \
changes already requested from ployzd continue.";

const COMPLETION_HELP: &str = "Load it for this shell only:
  bash:  source <(ployzctl completions bash)
  zsh:   source <(ployzctl completions zsh)
  fish:  ployzctl completions fish | source
The packages install it for all three.";

const DOCTOR_HELP: &str = "Read-only. If ployzd does not answer, run `ployzd doctor` as root: it checks the machine without the daemon. \
Exit code 0 if no check failed (warnings are not failures), else 1.";

const JOIN_HELP: &str = "On a member:  ployzctl machine invite create
Here:         ployzctl mesh join --token-stdin   (paste the token, then Enter and Ctrl-D)";

const DESTROY_HELP: &str = "All machines must agree before anything is removed. If one cannot be reached, nothing is \
removed anywhere; `--local` clears this machine alone. The name is required even if there is only one network.";

const INVITE_HELP: &str = "The token is the only thing on standard output's last line, so it can be piped:
  ployzctl machine invite create --plain | ssh root@new-machine ployzctl mesh join --token-stdin";
