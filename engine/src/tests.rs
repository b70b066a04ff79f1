//! The hands on Docker against an engine that answers recorded shapes.

#![allow(clippy::unwrap_used)]

use crate::docker::Docker;
use crate::error::DockerError;
use crate::fake::{Fake, RECORDED_20, RECORDED_26, RECORDED_28, container, foreign, network, spec};
use crate::network::{self as docker_network, Ensured, NetworkSpec};
use crate::read;
use crate::readiness::{self, Answer, Tally, UnderWay};
use crate::watch::{self, Engine, View};
use ployz_core::address::AddressPlan;
use ployz_core::adopt::Seen;
use ployz_core::live::{ContainerLive, ContainerState};
use ployz_core::spec::container::BRIDGE;
use ployz_core::wire::v1::manifest::{Check, HttpCheck, Readiness, Service, Span};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn network_spec() -> NetworkSpec {
    let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
    NetworkSpec { network: network(), subnet: plan.slice(0).unwrap(), mtu: 1420 }
}

async fn docker(fake: &Fake) -> Docker {
    fake.connect().await
}

async fn until(view: &mut tokio::sync::watch::Receiver<View>, what: impl FnMut(&View) -> bool) -> View {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, view.wait_for(what)).await.expect("in time").expect("the watch lives").clone()
}

fn parsed(recorded: &str) -> ContainerLive {
    read::container(serde_json::from_str(recorded).unwrap())
}

#[test]
fn recorded_inspections_read_the_same_on_every_version() {
    for (recorded, address) in
        [(RECORDED_20, "10.101.0.9"), (RECORDED_26, "10.101.0.9"), (RECORDED_28, "10.101.1.9")]
    {
        let live = parsed(recorded);
        assert_eq!(live.name, "prod.web-x7k2");
        assert_eq!(live.owner().unwrap().instance.to_string(), "web-x7k2");
        assert_eq!(live.networks["ployz"], Some(address.parse().unwrap()));
        assert_eq!(live.env["A"], "b=c");
        assert_eq!(live.command, ["sleep", "1000"]);
        assert_eq!(live.search, ["prod.ployz.internal"]);
        assert_eq!(live.restart, "unless-stopped");
        assert_eq!((live.cpu_millis, live.memory), (None, None));
        assert_eq!(live.state, ContainerState::Running);
        assert_eq!(live.publish.len(), 1);
    }
}

#[tokio::test]
async fn what_is_created_is_adopted() {
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    let spec = spec();
    let id = docker.create(&spec).await.unwrap();
    docker.start(&id).await.unwrap();
    let Seen::Present(live) = docker.instance(&spec).await else { panic!("not there") };
    assert_eq!(spec.identity().drift(&live.identity(&spec)), []);
    assert_eq!(live.state, ContainerState::Running);
    assert_eq!(live.owner(), Some(spec.owner.clone()));
    docker.stop(&live.id, Duration::from_secs(1)).await.unwrap();
    assert!(fake.asked("/stop").iter().all(|line| line.ends_with("t=1")), "{:?}", fake.asked("/stop"));
    docker.remove(&live.id).await.unwrap();
    docker.remove(&live.id).await.expect("what is gone is removed");
    assert_eq!(docker.instance(&spec).await, Seen::Absent);
}

#[tokio::test]
async fn a_container_that_is_not_ours_is_never_listed_or_touched() {
    let fake = Fake::start("1.45");
    fake.put(container("ours", "prod.web-a"));
    fake.put(foreign("theirs", "prod.web-x7k2"));
    let mut other = container("other-network", "prod.web-b");
    other["Config"]["Labels"]["ployz.network"] = "08080808080808080808080808080808".into();
    fake.put(other);
    let docker = docker(&fake).await;
    let names: Vec<String> = docker.list().await.unwrap().into_iter().map(|live| live.id).collect();
    assert_eq!(names, ["ours"]);
    for id in ["theirs", "other-network", "prod.web-x7k2"] {
        for result in [
            docker.remove(id).await,
            docker.stop(id, Duration::ZERO).await,
            docker.start(id).await,
            docker.command(id, &["true".into()]).await.map(drop),
            docker.logs(id, Default::default()).await.map(drop),
        ] {
            assert!(matches!(result, Err(DockerError::Foreign { .. })), "{id}: {result:?}");
        }
    }
    let taken = docker.create(&spec()).await.unwrap_err();
    assert_eq!(taken.status(), Some(409), "{taken}");
    let wrote: Vec<String> = fake.asked("").into_iter().filter(|line| !line.starts_with("GET ")).collect();
    assert!(wrote.iter().all(|line| line.starts_with("POST /containers/create")), "{wrote:?}");
}

#[tokio::test]
async fn every_version_from_20_10_on_is_spoken_to() {
    for api in ["1.41", "1.45", "1.51", "1.60"] {
        let fake = Fake::start(api);
        let docker = docker(&fake).await;
        docker.ping().await.unwrap();
        assert_eq!(docker.version(), "26.1.5+dfsg1");
        // A version in the path that the engine does not know is refused by it.
        let minor: u32 = api.split_once('.').unwrap().1.parse().unwrap();
        for line in fake.asked("/v1.") {
            let asked =
                line.split("/v1.").nth(1).and_then(|rest| rest.split('/').next()?.parse::<u32>().ok());
            assert!(asked.is_none_or(|asked| asked <= minor), "{api}: {line}");
        }
    }
}

#[tokio::test]
async fn no_engine_is_a_value() {
    let nowhere = Docker::connect(Path::new("/nonexistent/docker.sock"), &network()).await;
    assert!(matches!(nowhere, Err(DockerError::Unavailable { .. })));
    let dead = std::env::temp_dir().join(format!("ployz-dead-docker-{}", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let refused = Docker::connect(&dead, &network()).await;
    std::fs::remove_file(&dead).unwrap();
    assert!(matches!(refused, Err(DockerError::Unavailable { .. })));
}

#[tokio::test]
async fn an_engine_that_hangs_is_given_up_in_time() {
    let fake = Fake::start("1.45");
    fake.put(container("ours", "prod.web-a"));
    let docker = docker(&fake).await;
    fake.state.lock().hangs = true;
    tokio::time::pause();
    assert!(matches!(docker.list().await, Err(DockerError::Late { .. })));
    assert!(matches!(docker.inspect("ours").await, Seen::Unknown(_)), "unknown is not absent");
    assert!(matches!(docker.remove("ours").await, Err(DockerError::Late { .. })));
    assert!(matches!(Docker::connect(&fake.socket, &network()).await, Err(DockerError::Unavailable { .. })));
}

#[tokio::test]
async fn the_network_is_made_adopted_and_held() {
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    let wanted = network_spec();
    assert_eq!(docker_network::ensure(&docker, &wanted).await.unwrap(), Ensured::Ready("net-made".into()));
    let writes = fake.asked("POST ").len();
    assert_eq!(docker_network::ensure(&docker, &wanted).await.unwrap(), Ensured::Ready("net-made".into()));
    assert_eq!(fake.asked("POST ").len(), writes, "adopting writes nothing");

    // Ours, with another subnet: made anew, unless a container is on it.
    let moved = NetworkSpec { mtu: 1380, ..wanted.clone() };
    fake.put(container("ours", "prod.web-a"));
    let held = docker_network::ensure(&docker, &moved).await.unwrap();
    assert!(matches!(&held, Ensured::Held(why) if why.contains("mtu: 1420 -> 1380")), "{held:?}");
    fake.state.lock().containers.clear();
    assert!(matches!(docker_network::ensure(&docker, &moved).await.unwrap(), Ensured::Ready(_)));

    // Left by a network that is gone: made anew, but not taken away by a network that it never was of.
    fake.state.lock().networks[0]["Labels"]["ployz.network"] = "08080808080808080808080808080808".into();
    assert!(!docker_network::remove(&docker).await.unwrap());
    assert!(matches!(docker_network::ensure(&docker, &wanted).await.unwrap(), Ensured::Ready(_)));
    assert_eq!(fake.state.lock().networks[0]["Labels"]["ployz.network"], network().to_string());

    // Somebody else's with our name.
    fake.state.lock().networks[0]["Labels"] = json!({});
    let held = docker_network::ensure(&docker, &wanted).await.unwrap();
    assert!(matches!(held, Ensured::Held(_)), "{held:?}");
    assert!(!docker_network::remove(&docker).await.unwrap());
    assert_eq!(fake.state.lock().networks.len(), 1);
}

#[tokio::test]
async fn the_view_follows_events_and_outlives_the_engine() {
    let fake = Fake::start("1.45");
    docker(&fake).await;
    let (view, mut seen) = tokio::sync::watch::channel(View::default());
    let (_checks, asked) = tokio::sync::watch::channel(Default::default());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch::run(fake.socket.clone(), network_spec(), asked, view, cancel.clone()));
    until(&mut seen, |view| matches!(view.engine, Engine::Live(_))).await;

    fake.put(container("ours", "prod.web-x7k2"));
    fake.put(foreign("theirs", "nginx"));
    fake.emit("start", "ours");
    let found = until(&mut seen, |view| view.instances.len() == 1).await;
    let one = found.instances.values().next().unwrap();
    assert!(one.ready && one.state == ContainerState::Running, "{one:?}");

    fake.state.lock().containers.get_mut("ours").unwrap()["State"]["Status"] = "exited".into();
    fake.emit("die", "ours");
    until(&mut seen, |view| view.instances.values().all(|one| !one.ready)).await;

    fake.stop();
    let old = until(&mut seen, |view| matches!(view.engine, Engine::Away { .. })).await;
    assert_eq!(old.instances.len(), 1, "unknown is not absent");
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_network_that_is_pruned_is_made_again_at_once() {
    let fake = Fake::start("1.45");
    docker(&fake).await;
    let (view, mut seen) = tokio::sync::watch::channel(View::default());
    let (_checks, asked) = tokio::sync::watch::channel(Default::default());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch::run(fake.socket.clone(), network_spec(), asked, view, cancel.clone()));
    until(&mut seen, |view| matches!(view.network, Ensured::Ready(_))).await;
    // Also by a look that comes half a minute later; this is for much less.
    for _ in 0..3 {
        fake.prune_networks();
        let limit = tokio::time::Instant::now() + Duration::from_secs(5);
        while fake.state.lock().networks.is_empty() {
            assert!(tokio::time::Instant::now() < limit, "not made again: {:?}", *seen.borrow());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn two_who_ask_for_the_network_at_once_make_one() {
    let fake = Fake::start("1.45");
    let (docker, wanted) = (docker(&fake).await, network_spec());
    let asked = (0..4).map(|_| docker_network::ensure(&docker, &wanted));
    for ensured in futures_util::future::join_all(asked).await {
        assert_eq!(ensured.unwrap(), Ensured::Ready("net-made".into()));
    }
    assert_eq!(fake.state.lock().networks.len(), 1);
}

#[tokio::test]
async fn readiness_counts_answers_in_a_row() {
    let mut tally = Tally::new(2, false);
    let no = || Answer::No("refused".to_owned());
    assert!(!tally.count(Answer::Yes));
    assert!(!tally.count(no()));
    assert!(!tally.count(Answer::Yes));
    assert!(tally.count(Answer::Yes));
    assert!(tally.count(no()) && tally.count(no()), "one lost packet takes nobody out");
    assert!(tally.count(Answer::Unknown("no engine".into())), "unknown is not no");
    assert!(!tally.count(no()));
    assert_eq!(tally.why_not.as_deref(), Some("refused"));
    let mut carried = Tally::new(5, true);
    assert!(carried.count(Answer::Yes) && carried.count(no()) && carried.count(no()) && !carried.count(no()));
}

#[tokio::test]
async fn http_and_tcp_are_asked_with_a_deadline() {
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    let app = axum::Router::new()
        .route("/up", axum::routing::get(|| async { "yes" }))
        .route("/down", axum::routing::get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }))
        .route("/slow", axum::routing::get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let limit = Duration::from_millis(500);
    let http = |path: &str| Check::Http(HttpCheck::plain(at.port(), path.parse().unwrap()));
    let way = UnderWay::default();
    let ask = async |check: &Check| readiness::ask(&docker, "ours", at.ip(), check, limit, &way).await;
    assert_eq!(ask(&http("/up")).await, Answer::Yes);
    assert_eq!(ask(&Check::Tcp { port: at.port() }).await, Answer::Yes);
    assert_eq!(ask(&http("/down")).await, Answer::No("GET /down: 503 Service Unavailable".into()));
    assert_eq!(ask(&http("/slow")).await, Answer::No("no answer within 500ms".into()));
    assert!(matches!(ask(&Check::Tcp { port: 1 }).await, Answer::No(_)));
}

/// The check of a service whose readiness is this, at this port.
fn checked(port: u16, readiness: serde_json::Value) -> Check {
    let mut wanted = json!({"kind": "http", "port": port});
    wanted.as_object_mut().unwrap().extend(readiness.as_object().unwrap().clone());
    let service = json!({"name": "web", "image": "web", "ports": [{"port": port}], "readiness": wanted});
    serde_json::from_value::<Service>(service).unwrap().readiness.unwrap().check
}

/// An application that answers 200 only to what it wants to be asked, and with a redirect elsewhere.
fn choosy() -> axum::Router {
    let choose = |request: axum::extract::Request| async move {
        let said =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        let right = said("host") == "shop.example.org" && said("x-probe") == "yes";
        if right { axum::http::StatusCode::NO_CONTENT } else { axum::http::StatusCode::BAD_REQUEST }
    };
    let moved = || async { (axum::http::StatusCode::FOUND, [("location", "http://192.0.2.1/")]) };
    let full = |uri: axum::http::Uri| async move {
        let asked = uri.query() == Some("a=1&b=/?");
        if asked { axum::http::StatusCode::OK } else { axum::http::StatusCode::BAD_REQUEST }
    };
    let head = |method: axum::http::Method| async move {
        if method == "HEAD" { axum::http::StatusCode::OK } else { axum::http::StatusCode::METHOD_NOT_ALLOWED }
    };
    axum::Router::new()
        .route("/up", axum::routing::get(choose))
        .route("/moved", axum::routing::get(moved))
        .route("/full", axum::routing::get(full))
        .route("/head", axum::routing::any(head))
}

#[tokio::test]
async fn an_http_check_asks_as_it_is_written_and_takes_the_statuses_it_names() {
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, choosy()).await });
    let (way, limit) = (UnderWay::default(), Duration::from_secs(5));
    let ask = async |readiness: serde_json::Value| {
        let check = checked(at.port(), readiness);
        readiness::ask(&docker, "ours", at.ip(), &check, limit, &way).await
    };
    let no = |why: &str| Answer::No(why.to_owned());
    let right = json!({"path": "/up", "host": "shop.example.org", "headers": {"X-Probe": "yes"}});
    assert_eq!(ask(right.clone()).await, Answer::Yes);
    assert_eq!(ask(json!({"path": "/up"})).await, no("GET /up: 400 Bad Request"));
    let mut narrow = right;
    narrow["statuses"] = json!([200, "301-399"]);
    assert_eq!(ask(narrow).await, no("GET /up: 204 No Content, not 200, 301-399"));
    // Not followed: where it leads there is nothing.
    assert_eq!(ask(json!({"path": "/moved"})).await, Answer::Yes);
    assert_eq!(
        ask(json!({"path": "/moved", "statuses": ["200-299"]})).await,
        no("GET /moved: 302 Found, not 200-299")
    );
    assert_eq!(ask(json!({"path": "/head", "method": "HEAD"})).await, Answer::Yes);
    assert_eq!(ask(json!({"path": "/head"})).await, no("GET /head: 405 Method Not Allowed"));
    assert_eq!(ask(json!({"path": "/full?a=1&b=/?"})).await, Answer::Yes);
    assert_eq!(ask(json!({"path": "/full"})).await, no("GET /full: 400 Bad Request"));
    let tls = ask(json!({"path": "/up", "scheme": "https"})).await;
    assert!(
        matches!(&tls, Answer::No(why) if why.starts_with(&format!("port {}: TLS: ", at.port()))),
        "{tls:?}"
    );
}

#[tokio::test]
async fn an_https_check_takes_a_self_signed_certificate_and_asks_for_its_host() {
    use rustls::crypto::ring;
    let made = rcgen::generate_simple_self_signed(["inside.example.org".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (names, mut asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(stream).await else { continue };
            names.send(tls.get_ref().1.server_name().map(str::to_owned)).unwrap();
            let service = hyper_util::service::TowerToHyperService::new(choosy());
            let io = hyper_util::rt::TokioIo::new(tls);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    let (way, limit) = (UnderWay::default(), Duration::from_secs(5));
    for (host, status, name) in [
        (Some("shop.example.org"), 204, Some("shop.example.org")),
        (Some("shop.example.org:8443"), 400, Some("shop.example.org")),
        (None, 400, None),
    ] {
        let mut wanted =
            json!({"path": "/up", "scheme": "https", "headers": {"X-Probe": "yes"}, "statuses": [status]});
        if let Some(host) = host {
            wanted["host"] = json!(host);
        }
        let check = checked(at.port(), wanted);
        let answer = readiness::ask(&docker, "ours", at.ip(), &check, limit, &way).await;
        assert_eq!(answer, Answer::Yes, "{host:?}");
        assert_eq!(asked.recv().await.unwrap().as_deref(), name);
    }
}

#[tokio::test]
async fn a_check_that_hangs_is_begun_once() {
    let fake = Fake::start("1.45");
    fake.put(container("ours", "prod.web-a"));
    let docker = docker(&fake).await;
    let (way, check) = (UnderWay::default(), Check::Exec { command: vec!["sleep".into(), "9999".into()] });
    let limit = Duration::from_millis(100);
    let ask = async || readiness::ask(&docker, "ours", [127, 0, 0, 1].into(), &check, limit, &way).await;
    let begun = || fake.state.lock().commands.len();
    assert_eq!(ask().await, Answer::No("no answer within 100ms".into()));
    for _ in 0..3 {
        assert_eq!(ask().await, Answer::No("the previous command has not ended".into()));
    }
    assert_eq!(begun(), 1, "each interval would leave one more process in the container");
    fake.state.lock().commands.insert("command-0".into(), false);
    let (answer, ()) = tokio::join!(ask(), async {
        while begun() < 2 || !fake.state.lock().commands["command-1"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fake.state.lock().commands.insert("command-1".into(), false);
    });
    assert_eq!(answer, Answer::Yes);
    fake.stop();
    assert!(matches!(ask().await, Answer::Unknown(_)), "no engine is not a no of the container");
}

/// A container of its own address that listens, and the view of it.
struct Asked {
    fake: Fake,
    listener: tokio::net::TcpListener,
    checks: tokio::sync::watch::Sender<watch::Checks>,
    seen: tokio::sync::watch::Receiver<View>,
    cancel: CancellationToken,
}

impl Asked {
    async fn new(checked: bool) -> Self {
        let fake = Fake::start("1.45");
        docker(&fake).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut here = container("ours", "prod.web-x7k2");
        here["NetworkSettings"]["Networks"] = json!({BRIDGE: {"IPAMConfig": {"IPv4Address": "127.0.0.1"}}});
        fake.put(here);
        let port = listener.local_addr().unwrap().port();
        let (checks, asked) = tokio::sync::watch::channel(Default::default());
        let (view, seen) = tokio::sync::watch::channel(View::default());
        let cancel = CancellationToken::new();
        tokio::spawn(watch::run(fake.socket.clone(), network_spec(), asked, view, cancel.clone()));
        let mut this = Self { fake, listener, checks, seen, cancel };
        if checked {
            this.check(port, 100);
        }
        this.until_ready().await;
        this
    }

    /// How it is asked from now on.
    fn check(&self, port: u16, interval: u64) {
        let readiness = Readiness {
            check: Check::Tcp { port },
            interval: Span::from_millis(interval),
            timeout: Span::from_millis(500),
            threshold: 2,
            deadline: Span::from_secs(10),
        };
        let key = ("prod".parse().unwrap(), "web-x7k2".parse().unwrap());
        self.checks.send_replace(Arc::new(BTreeMap::from([(key, readiness)])));
    }

    async fn until_ready(&mut self) {
        until(&mut self.seen, |view| view.instances.values().any(|one| one.ready)).await;
    }

    /// Watches every view until the engine was asked so many more times, for one in which it is not ready.
    async fn never_unready_while_listed(&mut self, times: usize) {
        let before = self.fake.asked("/containers/json").len();
        let limit = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.fake.asked("/containers/json").len() < before + times {
            assert!(tokio::time::Instant::now() < limit, "nobody looks");
            let _ = tokio::time::timeout(Duration::from_millis(20), self.seen.changed()).await;
            let view = self.seen.borrow_and_update().clone();
            assert!(view.instances.values().any(|one| one.ready), "taken out: {view:?}");
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test]
async fn a_new_connection_to_the_engine_takes_nobody_out_of_service() {
    let mut asked = Asked::new(true).await;
    // One that would need a while for new answers.
    asked.check(asked.listener.local_addr().unwrap().port(), 5_000);
    asked.until_ready().await;
    asked.fake.cut();
    asked.never_unready_while_listed(2).await;
}

#[tokio::test]
async fn another_check_takes_nobody_out_before_it_has_an_answer() {
    let mut asked = Asked::new(false).await;
    asked.check(asked.listener.local_addr().unwrap().port(), 60_000);
    asked.never_unready_while_listed(1).await;
    // Nobody listens there: the new answer counts when it is there.
    asked.check(1, 50);
    until(&mut asked.seen, |view| view.instances.values().all(|one| !one.ready)).await;
}

#[tokio::test]
async fn one_slow_inspection_hides_no_other_container() {
    let mut asked = Asked::new(true).await;
    asked.fake.state.lock().mute = Some("ours".into());
    let mut other = container("other", "prod.web-b");
    other["Config"]["Labels"]["ployz.instance"] = "web-b".into();
    asked.fake.put(other);
    asked.fake.emit("start", "other");
    let now = until(&mut asked.seen, |view| view.instances.len() == 2).await;
    assert!(matches!(now.engine, Engine::Live(_)));
    assert!(now.instances.values().all(|one| one.ready), "what is not known is as it was: {now:?}");
    let docker = docker(&asked.fake).await;
    assert!(docker.list().await.is_err(), "a list is whole or none");
    let found = docker.survey().await.unwrap();
    assert_eq!((found.live.len(), found.silent.len()), (1, 1));
    assert_eq!(found.silent[0].owner.as_ref().unwrap().instance.as_str(), "web-x7k2");
}

#[tokio::test]
async fn a_container_with_a_check_is_ready_when_it_answers() {
    let fake = Fake::start("1.45");
    docker(&fake).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut here = container("ours", "prod.web-x7k2");
    here["NetworkSettings"]["Networks"] = json!({BRIDGE: {"IPAMConfig": {"IPv4Address": "127.0.0.1"}}});
    fake.put(here);
    let readiness = Readiness {
        check: Check::Tcp { port },
        interval: Span::from_millis(100),
        timeout: Span::from_millis(500),
        threshold: 2,
        deadline: Span::from_secs(10),
    };
    let key = ("prod".parse().unwrap(), "web-x7k2".parse().unwrap());
    let (_checks, asked) = tokio::sync::watch::channel(Arc::new(BTreeMap::from([(key, readiness)])));
    let (view, mut seen) = tokio::sync::watch::channel(View::default());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch::run(fake.socket.clone(), network_spec(), asked, view, cancel.clone()));
    let first = until(&mut seen, |view| !view.instances.is_empty()).await;
    assert!(first.instances.values().all(|one| !one.ready), "not ready before it answered");
    until(&mut seen, |view| view.instances.values().all(|one| one.ready)).await;
    drop(listener);
    let now = until(&mut seen, |view| view.instances.values().all(|one| !one.ready)).await;
    assert!(now.instances.values().next().unwrap().why_not_ready.is_some());
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn an_answer_without_end_is_not_collected() {
    let fake = Fake::start("1.45");
    let mut large = container("large", "prod.web-a");
    large["Config"]["Labels"]["x"] = "a".repeat(9 << 20).into();
    fake.put(large);
    fake.put(container("small", "prod.web-b"));
    let docker = docker(&fake).await;
    let Seen::Unknown(why) = docker.inspect("large").await else { panic!("it was read whole") };
    assert!(why.contains("longer than 8 MiB"), "{why}");
    assert!(matches!(docker.inspect("small").await, Seen::Present(_)));
}

#[tokio::test]
async fn what_would_be_another_call_is_not_asked() {
    let fake = Fake::start("1.45");
    let docker = docker(&fake).await;
    fake.state.lock().asked.clear();
    for text in crate::hostile::TEXTS.into_iter().filter(|text| *text != "foreign") {
        assert!(docker.find_image(text).await.is_err(), "{text}");
        assert!(matches!(docker.inspect(text).await, Seen::Unknown(_)), "{text}");
        assert!(docker.remove(text).await.is_err(), "{text}");
        assert!(docker.run(text, Duration::from_secs(1)).await.is_err(), "{text}");
        assert!(docker.goes_on(text).await.is_err(), "{text}");
    }
    assert_eq!(fake.asked(""), [] as [&str; 0]);
}

#[test]
fn the_host_table_names_the_events_that_the_network_is_looked_at_after() {
    use ployz_core::host::{HostPart, table::TABLE};
    let row = TABLE.iter().find(|row| row.part == HostPart::DockerNetwork).unwrap();
    for event in crate::docker::NETWORK_EVENTS {
        assert!(row.noticed.contains(&format!("`{event}`")), "{event}: {}", row.noticed);
    }
}
