//! `image push`: what is asked of the daemon, and how its answers look in every mode.

use crate::fake::{Fake, Script};
use crate::rendering::session;
use crate::stage::{Stage, once, request};
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Payload};
use ployz_core::wire::v1::deploy::DeployFailure;
use ployz_core::wire::v1::image::{ImagePushReport, ImagePushRow, ImageState};

fn row(machine: &str, state: ImageState) -> ImagePushRow {
    let (bytes, took_ms) = match state {
        ImageState::Sent => (Some(213_909_504), Some(4_210)),
        _ => (None, None),
    };
    ImagePushRow { machine: machine.parse().unwrap(), state, bytes, took_ms, failure: None }
}

fn away(machine: &str) -> ImagePushRow {
    let what = "no answer to image.look: its ployzd is not connected\u{1b}[2J";
    let failure = DeployFailure::new(ErrorCode::MachineUnreachable, what).on(&machine.parse().unwrap());
    ImagePushRow { failure: Some(failure), ..row(machine, ImageState::Failed) }
}

fn report(machines: Vec<ImagePushRow>) -> ImagePushReport {
    ImagePushReport {
        image: "shop-web:43".parse().unwrap(),
        id: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
        size: 213_000_000,
        machines,
    }
}

#[test]
fn a_preview_never_asks_for_a_push() {
    for line in [&["image", "push", "web", "-n"][..], &["image", "push", "--dry-run", "web"]] {
        assert_eq!(request(line, "")["command"], "image-push-preview");
    }
    let asked = request(&["image", "push", "web:2"], "");
    assert_eq!((&asked["command"], &asked["image"]), (&"image-push".into(), &"web:2".into()));
    assert!(asked.get("to").is_none(), "all machines");
    let asked = request(&["image", "push", "web", "--to", "n2", "--to", "n1", "--to", "n2"], "");
    assert_eq!(asked["to"], serde_json::json!(["n1", "n2"]));
}

#[test]
fn what_is_no_image_or_no_machine_is_a_usage_error() {
    for line in [&["image", "push"][..], &["image", "push", "Web"], &["image", "push", "web", "--to", "N 1"]]
    {
        assert_eq!(once(Script::ok("done"), line, "").code, Some(2), "{line:?}");
    }
}

#[test]
fn image_push() {
    let machines = vec![
        row("node-2", ImageState::Sent),
        row("node-3", ImageState::Present),
        row("node-4", ImageState::Named),
    ];
    session("image-push.txt", "image push shop-web:43", Payload::ImagePush(report(machines)));
}

#[test]
fn image_push_preview() {
    let machines = vec![
        row("node-2", ImageState::Missing),
        row("node-3", ImageState::Present),
        row("node-4", ImageState::Unnamed),
        row("node-5", ImageState::Differs),
        away("node-6"),
    ];
    session(
        "image-push-preview.txt",
        "image push shop-web:43 -n",
        Payload::ImagePushPreview(report(machines)),
    );
}

#[test]
fn a_push_that_failed_for_some_says_who_got_it() {
    let mut envelope = Envelope::error(
        ErrorCode::MachineUnreachable,
        "image shop-web:43 is not on node-3",
        vec!["node-3: its ployzd is not connected".into()],
    );
    envelope.payload =
        Some(Payload::ImagePush(report(vec![row("node-2", ImageState::Sent), away("node-3")])));
    let run = once(Script::envelope(envelope), &["image", "push", "shop-web:43"], "");
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert!(
        run.err
            .starts_with("node-2  sent\nerror [MACHINE_UNREACHABLE]: image shop-web:43 is not on node-3\n"),
        "{}",
        run.err
    );
}

#[test]
fn names_of_machines_are_live() {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::payload(crate::rendering::machines()));
    let socket = fake.socket.to_str().unwrap();
    let found = crate::completion::complete(&stage, socket, &["image", "push", "web", "--to", "node-"]);
    assert!(found.lines().count() > 1 && found.lines().all(|name| name.starts_with("node-")), "{found}");
}
