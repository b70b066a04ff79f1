//! Real servers on loopback: a founder, a leaf, users with exactly the rights of [`ployz_nats::permissions`], and a
//! network between them that can be cut and that loses, repeats and reorders.

#![allow(dead_code, clippy::unwrap_used)]

pub mod proxy;

use nkeys::KeyPair;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::routing::{Freshness, InstanceRoute, Key, MachineRoute, Value};
use ployz_core::wire::v1::subject;
use ployz_nats::accounts;
use ployz_nats::dialect::Dialect;
use ployz_nats::events::{Feed, Publisher, Settings, Snapshot, View, ensure_stream};
use ployz_nats::permissions::{self, Rights};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One server process; killed when dropped.
pub struct Server {
    config: PathBuf,
    child: Option<Child>,
    pub client: SocketAddr,
    pub leaf: SocketAddr,
}

/// How the founder's server is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All are in one account with the streams, as the builds before had it.
    One,
    /// The streams have an account of their own.
    Accounts,
}

impl Layout {
    /// How a member speaks to the store.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::One => Dialect::Domain,
            Self::Accounts => Dialect::Border,
        }
    }
}

pub const LAYOUTS: [Layout; 2] = [Layout::One, Layout::Accounts];

/// A founder and a leaf, and who may use them.
pub struct Mesh {
    pub layout: Layout,
    pub network: NetworkId,
    pub machine: MachineId,
    pub hub: Server,
    pub leaf: Server,
    /// Between leaf and founder.
    pub link: proxy::Proxy,
    pub dir: PathBuf,
    founder: KeyPair,
    daemon: KeyPair,
    follower: KeyPair,
    resolver: KeyPair,
}

impl Server {
    fn new(dir: &Path, name: &str, client: SocketAddr, leaf: SocketAddr, body: &str) -> Self {
        let config = dir.join(format!("{name}.conf"));
        let text = format!("server_name: \"{name}\"\nlisten: \"{client}\"\n{body}");
        std::fs::write(&config, text).unwrap();
        let mut server = Self { config, child: None, client, leaf };
        server.start();
        server
    }

    pub fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.config.with_extension("log"))
            .unwrap();
        let child =
            Command::new(program()).arg("-c").arg(&self.config).stderr(log).stdout(Stdio::null()).spawn();
        self.child = Some(child.unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(self.client).is_err() {
            assert!(Instant::now() < until, "{} does not come up", self.config.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops or continues the process without ending it.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Mesh {
    pub async fn start(layout: Layout, name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("ployz-routing-{name}-{layout:?}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let [network, machine] = ["00112233445566778899aabbccddeeff", "n2"];
        let (network, machine): (NetworkId, MachineId) = (network.parse().unwrap(), machine.parse().unwrap());
        let [founder, daemon, follower, resolver] = [(); 4].map(|()| KeyPair::new_user());
        let following =
            permissions::follower(&machine, FOLLOWER).and(permissions::bucket_reader(subject::CERTIFICATES));
        let resolving = permissions::follower(&machine, RESOLVER);
        // The leaf connection is the machine's user on the founder, allowed what its daemon and its sidecars are.
        let daemon_may = permissions::member(&network, &machine);
        let [hub_client, hub_leaf, leaf_client, unused] = [(); 4].map(|()| free());
        let founder_user = format!("{{ nkey: \"{}\" }}\n", founder.public_key());
        let users = match layout {
            Layout::One => {
                format!("authorization: {{ users: [\n{founder_user}{}] }}\n", user(&daemon, &daemon_may))
            }
            Layout::Accounts => {
                let users = [
                    founder_user,
                    user(&daemon, &daemon_may),
                    user(&follower, &following),
                    user(&resolver, &resolving),
                ];
                let founded =
                    accounts::founder(&network, &"n1".parse().unwrap(), &[&machine], &[FOLLOWER, RESOLVER]);
                let texts = founded.iter().zip(&users).map(|(account, users)| account.text(users));
                format!("accounts: {{\n{}}}\n", texts.collect::<String>())
            }
        };
        let body = format!(
            "jetstream: {{ store_dir: \"{}\", domain: \"hub\" }}\nleafnodes: {{ listen: \"{hub_leaf}\" }}\n{users}",
            dir.join("data").display(),
        );
        let hub = Server::new(&dir, "hub", hub_client, hub_leaf, &body);
        let link = proxy::Proxy::start(hub_leaf).await;
        let body = format!(
            "leafnodes: {{ reconnect: \"100ms\", remotes: [{{ url: \"nats-leaf://{}\", nkey: \"{}\" }}] }}\n\
             authorization: {{ users: [\n{}{}{}] }}\n",
            link.at,
            daemon.seed().unwrap(),
            user(&daemon, &daemon_may),
            user(&follower, &following),
            user(&resolver, &resolving)
        );
        let leaf = Server::new(&dir, "leaf", leaf_client, unused, &body);
        let mesh =
            Self { layout, network, machine, hub, leaf, link, dir, founder, daemon, follower, resolver };
        ensure_stream(&mesh.client(mesh.hub.client, &mesh.founder).await, &mesh.network).await.unwrap();
        mesh
    }

    pub async fn client(&self, server: SocketAddr, key: &KeyPair) -> async_nats::Client {
        async_nats::ConnectOptions::with_nkey(key.seed().unwrap())
            .custom_inbox_prefix(subject::inbox(&self.machine))
            .request_timeout(Some(Duration::from_secs(2)))
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(format!("nats://{server}"))
            .await
            .unwrap()
    }

    /// The founder's own, who may do everything.
    pub async fn founder(&self) -> async_nats::Client {
        self.client(self.hub.client, &self.founder).await
    }

    /// As a daemon on the leaf.
    pub async fn daemon(&self) -> async_nats::Client {
        self.client(self.leaf.client, &self.daemon).await
    }

    pub fn seed(&self, sidecar: &str) -> String {
        self.key(sidecar).seed().unwrap()
    }

    fn key(&self, sidecar: &str) -> &KeyPair {
        if sidecar == FOLLOWER { &self.follower } else { &self.resolver }
    }

    /// As a sidecar: on the founder or on the leaf.
    pub async fn sidecar(&self, server: SocketAddr, name: &str) -> async_nats::Client {
        async_nats::ConnectOptions::with_nkey(self.seed(name))
            .custom_inbox_prefix(subject::sidecar_inbox(&self.machine, name))
            .connect(format!("nats://{server}"))
            .await
            .unwrap()
    }

    pub async fn publisher(&self) -> Publisher {
        let publisher = Publisher::new(&self.daemon().await, &self.network, self.layout.dialect());
        let key = Key::Machine(self.machine.clone());
        // The leaf connection may still be coming up.
        let until = Instant::now() + Duration::from_secs(10);
        while publisher.current(&key).await.is_err() {
            assert!(Instant::now() < until, "the leaf does not reach the founder");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        publisher
    }

    pub fn settings(&self, server: SocketAddr, snapshot: Option<&str>) -> Settings {
        Settings {
            server,
            seed: self.follower.seed().unwrap().into(),
            network: self.network.clone(),
            plan: None,
            machine: self.machine.clone(),
            follower: FOLLOWER,
            snapshot: snapshot.map(|name| self.dir.join(name)),
        }
    }

    pub fn feed<V: View>(&self) -> Feed<V> {
        Feed::start(self.settings(self.leaf.client, None))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Waits until a snapshot is as wanted.
pub async fn until<V: View>(
    feed: &mut watch::Receiver<Arc<Snapshot<V>>>,
    what: &str,
    wanted: impl FnMut(&Arc<Snapshot<V>>) -> bool,
) -> Arc<Snapshot<V>> {
    let found = tokio::time::timeout(Duration::from_secs(15), feed.wait_for(wanted)).await;
    found.unwrap_or_else(|_| panic!("not within 15 s: {what}")).unwrap().clone()
}

pub fn live<V>(snapshot: &Arc<Snapshot<V>>) -> bool {
    snapshot.freshness == Freshness::Live
}

pub fn instance(n: u32, slot: u32) -> (Key, Value) {
    let key = format!("instance.n2.shop.web{}.i{n}", n % 5).parse().unwrap();
    let value = Value::Instance(InstanceRoute {
        address: Ipv4Addr::from(0x0a65_0200 + n),
        revision: "r1".into(),
        deploy: "00112233445566aa".parse().unwrap(),
        slot,
        ready: slot.is_multiple_of(2),
        draining: false,
    });
    (key, value)
}

pub fn machine(n: u8) -> (Key, Value) {
    let subnet = serde_json::from_str(&format!("\"10.101.{n}.0/24\"")).unwrap();
    let value = Value::Machine(MachineRoute { overlay_ip: format!("fd00::{n}").parse().unwrap(), subnet });
    ("machine.n2".parse().unwrap(), value)
}

fn user(key: &KeyPair, rights: &Rights) -> String {
    let mut text = format!("{{ nkey: \"{}\", permissions: {{ ", key.public_key());
    for (what, subjects) in [("publish", &rights.publish), ("subscribe", &rights.subscribe)] {
        let _ = write!(text, "{what}: {{ allow: {subjects:?} }}, ");
    }
    text + "} }\n"
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The pinned server, fetched if it is not there yet.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Command::new(root.join("packaging/fetch-nats.sh")).status().unwrap().success());
        root.join("target/vendor/nats-server")
    })
}

pub const FOLLOWER: &str = "gateway";
pub const RESOLVER: &str = "dns";
