//! On a real server.

use super::*;
use ployz_core::id::{DeployId, NetworkId};
use ployz_core::wire::v1::deploy::{Decision, DeployPhase, VERSION};
use ployz_nats::deploys;
use ployz_nats::store::Store;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A server with a store; ended, and its directory removed, when dropped.
struct Server(Child, PathBuf, String);

impl Server {
    fn start(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Command::new(root.join("packaging/fetch-nats.sh")).status().unwrap().success());
        let dir = std::env::temp_dir().join(format!("ployz-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = format!(
            "listen: \"{address}\"\njetstream: {{ store_dir: \"{}\", domain: \"hub\" }}\n",
            dir.display()
        );
        std::fs::write(dir.join("conf"), config).unwrap();
        let mut server = Command::new(root.join("target/vendor/nats-server"));
        server.arg("-c").arg(dir.join("conf")).stdout(Stdio::null()).stderr(Stdio::null());
        Self(server.spawn().unwrap(), dir, address)
    }

    async fn connect(&self) -> async_nats::Client {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match async_nats::connect(&self.2).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn status(namespace: &str, deploy: &DeployId, base: Option<&DeployId>) -> DeployStatus {
    DeployStatus {
        version: VERSION,
        namespace: namespace.parse().unwrap(),
        deploy: deploy.clone(),
        coordinator: "n1".parse().unwrap(),
        phase: DeployPhase::Undone,
        base: base.cloned(),
        manifest_hash: String::new(),
        work: Vec::new(),
        failure: None,
        debts: Vec::new(),
        started_at: 1,
        updated_at: 1,
    }
}

fn deploys() -> Vec<DeployId> {
    (0..6).map(|number| DeployId::from_bytes([number; 8])).collect()
}

async fn decided(server: &Server) -> Records {
    let network: NetworkId = "00112233445566778899aabbccddeeff".parse().unwrap();
    let client = server.connect().await;
    let store = Store::open(client.clone(), &network, true).await.unwrap();
    deploys::ensure(&client, &network).await.unwrap();
    let records = Records::open(&store).await.unwrap();
    for (number, deploy) in deploys().into_iter().enumerate() {
        let namespace = if number % 2 == 0 { "shop" } else { "blog" }.parse().unwrap();
        let by = "n1".parse().unwrap();
        let decision = Decision::Abandoned { version: VERSION, namespace, deploy, by, at: 1 };
        let Decision::Abandoned { namespace, .. } = &decision else { unreachable!() };
        records.decide(namespace, &decision).await.unwrap();
    }
    records
}

async fn left(records: &Records) -> Vec<usize> {
    let mut found = Vec::new();
    for (number, deploy) in deploys().iter().enumerate() {
        for namespace in ["shop", "blog"] {
            let decision = records.decision(&namespace.parse().unwrap(), deploy).await.unwrap();
            found.extend(decision.map(|_| number));
        }
    }
    found
}

const LATER: u64 = u64::MAX;

#[tokio::test]
async fn what_a_status_refers_to_stays_and_the_rest_is_forgotten_when_it_is_old() {
    let server = Server::start("prune");
    let (records, deploys) = (decided(&server).await, deploys());
    records.put_status(&status("shop", &deploys[4], Some(&deploys[0])), None).await.unwrap();
    records.put_status(&status("blog", &deploys[3], None), None).await.unwrap();
    let mut from = 1;
    assert_eq!(prune(&records, 1_000, &mut from).await.unwrap(), 0, "too young");
    assert_eq!(left(&records).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(prune(&records, LATER, &mut from).await.unwrap(), 3);
    assert_eq!(left(&records).await, [0, 3, 4]);
    assert_eq!(prune(&records, LATER, &mut 1).await.unwrap(), 0, "again");
    assert_eq!(left(&records).await, [0, 3, 4]);
}

#[tokio::test]
async fn what_belongs_to_a_namespace_without_a_status_stays() {
    let server = Server::start("prune-unknown");
    let (records, deploys) = (decided(&server).await, deploys());
    records.put_status(&status("shop", &deploys[4], None), None).await.unwrap();
    assert_eq!(prune(&records, LATER, &mut 1).await.unwrap(), 2);
    assert_eq!(left(&records).await, [1, 3, 4, 5]);
}

#[tokio::test]
async fn nothing_of_a_namespace_is_forgotten_while_its_status_cannot_be_read() {
    let server = Server::start("prune-damaged");
    let (records, deploys) = (decided(&server).await, deploys());
    let js = async_nats::jetstream::with_domain(server.connect().await, "hub");
    let statuses = js.get_key_value("deploy_status").await.unwrap();
    statuses.put("shop", "{".into()).await.unwrap();
    records.put_status(&status("blog", &deploys[3], None), None).await.unwrap();
    assert_eq!(prune(&records, LATER, &mut 1).await.unwrap(), 2);
    assert_eq!(left(&records).await, [0, 2, 3, 4], "all of shop, and what blog refers to");
}
