//! What the tests of this room stand on: a network that no operator made, over a node in memory, and a server for its store.

use crate::keys;
use crate::network::context::{Network, Shared};
use crate::node::environment::Environment;
use crate::node::reconcile::Reconciler;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::tests::Fake;
use crate::state::{Disk, Founder, Keys, NetworkFile, PeersFile, Secret, Stored};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ployz_core::address::{AddressPlan, OverlayPrefix};
use ployz_core::adopt::Trigger;
use ployz_core::config::{Config, Layer};
use ployz_core::id::{InviteId, NetworkId};
use ployz_core::key::PrivateKey;
use ployz_core::wire::v1::record::{
    InviteRecord, InviteState, Lifecycle, MachineMembership, RegionRole, StorageParticipation, Topology,
};
use ployz_host::clock;
use ployz_nats::store::Store;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A directory that goes with its value.
pub struct Scratch(pub PathBuf);

/// A server with JetStream, as a bootstrap node runs it; killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    /// Its configuration and store, and room for what else goes with it.
    pub dir: Scratch,
}

/// A machine's network without its tasks.
pub struct Machine {
    /// The network.
    pub mesh: Arc<Network>,
    /// What asked for a reconciliation.
    pub requests: mpsc::Receiver<Trigger>,
    /// The node under it.
    pub fake: Fake,
    _dir: Scratch,
}

impl Scratch {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ployz-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts one.
    pub fn start(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Command::new(root.join("packaging/fetch-nats.sh")).status().unwrap().success());
        let dir = Scratch::new(name);
        std::fs::create_dir_all(dir.0.join("store")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let store = dir.0.join("store").display().to_string();
        let config =
            format!("listen: \"{address}\"\njetstream: {{ store_dir: \"{store}\", domain: \"hub\" }}\n");
        std::fs::write(dir.0.join("conf"), config).unwrap();
        let mut server = Command::new(root.join("target/vendor/nats-server"));
        server.arg("-c").arg(dir.0.join("conf")).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: server.spawn().unwrap(), address, dir }
    }

    /// A connection with every right.
    pub async fn client(&self) -> async_nats::Client {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match async_nats::connect(&self.address).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The store of a network, made if it is not there.
    pub async fn store(&self, network: &NetworkId) -> Store {
        Store::open(self.client().await, network, true).await.unwrap()
    }

    /// Writes bytes where a record belongs.
    pub async fn scribble(&self, bucket: &str, key: &str, bytes: &'static str) {
        let js = async_nats::jetstream::with_domain(self.client().await, "hub");
        js.get_key_value(bucket).await.unwrap().put(key, bytes.into()).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// The bootstrap node `n1` of a fresh network.
    pub fn founder(name: &str) -> Self {
        Self::new(name, 1)
    }

    /// Machine `n<number>` of a network of which `n1` is the bootstrap node.
    pub fn new(name: &str, number: u8) -> Self {
        let dir = Scratch::new(name);
        let text = format!("data_dir = \"{}\"\nadvertise_endpoints = [\"192.0.2.7\"]\n", dir.0.display());
        let config = Config::resolve(&[Layer::from_toml("config.toml", &text).unwrap()]).unwrap();
        let fake = Fake::bare();
        let shared = Shared {
            disk: Disk::open(&dir.0).unwrap(),
            around: Environment { config, libexec: PathBuf::new(), nats_user: None, underlay_mtu: 1500 },
            reconciler: Reconciler::new(Supervisor::Fake(fake.clone())),
            identities: Default::default(),
            doubts: Default::default(),
        };
        let keys = keys_of(number);
        let founder = member(1);
        let network = NetworkFile {
            version: 1,
            id: network(),
            name: "prod".parse().unwrap(),
            plan: plan(),
            lifecycle: Stored::Running,
            machine: member(number),
            founder: Founder { id: founder.id, overlay_ip: founder.overlay_ip },
            backend: None,
        };
        let peers = PeersFile { machines: vec![network.machine.clone()], ..Default::default() };
        shared.disk.put_keys(&network.name, &keys).unwrap();
        shared.disk.put_new(&network, &peers).unwrap();
        let (triggers, requests) = mpsc::channel(16);
        let mesh = Arc::new(Network::new(Arc::new(shared), network, keys, triggers).unwrap());
        Self { mesh, requests, fake, _dir: dir }
    }

    /// Makes these the other members that are known, and the network's own record stays.
    pub fn knows(&mut self, others: &[u8]) {
        let own = self.mesh.network().machine;
        let all = others.iter().map(|number| member(*number)).chain([own]).collect();
        self.mesh.learn(|peers| peers.machines = all).unwrap();
        self.asked();
    }

    /// What asked for a reconciliation since the last time.
    pub fn asked(&mut self) -> Vec<Trigger> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    /// Names of the members that are known, in their order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.mesh.peers.borrow().machines.iter().map(|machine| machine.id.to_string()).collect();
        names.sort();
        names
    }
}

/// The network of all these machines.
pub fn network() -> NetworkId {
    NetworkId::from_bytes([7; 16])
}

fn plan() -> AddressPlan {
    AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap()
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

/// The keys of machine `n<number>`, always the same.
fn keys_of(number: u8) -> Keys {
    let user = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, [number; 32]).unwrap();
    Keys {
        wireguard: key(number),
        nats_seed: Secret::new(user.seed().unwrap()),
        signing_seed: Secret::new(STANDARD.encode([number; 32])),
        ..keys::fresh(None)
    }
}

/// The record of machine `n<number>`.
pub fn member(number: u8) -> MachineMembership {
    let public_key = key(number).public();
    let keys = keys_of(number);
    MachineMembership {
        id: format!("n{number}").parse().unwrap(),
        public_key,
        overlay_ip: OverlayPrefix::of(&network()).address(&public_key),
        subnet: plan().slice(usize::from(number)).unwrap(),
        endpoints: vec![([192, 0, 2, number], 51820).into()],
        nats_key: keys::nats_key(&keys).unwrap(),
        verify_key: keys::verify_key(&keys).unwrap(),
        lifecycle: Lifecycle::Active,
        storage: match number {
            1 => StorageParticipation::Authority,
            _ => StorageParticipation::Candidate,
        },
        region_role: RegionRole::Compute,
        protocol: ployz_core::wire::v1::record::PROTOCOL,
        topology: Topology::default(),
        labels: Default::default(),
        created_at: 7,
        updated_at: 7,
    }
}

/// An open invite of machine `n<issuer>` that ends so many seconds from now.
pub fn invite(issuer: u8, ttl: i64) -> InviteRecord {
    InviteRecord {
        id: InviteId::from_bytes(ployz_host::random::bytes()),
        issuer: format!("n{issuer}").parse().unwrap(),
        one_time_key: PrivateKey::from_random(ployz_host::random::bytes()).public(),
        created_at: clock::now() - 100,
        expires_at: clock::now().checked_add_signed(ttl).unwrap(),
        state: InviteState::Active,
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
