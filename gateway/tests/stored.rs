//! Certificates of the store on real servers (founder and leaf, users with exactly their rights): served by name, replaced
//! while connections live, kept while the store is away.
#![allow(clippy::unwrap_used)]

mod common;

use async_nats::jetstream::{self, kv};
use common::*;
use nkeys::KeyPair;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::certificate::CertificateRecord;
use ployz_core::wire::v1::subject::{self, CERTIFICATES, DOMAIN};
use ployz_gateway::stored::{Following, Stored};
use ployz_gateway::tls::Certificates;
use ployz_nats::permissions::{self, Rights};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Founder and leaf.
struct Store {
    dir: PathBuf,
    machine: MachineId,
    founder: KeyPair,
    gateway: KeyPair,
    dns: KeyPair,
    hub: SocketAddr,
    leaf: SocketAddr,
    running: Vec<(String, Child)>,
}

impl Store {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Command::new(root.join("packaging/fetch-nats.sh")).status().unwrap().success());
        let dir = std::env::temp_dir().join(format!("ployz-gateway-stored-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let machine: MachineId = "n2".parse().unwrap();
        let [founder, daemon, gateway, dns] = [(); 4].map(|()| KeyPair::new_user());
        let dns_rights = permissions::follower(&machine, "dns");
        let mut gateway_rights = permissions::follower(&machine, "gateway");
        gateway_rights = gateway_rights.and(permissions::bucket_reader(CERTIFICATES));
        // The leaf connection must be allowed what the machine's users are.
        let both = Rights {
            publish: [gateway_rights.publish.clone(), dns_rights.publish.clone()].concat(),
            subscribe: vec![format!("{}.>", subject::inbox(&machine))],
        };
        let [hub, hub_leaf, leaf] =
            [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let text = format!(
            "server_name: hub\nlisten: \"{hub}\"\njetstream: {{ store_dir: \"{}\", domain: \"{DOMAIN}\" }}\n\
             leafnodes: {{ listen: \"{hub_leaf}\" }}\nauthorization: {{ users: [ {{ nkey: \"{}\" }}\n{} ] }}\n",
            dir.join("data").display(),
            founder.public_key(),
            user(&daemon, &both)
        );
        std::fs::write(dir.join("hub.conf"), text).unwrap();
        let text = format!(
            "server_name: leaf\nlisten: \"{leaf}\"\n\
             leafnodes: {{ reconnect: \"100ms\", remotes: [{{ url: \"nats-leaf://{hub_leaf}\", nkey: \"{}\" }}] }}\n\
             authorization: {{ users: [\n{}{} ] }}\n",
            daemon.seed().unwrap(),
            user(&gateway, &gateway_rights),
            user(&dns, &dns_rights)
        );
        std::fs::write(dir.join("leaf.conf"), text).unwrap();
        let mut store = Self { dir, machine, founder, gateway, dns, hub, leaf, running: Vec::new() };
        store.run("hub");
        store.run("leaf");
        store
    }

    fn run(&mut self, name: &str) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.join(format!("{name}.log")));
        let child = Command::new(root.join("target/vendor/nats-server"))
            .arg("-c")
            .arg(self.dir.join(format!("{name}.conf")))
            .stderr(log.unwrap())
            .stdout(Stdio::null())
            .spawn();
        self.running.push((name.to_owned(), child.unwrap()));
    }

    fn kill(&mut self, name: &str) {
        self.running.retain_mut(|(found, child)| {
            if found == name {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            found != name
        });
    }

    async fn connect(&self, to: SocketAddr, key: &KeyPair, inbox: String) -> jetstream::Context {
        for _ in 0..200 {
            let options = async_nats::ConnectOptions::with_nkey(key.seed().unwrap())
                .custom_inbox_prefix(inbox.clone())
                .request_timeout(Some(Duration::from_secs(2)));
            if let Ok(client) = options.connect(format!("nats://{to}")).await {
                return jetstream::with_domain(client, DOMAIN);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{to} does not come up");
    }

    /// The bucket as the founder makes it.
    async fn bucket(&self) -> kv::Store {
        let js = self.connect(self.hub, &self.founder, "_INBOX.n1".into()).await;
        let config = jetstream::stream::Config {
            name: format!("KV_{CERTIFICATES}"),
            subjects: vec![format!("$KV.{CERTIFICATES}.>")],
            max_messages_per_subject: 1,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            ..Default::default()
        };
        js.get_or_create_stream(config).await.unwrap();
        js.get_key_value(CERTIFICATES).await.unwrap()
    }

    fn following(&self, certificates: &Arc<Certificates>) -> Following {
        Following {
            server: self.leaf,
            seed: zeroize::Zeroizing::new(self.gateway.seed().unwrap()),
            network: NetworkId::from_bytes([7; 16]),
            machine: self.machine.clone(),
            path: Some(self.dir.join("certificates.json")),
            certificates: certificates.clone(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill("hub");
        self.kill("leaf");
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn user(key: &KeyPair, rights: &Rights) -> String {
    format!(
        "{{ nkey: \"{}\", permissions: {{ publish: {{ allow: {:?} }}, subscribe: {{ allow: {:?} }} }} }}\n",
        key.public_key(),
        rights.publish,
        rights.subscribe
    )
}

fn record(name: &str) -> CertificateRecord {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    CertificateRecord {
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem().into(),
        machine: "n1".parse().unwrap(),
        imported_at: 1,
    }
}

/// A connection for a name on which exactly this certificate was shown.
async fn tls(
    running: &Running,
    name: &str,
    shown: &CertificateRecord,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(shown.chain.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(running.https).await?).await
}

async fn put(bucket: &kv::Store, key: &str, record: &CertificateRecord) {
    bucket.put(key, serde_json::to_vec(record).unwrap().into()).await.unwrap();
}

async fn served(running: &Running, name: &str, record: &CertificateRecord) -> TlsStream<TcpStream> {
    for _ in 0..1_000 {
        if let Ok(stream) = tls(running, name, record).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the certificate of {name} is not served");
}

#[tokio::test]
async fn certificates_of_the_store_are_served_replaced_live_and_kept_while_it_is_away() {
    let backend = echo_backend().await;
    let mut store = Store::start();
    let bucket = store.bucket().await;
    let certificates = Arc::new(Certificates::default());
    let running = start_with(snapshot(&one(&[HERE], backend.port)), Some(certificates.clone()), limits());
    let following = tokio::spawn(Stored::from_disk(store.following(&certificates)).follow());
    until("the empty store is known", || certificates.stored() == (0, true, None)).await;

    let (first, second, below) = (record("a.org"), record("a.org"), record("*.a.org"));
    put(&bucket, "a.org", &first).await;
    put(&bucket, "_.a.org", &below).await;
    let mut old = Client { stream: served(&running, "a.org", &first).await, buffer: Vec::new() };
    served(&running, "b.a.org", &below).await;
    assert_eq!(old.get("/").await.unwrap().status, 200);

    // Replaced: new connections get the new one, and the old connection goes on.
    put(&bucket, "a.org", &second).await;
    served(&running, "a.org", &second).await;
    assert!(tls(&running, "a.org", &first).await.is_err());
    assert_eq!(old.get("/").await.unwrap().status, 200);

    // The store is away: nothing changes, and one that starts meanwhile knows it from disk, before its first connection.
    store.kill("hub");
    store.kill("leaf");
    until("it is noticed", || !certificates.stored().1).await;
    served(&running, "a.org", &second).await;
    following.abort();
    let later = Arc::new(Certificates::default());
    let kept = Stored::from_disk(store.following(&later));
    let next = start_with(snapshot(&one(&[HERE], backend.port)), Some(later.clone()), limits());
    tls(&next, "a.org", &second).await.unwrap();
    tls(&next, "b.a.org", &below).await.unwrap();
    let following = tokio::spawn(kept.follow());

    // Back, and live again without a restart; what is taken out is not served.
    store.run("hub");
    store.run("leaf");
    until("it is live", || later.stored().1).await;
    let bucket = store.bucket().await;
    bucket.delete("_.a.org").await.unwrap();
    until("the wildcard is gone", || later.stored().0 == 1).await;
    assert!(tls(&next, "b.a.org", &below).await.is_err());
    served(&next, "a.org", &second).await;

    // Of the machine's sidecars only the gateway can read the bucket.
    let inbox = subject::sidecar_inbox(&store.machine, "dns");
    let dns = store.connect(store.leaf, &store.dns, inbox).await;
    assert!(dns.get_key_value(CERTIFICATES).await.is_err());
    let inbox = subject::sidecar_inbox(&store.machine, "gateway");
    let gateway = store.connect(store.leaf, &store.gateway, inbox).await;
    let own = gateway.get_key_value(CERTIFICATES).await.unwrap();
    let written = own.put("evil.org", "x".into()).await;
    assert!(written.is_err(), "it reads, and writes nothing");

    following.abort();
    running.gateway.stop().await;
    next.gateway.stop().await;
}
