//! Why there is no plan: every reason names what it is about and has a code.

use crate::id::{MachineId, ServiceName};
use crate::routing::ServiceRef;
use crate::wire::v1::api::ErrorCode;
use crate::wire::v1::manifest::ImageRef;
use std::collections::BTreeSet;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Deploys have no volumes yet.
    #[error("the manifest has volumes, which are not supported yet")]
    Volumes,
    /// Some instance has nowhere to go.
    #[error("no machine fits slot {slot} of {service}: {}", reasons(.refusals))]
    NoEligibleMachine {
        /// The service.
        service: ServiceName,
        /// The slot.
        slot: u32,
        /// Every machine and its first reason.
        refusals: Vec<(MachineId, String)>,
    },
    /// A machine that has to do something does not answer.
    #[error("{} must take part in this deploy and cannot be reached", list(.machines))]
    Unreachable {
        /// All of them.
        machines: BTreeSet<MachineId>,
    },
    /// A route belongs to a service of another namespace.
    #[error("the route {route} of {service} belongs to {owner}")]
    RouteTaken {
        /// The service that asks for it.
        service: ServiceName,
        /// The route.
        route: String,
        /// The service that has it.
        owner: ServiceRef,
    },
    /// A port would be a TCP route's and a container's: whichever stops for a moment loses it to the other.
    #[error("port {port} cannot be both the TCP route of {route} and published by {publisher}")]
    PortShared {
        /// The port.
        port: u16,
        /// The service with the route.
        route: ServiceRef,
        /// The service that publishes it.
        publisher: ServiceRef,
    },
    /// A TCP route asks for a port that is not to be had on any gateway.
    #[error("the TCP route of {service} asks for port {port}, which is {whose}")]
    PortReserved {
        /// The service that asks for it.
        service: ServiceName,
        /// The port.
        port: u16,
        /// Whose it is.
        whose: String,
    },
    /// No machine has the image.
    #[error("no machine has the image {image} of {service}")]
    ImageMissing {
        /// The service.
        service: ServiceName,
        /// The image.
        image: ImageRef,
    },
    /// More than the records of a deploy can hold.
    #[error("{slots} instances exceed the limit of {MAX_SLOTS} in a namespace")]
    TooManySlots {
        /// How many were asked for.
        slots: usize,
    },
}

impl PlanError {
    /// Its code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Volumes => ErrorCode::VolumesUnsupported,
            Self::NoEligibleMachine { .. } => ErrorCode::NoEligibleMachine,
            Self::Unreachable { .. } => ErrorCode::ParticipantUnreachable,
            Self::RouteTaken { .. } => ErrorCode::RouteTaken,
            Self::PortShared { .. } => ErrorCode::PortTaken,
            Self::PortReserved { .. } => ErrorCode::PortReserved,
            Self::ImageMissing { .. } => ErrorCode::ImageMissing,
            Self::TooManySlots { .. } => ErrorCode::ManifestInvalid,
        }
    }
}

/// Machines by name.
pub(super) fn list<'a>(machines: impl IntoIterator<Item = &'a MachineId>) -> String {
    machines.into_iter().map(MachineId::as_str).collect::<Vec<_>>().join(", ")
}

fn reasons(refusals: &[(MachineId, String)]) -> String {
    if refusals.is_empty() {
        return "there is no machine".to_owned();
    }
    let mut words: Vec<String> = refusals.iter().map(|(machine, why)| format!("{machine} {why}")).collect();
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join("; ")
}

/// Machines named in a refusal.
const SHOWN: usize = 8;

/// Instances of one namespace: with 400 bytes each, its commit stays below NATS's 1 MiB a message.
pub const MAX_SLOTS: usize = 1_000;
