//! Stable error codes of the operator API, each with what to do.
//!
//! A hint is for the one who reads it, on the machine where it is read: what a member can do, a machine that joins often
//! cannot. Where that differs, [`ErrorCode::hint_at`] has the better one.

use crate::wire::v1::api::Request;
use std::fmt;
use std::str::FromStr;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $hint:literal;)*) => {
        /// Stable error codes. New ones are added; none is renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }
        impl ErrorCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The text in [`crate::wire::v1::api::Envelope::code`].
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// What to do when there is nothing more specific to say.
            pub fn hint(self) -> &'static str { match self { $(Self::$variant => $hint,)* } }
        }
        impl FromStr for ErrorCode {
            type Err = UnknownCode;
            fn from_str(text: &str) -> Result<Self, UnknownCode> {
                match text { $($text => Ok(Self::$variant),)* _ => Err(UnknownCode(text.to_owned())) }
            }
        }
    };
}

error_codes! {
    /// `create` or `init` of a name that exists.
    NetworkAlreadyExists = "NETWORK_ALREADY_EXISTS", "choose another name, or `ployzctl mesh start` the existing one";
    /// Another network is active.
    NetworkAlreadyRunning = "NETWORK_ALREADY_RUNNING", "`ployzctl mesh stop` first: a daemon has one active network";
    /// No such network here.
    NetworkNotFound = "NETWORK_NOT_FOUND", "`ployzctl mesh list` shows the networks of this machine";
    /// Not from this state.
    InvalidTransition = "INVALID_TRANSITION", "`ployzctl mesh list` shows the state of the network";
    /// Needs a running network.
    NoRunningNetwork = "NO_RUNNING_NETWORK", "`ployzctl mesh start <network>`, `mesh init <network>` or `mesh join --token-stdin`";
    /// Not a token, or tampered with.
    InvalidToken = "INVALID_TOKEN", "copy the whole token again, or make a new one with `ployzctl machine invite create` on a member";
    /// Too late.
    TokenExpired = "TOKEN_EXPIRED", "make a new one with `ployzctl machine invite create` on a member";
    /// Already used.
    TokenConsumed = "TOKEN_CONSUMED", "a token serves one machine once: make a new one with `ployzctl machine invite create` on a member";
    /// Taken back.
    TokenRevoked = "TOKEN_REVOKED", "make a new one with `ployzctl machine invite create` on a member";
    /// No node subnet left.
    SubnetExhausted = "SUBNET_EXHAUSTED", "every node subnet of cluster_cidr is taken: remove a machine, or create a network with a wider cluster_cidr";
    /// Configured and cluster range differ.
    CidrMismatch = "CIDR_MISMATCH", "set cluster_cidr and subnet_prefix_len in config.toml to the network's, or leave them out; then `systemctl restart ployzd`";
    /// Destroy needs every peer.
    MeshDestroyPeersUnreachable = "MESH_DESTROY_PEERS_UNREACHABLE", "bring the named machines up, or remove only this machine's part with `--local`";
    /// A peer failed after it had agreed.
    MeshDestroyPeerExecuteFailed = "MESH_DESTROY_PEER_EXECUTE_FAILED", "run `ployzctl mesh destroy <network> --local` on the named machines";
    /// Only the bootstrap node's operator may.
    MeshDestroyNotAllowed = "MESH_DESTROY_NOT_ALLOWED", "run `ployzctl mesh destroy <network>` on the bootstrap node; `--local` removes only this machine's part";
    /// Another machine does not take a command from this one.
    CommandRefused = "COMMAND_REFUSED", "`journalctl -u ployzd TARGET=audit` on the machine that refused has the sender and the reason; `ployzctl doctor` compares the clocks";
    /// Workloads depend on the overlay.
    WorkloadsRunning = "WORKLOADS_RUNNING", "stop the workloads of this machine first, or `mesh stop --force`";
    /// Start failed.
    NetworkStartFailed = "NETWORK_START_FAILED", "`ployzctl explain` shows each component; `journalctl -u ployzd` has the details";
    /// Stop failed.
    NetworkStopFailed = "NETWORK_STOP_FAILED", "`journalctl -u ployzd` has the details; `mesh stop` can be repeated";
    /// Destroy failed.
    NetworkDestroyFailed = "NETWORK_DESTROY_FAILED", "`journalctl -u ployzd` has the details; `mesh destroy` can be repeated";
    /// The issuer did not answer.
    IssuerUnreachable = "ISSUER_UNREACHABLE", "check that the issuing machine's WireGuard port (UDP 51820 unless configured) can be reached from here, that its ployzd runs, and that the token was not used or revoked before";
    /// The store did not answer.
    StoreUnavailable = "STORE_UNAVAILABLE", "the bootstrap node's NATS cannot be reached: `ployzctl mesh status` shows which peer is away; try again";
    /// No such invite.
    InviteNotFound = "INVITE_NOT_FOUND", "`ployzctl machine invite list` shows them";
    /// A value that cannot be.
    InvalidArgument = "INVALID_ARGUMENT", "see `--help`";
    /// Overlay range collides with the host's own addresses.
    AddressConflict = "ADDRESS_CONFLICT", "set another cluster_cidr in config.toml, then `systemctl restart ployzd`";
    /// No address that another machine could dial.
    NoEndpoint = "NO_ENDPOINT", "name an address that the new machine can dial: `ployzctl machine invite create --endpoint ADDRESS`; for all tokens and peers, advertise_endpoints in config.toml and `systemctl restart ployzd`";
    /// Refused by an inspection.
    ComponentHeld = "COMPONENT_HELD", "`ployzctl explain` names the conflict; nothing was changed";
    /// The state is another machine's.
    IdentityHeld = "IDENTITY_HELD", "a copy: `ployzctl mesh destroy <network> --local`, then join with a token of its own; moved or restored here while the other machine is off for good: `ployzctl mesh start <network> --restored`";
    /// The kernel has no IPv6.
    Ipv6Unavailable = "IPV6_UNAVAILABLE", "take ipv6.disable=1 off the kernel's command line: the overlay is IPv6; net.ipv6.conf.all.disable_ipv6=1 is not a problem";
    /// ployzctl could not talk to ployzd (never sent by ployzd itself).
    DaemonUnreachable = "DAEMON_UNREACHABLE", "`systemctl status ployzd`; the socket is readable by root and the group ployz";
    /// The wire contract was broken.
    InvalidRequest = "INVALID_REQUEST", "ployzctl and ployzd differ in version: upgrade both";
    /// A manifest that is refused, with file, line and path.
    ManifestInvalid = "MANIFEST_INVALID", "the message names file, line and key; docs/manifest.schema.json is the schema";
    /// Volumes in a manifest.
    VolumesUnsupported = "VOLUMES_UNSUPPORTED", "remove volumes from the manifest: this version deploys services without them";
    /// Nowhere to put an instance.
    NoEligibleMachine = "NO_ELIGIBLE_MACHINE", "the message names the reason for each machine: change the placement, activate a machine, or add one";
    /// A machine that must take part does not answer.
    ParticipantUnreachable = "PARTICIPANT_UNREACHABLE", "nothing was changed: bring the named machines up, or remove them from the network if they are gone for good";
    /// An image that a machine does not have, or not in that form.
    ImageMissing = "IMAGE_MISSING", "`ployzctl image push <image>` sends a local image to the machines";
    /// No machine that takes part reaches the registry.
    RegistryUnreachable = "REGISTRY_UNREACHABLE", "nothing was changed: check that the named machines can reach the registry (DNS, proxy, its certificate in /etc/docker/certs.d); without one, `ployzctl image push <image>` and `pull = \"never\"`";
    /// The registry does not take the login, or wants one.
    RegistryLoginFailed = "REGISTRY_LOGIN_FAILED", "nothing was changed: `docker login <registry>` as root on one of the machines, and check the image's name: registries answer the same for a missing image";
    /// The registry says that too much was pulled.
    RegistryRateLimited = "REGISTRY_RATE_LIMITED", "nothing was changed: wait, or `docker login <registry>` as root for a higher limit; an image that a machine has goes to the others by `ployzctl image push`";
    /// The registry does not have the image.
    ImageNotInRegistry = "IMAGE_NOT_IN_REGISTRY", "nothing was changed: check the name and the tag; an image that was built here goes to the machines by `ployzctl image push <image>`";
    /// The image is for other machines.
    ImagePlatform = "IMAGE_PLATFORM", "nothing was changed: build the image for the named machine's platform too, or exclude that machine (placement)";
    /// Any other failure of a pull.
    ImagePullFailed = "IMAGE_PULL_FAILED", "nothing was changed: the causes contain Docker's message; fix that, then deploy again";
    /// A candidate did not become ready.
    ReadinessFailed = "READINESS_FAILED", "nothing was changed: the causes contain the container's output; check its readiness in the manifest";
    /// A published port is in use.
    PortTaken = "PORT_TAKEN", "publish another port, or stop what holds it on the named machine";
    /// A route that another namespace has.
    RouteTaken = "ROUTE_TAKEN", "choose another host, path or port, or remove the service that has it";
    /// A TCP route on a port that the mesh itself needs.
    PortReserved = "PORT_RESERVED", "choose another port to listen on: HTTP and HTTPS belong to routes with a host, the others to the mesh";
    /// Another deploy to this namespace is in progress.
    DeployInProgress = "DEPLOY_IN_PROGRESS", "`ployzctl deploy attach` follows it: wait until it ends; the lock of a coordinator that died expires by itself";
    /// It did not happen and was undone.
    DeployFailed = "DEPLOY_FAILED", "nothing was changed: the causes say why; fix that, then deploy again";
    /// It was cut off; what is left is known.
    DeployInterrupted = "DEPLOY_INTERRUPTED", "deploy again: that first finishes or undoes the interrupted deploy";
    /// No deploy of that id, or none under way.
    DeployNotFound = "DEPLOY_NOT_FOUND", "a deploy can be followed on the machine that runs it, up to an hour after its end; `ployzctl service ls` shows what is deployed";
    /// An operator gave it up.
    DeployAborted = "DEPLOY_ABORTED", "nothing was changed: what had started was undone; deploy again when you want it";
    /// Too late to give it up.
    DeployCommitted = "DEPLOY_COMMITTED", "a committed deploy is finished, not undone: deploy the previous manifest";
    /// A machine's clock is so far ahead that everything comes too late for it.
    ClockSkew = "CLOCK_SKEW", "set the clocks of the named machines (`timedatectl`), then deploy again";
    /// What a preview was made from is no longer so.
    BaselineChanged = "BASELINE_CHANGED", "another deploy was committed in between: make a new preview";
    /// No such service.
    ServiceNotFound = "SERVICE_NOT_FOUND", "`ployzctl service ls` shows them";
    /// Not a certificate chain for names.
    CertificateInvalid = "CERTIFICATE_INVALID", "give the whole chain in PEM, leaf certificate first, with DNS names (subject alternative names)";
    /// Too late or too early.
    CertificateExpired = "CERTIFICATE_EXPIRED", "get a new one; `date` on this machine must be right";
    /// Key and certificate do not belong together.
    CertificateKeyMismatch = "CERTIFICATE_KEY_MISMATCH", "give the private key (PEM, without a passphrase) that belongs to the certificate";
    /// No such certificate.
    CertificateNotFound = "CERTIFICATE_NOT_FOUND", "`ployzctl cert ls` shows them";
    /// The engine does not answer.
    DockerUnavailable = "DOCKER_UNAVAILABLE", "`systemctl status docker` on the named machine";
    /// No room.
    DiskFull = "DISK_FULL", "free space on the named machine: `df /var/lib/ployz /var/lib/docker`, `df -i` for inodes; `docker system df` shows what Docker holds";
    /// No such image in this machine's engine.
    ImageNotFound = "IMAGE_NOT_FOUND", "`docker image ls` shows the images of this machine";
    /// Not a member.
    MachineNotFound = "MACHINE_NOT_FOUND", "`ployzctl machine ls` shows them";
    /// A member that does not answer.
    MachineUnreachable = "MACHINE_UNREACHABLE", "bring the named machines up and retry: machines that have the image are skipped";
    /// A connection between two machines broke.
    TransferInterrupted = "TRANSFER_INTERRUPTED", "retry: nothing is left half done, and machines that have the image are skipped";
    /// A machine takes part in as many transfers as it may.
    TransferBusy = "TRANSFER_BUSY", "the named machine is busy with other transfers: retry when they have ended";
    /// Some machines did not get an image.
    ImagePushFailed = "IMAGE_PUSH_FAILED", "the causes name the reason for each machine; retry: machines that have the image are skipped";
    /// Disk, encoding, and what should not happen.
    IoError = "IO_ERROR", "`journalctl -u ployzd` has the details";
}

/// The text of no code that this version knows: the other side is of a newer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no error code of this version")]
pub struct UnknownCode(pub String);

/// What the one who reads a hint has asked for, where that changes what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// `mesh join`: this machine is no member, and the network's settings are not its own.
    Join,
    /// `mesh create` or `mesh init`: there is no network yet to look at.
    Found,
    /// Anything else.
    Other,
}

impl Asked {
    /// Of a request.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::MeshJoin { .. } => Self::Join,
            Request::MeshCreate { .. } | Request::MeshInit { .. } => Self::Found,
            _ => Self::Other,
        }
    }
}

impl ErrorCode {
    /// What the one who asked for this can do.
    pub fn hint_at(self, asked: Asked) -> &'static str {
        let own = match asked {
            Asked::Join => self.hint_of_joiner(),
            Asked::Found => self.hint_of_founder(),
            Asked::Other => None,
        };
        own.unwrap_or_else(|| self.hint())
    }

    fn hint_of_joiner(self) -> Option<&'static str> {
        Some(match self {
            Self::AddressConflict => {
                "the range is the network's and cannot be changed by a joining machine: remove the conflicting address or route from this machine, or join another network, created with another cluster_cidr"
            }
            Self::NetworkAlreadyExists => {
                "this machine has a network of that name: `ployzctl mesh start <network>` if it is the one, else `ployzctl mesh destroy <network> --local`, then join"
            }
            Self::SubnetExhausted => {
                "the network is full: a member must be removed before another machine can join"
            }
            Self::StoreUnavailable => {
                "the issuing machine cannot reach the network's store: `ployzctl mesh status` there shows which peer is away; the same token can be used again until it expires"
            }
            Self::InviteNotFound => {
                "the network no longer has the token's invite: make a new one with `ployzctl machine invite create` on a member"
            }
            Self::InvalidArgument => {
                "another member has this machine's name: rename this one (`hostnamectl hostname <name>`), then join"
            }
            Self::NoEndpoint => {
                "make a token that names an address this machine can dial, on a member: `ployzctl machine invite create --endpoint ADDRESS`"
            }
            Self::InvalidRequest => {
                "this machine's ployzd and that of the issuing machine differ in version: upgrade both"
            }
            _ => return None,
        })
    }

    fn hint_of_founder(self) -> Option<&'static str> {
        Some(match self {
            Self::StoreUnavailable => {
                "this machine's own NATS did not come up: `journalctl -u ployz-nats` has the details"
            }
            Self::NetworkStartFailed => {
                "the causes say what did not come up; `journalctl -u ployzd` has the details"
            }
            Self::SubnetExhausted => {
                "set a wider cluster_cidr or a larger subnet_prefix_len in config.toml, then `systemctl restart ployzd`"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_back_and_another_is_refused() {
        for code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
        let unknown: Result<ErrorCode, UnknownCode> = "OF_A_NEWER_VERSION".parse();
        assert_eq!(unknown, Err(UnknownCode("OF_A_NEWER_VERSION".into())));
    }

    #[test]
    fn a_machine_that_joins_is_not_sent_to_what_only_members_can_do() {
        let members_only =
            ["`ployzctl machine invite list`", "`ployzctl mesh status` shows", "set another cluster_cidr"];
        for code in ErrorCode::ALL {
            let hint = code.hint_at(Asked::Join);
            assert!(!members_only.iter().any(|advice| hint.contains(advice)), "{code}: {hint}");
            let makes_one = hint.contains("invite create");
            assert!(!makes_one || hint.contains("on a member"), "{code}: {hint}");
        }
        assert!(
            ErrorCode::AddressConflict
                .hint_at(Asked::Join)
                .contains("cannot be changed by a joining machine")
        );
        assert!(ErrorCode::AddressConflict.hint_at(Asked::Found).contains("set another cluster_cidr"));
        assert_eq!(ErrorCode::DiskFull.hint_at(Asked::Join), ErrorCode::DiskFull.hint());
    }
}
