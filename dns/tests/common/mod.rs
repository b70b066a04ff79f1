//! A server on loopback with a small world in it, a client that speaks raw messages, and an upstream that misbehaves.
#![allow(dead_code)]

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{DNSClass, Name, RecordType};
use ployz_core::address::AddressPlan;
use ployz_core::id::DeployId;
use ployz_core::routing::{
    Freshness, InstanceRoute, MachineRoute, ServicePort, ServiceRef, ServiceRoute, State,
};
use ployz_dns::answer::Answerer;
use ployz_dns::forward::{Address, Forwarder};
use ployz_dns::realm::Realm;
use ployz_dns::serve::{self, Server};
use ployz_dns::zone::Zone;
use ployz_nats::events::{Snapshot, View};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Running {
    pub address: SocketAddr,
    pub server: Arc<Server>,
    pub snapshots: watch::Sender<Arc<Snapshot<Zone>>>,
    pub stop: CancellationToken,
    pub loops: TaskTracker,
    pub tasks: TaskTracker,
}

/// Starts a server over a state.
pub async fn start(state: &State, freshness: Freshness, upstreams: &[SocketAddr]) -> Running {
    let snapshot = Snapshot { view: Arc::new(Zone::of(state)), freshness, sequence: 42 };
    let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
    let (stop, loops, tasks) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let realm = Realm::new("10.101.0.0/16".parse().unwrap(), "fda1:2826:9433::/48".parse().unwrap());
    let upstreams = upstreams.iter().map(|at| Address::Net(*at)).collect();
    let forwarder = Arc::new(Forwarder::new(upstreams));
    let answerer = Answerer::new(realm, &"one".parse().unwrap());
    let server = Arc::new(Server::new(answerer, forwarder, receiver));
    let (udp, tcp) = pair().await;
    let address = udp.local_addr().unwrap();
    let udp = Arc::new(udp);
    for _ in 0..2 {
        loops.spawn(serve::udp::serve(udp.clone(), server.clone(), tasks.clone(), stop.clone()));
    }
    loops.spawn(serve::tcp::serve(tcp, server.clone(), tasks.clone(), stop.clone()));
    Running { address, server, snapshots, stop, loops, tasks }
}

/// UDP and TCP on one port.
async fn pair() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

/// Two machines; `shop` has `web` with three routable instances and one that drains, and `idle` without any; `blog` has
/// `web`. Containers have addresses of the loopback range, so that clients can be containers.
pub fn world() -> State {
    let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
    let mut state = State::default();
    for (index, name) in ["one", "two"].into_iter().enumerate() {
        let overlay_ip = format!("fda1:2826:9433::{}", index + 16).parse().unwrap();
        let subnet = plan.slice(index).unwrap();
        state.machines.insert(name.parse().unwrap(), MachineRoute { overlay_ip, subnet });
    }
    for host in 3..6 {
        instance(&mut state, "shop", "web", &format!("w{host}"), Ipv4Addr::new(10, 101, 0, host), true);
    }
    instance(&mut state, "shop", "web", "gone", Ipv4Addr::new(10, 101, 1, 9), false);
    instance(&mut state, "blog", "web", "b1", Ipv4Addr::new(10, 101, 1, 3), true);
    service(&mut state, "shop", "idle");
    // A machine that nobody knows yet is believed: the asker of the tests.
    let asker = instance(&mut state, "shop", "asker", "a1", Ipv4Addr::new(127, 0, 0, 9), true);
    let moved = state.instances.get_mut(&asker).unwrap().pop_first().unwrap().1;
    state
        .instances
        .get_mut(&asker)
        .unwrap()
        .insert(("a1".parse().unwrap(), "unheard-of".parse().unwrap()), moved);
    state
}

pub fn service(state: &mut State, namespace: &str, name: &str) -> ServiceRef {
    let id = ServiceRef { namespace: namespace.parse().unwrap(), service: name.parse().unwrap() };
    state.services.entry(id.clone()).or_insert_with(|| ServiceRoute {
        deploy: deploy(),
        revision: "r".into(),
        instances: [].into(),
        ports: vec![ServicePort { name: "http".into(), port: 8080, protocol: "tcp".into() }],
        http: Vec::new(),
        tcp: Vec::new(),
    });
    id
}

pub fn instance(
    state: &mut State,
    namespace: &str,
    name: &str,
    id: &str,
    address: Ipv4Addr,
    routable: bool,
) -> ServiceRef {
    let of = service(state, namespace, name);
    let id: ployz_core::id::InstanceId = id.parse().unwrap();
    state.services.get_mut(&of).unwrap().instances.insert(id.clone());
    let machine = if address.octets()[2] == 0 { "one" } else { "two" };
    let route = InstanceRoute {
        address,
        revision: "r".into(),
        deploy: deploy(),
        slot: 0,
        ready: true,
        draining: !routable,
    };
    state.instances.entry(of.clone()).or_default().insert((id, machine.parse().unwrap()), route);
    of
}

fn deploy() -> DeployId {
    "0123456789abcdef".parse().unwrap()
}

/// A query with EDNS.
pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = plain(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    message
}

/// A query as a very old client makes it.
pub fn plain(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(Name::from_ascii(name).unwrap(), kind);
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    message
}

fn id() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).unwrap();
    u16::from_ne_bytes(bytes)
}

impl Running {
    /// Asks over UDP from 127.0.0.1, which is nobody's container.
    pub async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind), "127.0.0.1").await
    }

    /// Asks over UDP from the container of `shop`.
    pub async fn ask_in_shop(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind), "127.0.0.9").await
    }

    pub async fn send(&self, message: &Message, from: &str) -> Message {
        let raw = self.raw(&message.to_vec().unwrap(), from).await.expect("an answer");
        let answer = Message::from_vec(&raw).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    /// Sends bytes; `None`: no answer. Silence is told from slowness by a question sent after it.
    pub async fn raw(&self, bytes: &[u8], from: &str) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let length = tokio::time::timeout(TEST_TIMEOUT, socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    pub async fn tcp(&self, message: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        send_framed(&mut stream, &message.to_vec().unwrap()).await;
        Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.loops.close();
        self.tasks.close();
        tokio::time::timeout(TEST_TIMEOUT, async {
            self.loops.wait().await;
            self.tasks.wait().await;
        })
        .await
        .expect("the server drains");
    }
}

pub async fn send_framed(stream: &mut TcpStream, message: &[u8]) {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await.unwrap();
}

pub async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Long enough for a loaded machine; only a failing test waits for it.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(10);
