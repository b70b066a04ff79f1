//! Enums that are written both by serde, in records and answers, and as a word, in tables and logs: the two agree.

#![allow(clippy::unwrap_used)]

use ployz_core::adopt::Component;
use ployz_core::spec::TunnelBackend;
use ployz_core::wire::v1::api::Phase;
use ployz_core::wire::v1::api_deploy::DeployState;
use ployz_core::wire::v1::deploy::{Action, DeployPhase, LogStream, OperationKind, ReadinessState};
use ployz_core::wire::v1::doctor::Level;
use ployz_core::wire::v1::image::ImageState;
use ployz_core::wire::v1::manifest::{Mode, Order, Protocol, Pull, Restart};
use ployz_core::wire::v1::record::{Lifecycle, RegionRole, StorageParticipation};
use serde::Serialize;
use std::fmt::Display;
use strum::VariantArray;

#[test]
fn plain_enums_have_one_word() {
    agree(Component::VARIANTS);
    agree(TunnelBackend::VARIANTS);
    agree(Phase::VARIANTS);
    agree(DeployState::VARIANTS);
    agree(DeployPhase::VARIANTS);
    agree(Action::VARIANTS);
    agree(OperationKind::VARIANTS);
    agree(ImageState::VARIANTS);
    agree(Level::VARIANTS);
    agree(LogStream::VARIANTS);
    agree(Protocol::VARIANTS);
    agree(Order::VARIANTS);
    agree(Pull::VARIANTS);
    agree(Restart::VARIANTS);
    agree(Lifecycle::VARIANTS);
    agree(RegionRole::VARIANTS);
}

#[test]
fn the_tag_of_an_enum_with_fields_is_its_word() {
    let states = [
        ReadinessState::Starting { last: None },
        ReadinessState::Ready,
        ReadinessState::Draining,
        ReadinessState::Failed { why: "it ended".into() },
        ReadinessState::Gone,
    ];
    for state in &states {
        assert_eq!(serde_json::to_value(state).unwrap()["state"], <&str>::from(state));
    }
    for part in [StorageParticipation::Authority, StorageParticipation::Candidate] {
        assert_eq!(serde_json::to_value(part).unwrap()["kind"], part.to_string());
    }
    for mode in [Mode::Replicated { replicas: 1 }, Mode::Global] {
        assert_eq!(serde_json::to_value(mode).unwrap()["mode"], <&str>::from(mode));
    }
}

#[test]
fn the_words_of_a_manifest_are_read_back() {
    for word in Restart::VARIANTS {
        assert_eq!(word.to_string().parse(), Ok(*word));
    }
    let refused = "sometimes".parse::<Restart>().unwrap_err();
    assert_eq!(refused.to_string(), "\"sometimes\" is not one of unless-stopped always on-failure no");
}

fn agree<T: Serialize + Display>(values: &[T]) {
    assert!(!values.is_empty());
    for value in values {
        assert_eq!(serde_json::to_value(value).unwrap(), value.to_string());
    }
}
