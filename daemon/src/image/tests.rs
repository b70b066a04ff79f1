//! Two engines and a connection between them: whole, broken off, refused.

use super::failed;
use super::fetch::{exchange, look};
use crate::transfer::stream::{self, Broken};
use crate::workload::docker::Docker;
use crate::workload::fake::{Fake, network};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ployz_core::wire::v1::image::{ImageAnswer, ImageState, ImageWanted};
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "lab/web:2";
const ID: &str = "sha256:2";

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
        one.state.lock().unwrap().images.insert(name.into(), ID.into());
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
    let (said, done) = tokio::join!(send(near, here.save(NAME)), exchange(&there, &wanted, far));
    assert_eq!((said.unwrap(), done), (ImageAnswer::Done, Ok(())));
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Present);
    other.state.lock().unwrap().images.remove(NAME);
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Unnamed);
    there.name_image(ID, NAME).await.unwrap();
    assert_eq!(look(&there, &wanted).await.unwrap().state(&wanted.facts), ImageState::Present);
}

#[tokio::test]
async fn what_breaks_off_leaves_nothing() {
    let (_one, here, other, there, wanted) = two().await;
    let (near, far) = pair().await;
    let half = here.save(NAME).take(5).chain(futures_util::stream::pending());
    let cut = async {
        let sending = send(near, half);
        assert!(tokio::time::timeout(Duration::from_millis(300), sending).await.is_err(), "it was to hang");
    };
    let ((), done) = tokio::join!(cut, exchange(&there, &wanted, far));
    assert_eq!(done.unwrap_err().code, "TRANSFER_INTERRUPTED");
    assert!(other.state.lock().unwrap().images.is_empty());
}

#[tokio::test]
async fn an_engine_that_refuses_is_heard_at_the_other_end() {
    let (_one, here, other, there, wanted) = two().await;
    for (why, code) in [
        ("write /var/lib/docker/tmp/x: no space left on device", "DISK_FULL"),
        ("unsupported manifest", "IMAGE_PUSH_FAILED"),
    ] {
        other.state.lock().unwrap().full = Some(why.into());
        let (near, far) = pair().await;
        let (said, done) = tokio::join!(send(near, here.save(NAME)), exchange(&there, &wanted, far));
        let ImageAnswer::Failed(failure) = said.unwrap() else { panic!("it was refused") };
        assert!(failure.code == code && failure.message.contains(why), "{failure:?}");
        assert_eq!(done, Err(failure));
    }
}

#[tokio::test]
async fn another_image_under_the_name_is_not_taken_for_the_one() {
    let (one, here, _other, there, wanted) = two().await;
    // Built anew between the look and the sending.
    one.state.lock().unwrap().images.insert(NAME.into(), "sha256:3".into());
    let (near, far) = pair().await;
    let (said, done) = tokio::join!(send(near, here.save(NAME)), exchange(&there, &wanted, far));
    assert!(matches!(said.unwrap(), ImageAnswer::Failed(_)));
    assert!(done.unwrap_err().message.contains("sha256:3"));
}

#[tokio::test]
async fn an_image_that_is_gone_is_the_engines_failure() {
    let (one, here, _other, there, wanted) = two().await;
    one.state.lock().unwrap().images.clear();
    let (near, far) = pair().await;
    let (said, done) = tokio::join!(send(near, here.save(NAME)), exchange(&there, &wanted, far));
    let Err(Broken::Body(error)) = said else { panic!("it was sent") };
    assert_eq!(failed(error).code, "IMAGE_PUSH_FAILED");
    assert_eq!(done.unwrap_err().code, "TRANSFER_INTERRUPTED");
}
