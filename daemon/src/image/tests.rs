//! Two engines and a connection between them: whole, broken off, refused.

use super::context::failed;
use super::fetch::{exchange, look, name};
use crate::transfer::stream::{self, Broken};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ployz_core::wire::v1::image::{ImageAnswer, ImageCommand, ImageFetch, ImageState, ImageWanted};
use ployz_engine::docker::Docker;
use ployz_engine::fake::{Fake, network};
use ployz_engine::hostile;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "lab/web:2";
const ID: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const NEWER: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";

async fn docker(fake: &Fake) -> Docker {
    for _ in 0..200 {
        match Docker::connect(&fake.socket, &network()).await {
            Ok(docker) => return docker,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the fake did not come up");
}

/// An engine with the image, one without, and what is wanted there.
async fn two() -> (Fake, Docker, Fake, Docker, ImageWanted) {
    let (one, other) = (Fake::start("1.45"), Fake::start("1.41"));
    for name in [NAME, ID] {
        one.state.lock().images.insert(name.into(), ID.into());
    }
    let (here, there) = (docker(&one).await, docker(&other).await);
    let facts = here.find_image(NAME).await.unwrap().unwrap().facts;
    let wanted = ImageWanted { network: network(), image: NAME.parse().unwrap(), facts };
    (one, here, other, there, wanted)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(at), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn send<E: std::error::Error + 'static>(
    stream: TcpStream,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<ImageAnswer, Broken<E>> {
    let (reader, writer) = stream.into_split();
    let word = stream::send(reader, writer, body, &AtomicU64::new(0)).await?;
    Ok(serde_json::from_slice(&word).unwrap())
}

#[tokio::test]
async fn an_image_goes_from_engine_to_engine() {
    let (_one, here, other, there, wanted) = two().await;
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Missing);
    let (near, far) = pair().await;
    let (said, done) =
        tokio::join!(send(near, here.save(&wanted.image).unwrap()), exchange(&there, &wanted, far));
    assert_eq!((said.unwrap(), done), (ImageAnswer::Done, Ok(())));
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Present);
    other.state.lock().images.remove(NAME);
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Unnamed);
    there.name_image(&wanted.facts.id, &wanted.image).await.unwrap();
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Present);
}

#[tokio::test]
async fn what_breaks_off_leaves_nothing() {
    let (_one, here, other, there, wanted) = two().await;
    let (near, far) = pair().await;
    let half = here.save(&wanted.image).unwrap().take(5).chain(futures_util::stream::pending());
    let cut = async {
        let sending = send(near, half);
        assert!(tokio::time::timeout(Duration::from_millis(300), sending).await.is_err(), "it was to hang");
    };
    let ((), done) = tokio::join!(cut, exchange(&there, &wanted, far));
    assert_eq!(done.unwrap_err().code, "TRANSFER_INTERRUPTED");
    assert!(other.state.lock().images.is_empty());
}

#[tokio::test]
async fn an_engine_that_refuses_is_heard_at_the_other_end() {
    let (_one, here, other, there, wanted) = two().await;
    for (why, code) in [
        ("write /var/lib/docker/tmp/x: no space left on device", "DISK_FULL"),
        ("unsupported manifest", "IMAGE_PUSH_FAILED"),
    ] {
        other.state.lock().full = Some(why.into());
        let (near, far) = pair().await;
        let (said, done) =
            tokio::join!(send(near, here.save(&wanted.image).unwrap()), exchange(&there, &wanted, far));
        let ImageAnswer::Failed(failure) = said.unwrap() else { panic!("it was refused") };
        assert!(failure.code == code && failure.message.contains(why), "{failure:?}");
        assert_eq!(done, Err(failure));
    }
}

#[tokio::test]
async fn another_image_under_the_name_is_not_taken_for_the_one() {
    let (one, here, _other, there, wanted) = two().await;
    // Built anew between the look and the sending.
    one.state.lock().images.insert(NAME.into(), NEWER.into());
    let (near, far) = pair().await;
    let (said, done) =
        tokio::join!(send(near, here.save(&wanted.image).unwrap()), exchange(&there, &wanted, far));
    assert!(matches!(said.unwrap(), ImageAnswer::Failed(_)));
    assert!(done.unwrap_err().message.contains(NEWER));
}

#[tokio::test]
async fn an_image_that_is_gone_is_the_engines_failure() {
    let (one, here, _other, there, wanted) = two().await;
    one.state.lock().images.clear();
    let (near, far) = pair().await;
    let (said, done) =
        tokio::join!(send(near, here.save(&wanted.image).unwrap()), exchange(&there, &wanted, far));
    let Err(Broken::Body(error)) = said else { panic!("it was sent") };
    assert_eq!(failed(error).code, "IMAGE_PUSH_FAILED");
    assert_eq!(done.unwrap_err().code, "TRANSFER_INTERRUPTED");
}

#[tokio::test]
async fn a_name_moves_only_to_an_image_that_is_there_and_the_one_that_is_meant() {
    let (_one, _here, other, there, wanted) = two().await;
    other.state.lock().images.insert(NAME.into(), NEWER.into());
    let leads_to = || other.state.lock().images[NAME].clone();
    assert_eq!(name(&there, &wanted).await.unwrap_err().code, "IMAGE_NOT_FOUND");
    assert_eq!(leads_to(), NEWER, "the image is not there");
    // The fake makes the content of the id, so this one's is another.
    other.state.lock().images.insert(ID.into(), NEWER.into());
    assert_eq!(name(&there, &wanted).await.unwrap_err().code, "IMAGE_NOT_FOUND");
    assert_eq!((leads_to(), other.asked("/tag").len()), (NEWER.to_owned(), 0), "it is another image");
    other.state.lock().images.insert(ID.into(), ID.into());
    name(&there, &wanted).await.unwrap();
    assert_eq!(leads_to(), ID);
}

/// Every string of every command, replaced by what a machine that lies would write there.
#[test]
fn no_string_of_an_image_command_reaches_a_path_outside_its_slot() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_one, _here, other, there, wanted) = runtime.block_on(two());
    let fetch = ImageFetch {
        wanted: wanted.clone(),
        from: "n2".parse().unwrap(),
        port: 4319,
        ticket: "00".repeat(32),
    };
    let commands =
        [ImageCommand::Look(wanted.clone()), ImageCommand::Name(wanted), ImageCommand::Fetch(fetch)];
    let commands = commands.map(|command| serde_json::to_value(command).unwrap());
    let one = |text: &str| {
        for value in commands.iter().flat_map(|command| hostile::variants(command, text)) {
            let Ok(command) = serde_json::from_value::<ImageCommand>(value) else { continue };
            let wanted = command.wanted();
            let slots = BTreeSet::from([wanted.image.to_string(), wanted.facts.id.to_string()]);
            other.state.lock().asked.clear();
            runtime.block_on(async {
                let _ = look(&there, wanted).await;
                let _ = name(&there, wanted).await;
            });
            assert!(!other.asked("/images/").is_empty());
            assert_eq!(hostile::strays(&other, &slots), [] as [&str; 0], "{text}");
        }
    };
    hostile::TEXTS.iter().for_each(|text| one(text));
    proptest!(ProptestConfig::with_cases(64), |(text in hostile::text())| one(&text));
}
