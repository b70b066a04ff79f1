//! Operations whose ployzd is killed in front of every effect, on the disk and on the node: the next one over both finishes or
//! undoes them, nothing of ours is left without a record, and the operator can repeat the command.

use super::{Daemon, Rooms};
use crate::compose;
use crate::failure::{Failure, Result};
use crate::membership::join::issuer;
use crate::network::context::{Network, Parts, Shared};
use crate::network::tests::{Scratch, member, network, until};
use crate::node::environment::Environment;
use crate::node::reconcile::Reconciler;
use crate::node::supervisor::Supervisor;
use crate::node::supervisor::tests::Fake;
use crate::state::{Disk, PeersFile, Stored, crash};
use hyper::StatusCode;
use ployz_core::address::{AddressPlan, OverlayPrefix};
use ployz_core::adopt::Seen;
use ployz_core::config::{Config, Layer};
use ployz_core::id::{InviteId, NetworkName};
use ployz_core::key::PrivateKey;
use ployz_core::mesh::belief::is_same;
use ployz_core::wire::v1::api::{Envelope, ErrorCode, Phase};
use ployz_core::wire::v1::join::{RedeemRequest, RedeemResponse};
use ployz_core::wire::v1::record::MachineMembership;
use ployz_core::wire::v1::token::Token;
use ployz_host::clock;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A disk and a node, which outlive the ployzd that works on them.
struct Machine {
    dir: Scratch,
    fake: Fake,
    backend: &'static str,
}

impl Machine {
    fn bare(name: &str, backend: &'static str) -> Self {
        Self { dir: Scratch::new(&format!("{name}-{backend}")), fake: Fake::bare(), backend }
    }

    /// One on which a network was made and runs.
    fn running(name: &str, backend: &'static str) -> Self {
        let machine = Self::bare(name, backend);
        machine.life(None, async |daemon| daemon.init(&prod(), &|_| {}).await).unwrap().unwrap();
        machine.fake.state().effects.clear();
        machine
    }

    fn disk(&self) -> Disk {
        Disk::at(&self.dir.0)
    }

    /// A ployzd from its start to its death.
    fn life<T>(&self, effects: Option<usize>, work: impl AsyncFnOnce(Arc<Daemon>) -> T) -> Option<T> {
        crash::process(effects, async {
            let root = self.dir.0.display();
            let text = format!(
                "data_dir = \"{root}\"\nsocket = \"{root}/run/ployzd.sock\"\nwireguard_backend = \"{}\"\n\
                 advertise_endpoints = [\"192.0.2.7\"]\n",
                self.backend
            );
            let config = Config::resolve(&[Layer::from_toml("config.toml", &text).unwrap()]).unwrap();
            let disk = Disk::open(&config.data_dir).unwrap();
            disk.sweep().unwrap();
            let daemon = Daemon::new(
                Arc::new(Shared {
                    disk,
                    around: Environment {
                        config,
                        libexec: PathBuf::new(),
                        nats_user: None,
                        underlay_mtu: 1500,
                    },
                    reconciler: Reconciler::new(Supervisor::Fake(self.fake.clone())),
                    identities: Default::default(),
                    doubts: Default::default(),
                }),
                rooms,
            );
            daemon.resume().await;
            work(daemon).await
        })
    }

    /// Names below `networks/`.
    fn directories(&self) -> Vec<String> {
        let found = std::fs::read_dir(self.dir.0.join("networks")).unwrap();
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing runs, and nothing says that something should.
    fn is_down(&self, daemon: &Daemon, at: &str) {
        assert!(daemon.current().is_none(), "{at}");
        assert_eq!(self.fake.inspect(), Fake::bare().inspect(), "{at}");
        assert_eq!(self.disk().active().unwrap(), None, "{at}");
        assert_eq!(self.disk().pending().unwrap(), None, "{at}");
    }

    /// It runs whole, and the disk says so.
    fn is_up(&self, daemon: &Daemon, at: &str) {
        let mesh = daemon.current().unwrap_or_else(|| panic!("nothing runs, {at}"));
        let outcome = mesh.outcome.borrow().clone().unwrap();
        assert!(outcome.is_good(), "{at}: {:?}", outcome.complaints());
        assert_eq!(self.disk().active().unwrap(), Some(prod()), "{at}");
        assert_eq!(self.disk().network(&prod()).unwrap().unwrap().lifecycle, Stored::Running, "{at}");
    }

    /// Takes the network away, after which the machine is as it was before.
    async fn destroyed(&self, daemon: &Daemon, at: &str) {
        daemon.destroy(&prod(), true, &|_| {}).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
        self.is_down(daemon, at);
        assert_eq!(self.directories(), [""; 0], "{at}");
    }
}

/// The rooms of a network whose store answers at once.
fn rooms(network: &Arc<Network>) -> (Rooms, Parts) {
    let (rooms, mut parts) = compose::rooms(network);
    let own = network.clone();
    parts.tasks = vec![Box::pin(async move {
        own.phase.send_replace(Phase::Running);
    })];
    (rooms, parts)
}

fn prod() -> NetworkName {
    "prod".parse().unwrap()
}

/// Kills `work` in front of every effect of a ployzd on a machine that `prepare` makes, and lets `check` look at what the next
/// one makes of it; the last time it is not killed. Returns how often it was.
fn every_kill<T: std::fmt::Debug>(
    prepare: impl Fn() -> Machine,
    work: impl AsyncFn(&Machine, Arc<Daemon>) -> Result<T>,
    check: impl AsyncFn(&Machine, Arc<Daemon>, &str),
) -> (usize, Result<T>) {
    for kill in 0.. {
        let machine = prepare();
        let done = machine.life(Some(kill), async |daemon| work(&machine, daemon).await);
        let at = match &done {
            None => {
                format!("killed in front of effect {kill}, after {:?}", machine.fake.state().effects.last())
            }
            Some(_) => "not killed".to_owned(),
        };
        machine.fake.state().fails = None;
        machine.life(None, async |daemon| check(&machine, daemon, &at).await).unwrap();
        if let Some(done) = done {
            return (kill, done);
        }
    }
    unreachable!("every operation ends");
}

const BACKENDS: [&str; 2] = ["kernel", "userspace"];

/// What an `init` leaves runs or is not there, and it can be made then.
async fn made_or_not(machine: &Machine, daemon: Arc<Daemon>, at: &str) {
    if daemon.current().is_none() {
        machine.is_down(&daemon, at);
        daemon.init(&prod(), &|_| {}).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
    }
    machine.is_up(&daemon, at);
    machine.destroyed(&daemon, at).await;
}

#[test]
fn an_init_killed_anywhere_is_finished_or_can_be_repeated() {
    for backend in BACKENDS {
        let prepare = || Machine::bare("init", backend);
        let init = async |_: &Machine, daemon: Arc<Daemon>| daemon.init(&prod(), &|_| {}).await;
        let (kills, done) = every_kill(prepare, init, made_or_not);
        done.unwrap();
        assert!(kills > 40, "{kills}");
    }
}

#[test]
fn a_create_killed_anywhere_made_a_whole_network_or_can_be_repeated() {
    let prepare = || Machine::bare("create", "kernel");
    let create = async |_: &Machine, daemon: Arc<Daemon>| daemon.create(&prod()).await;
    let (kills, done) = every_kill(prepare, create, async |machine, daemon, at| {
        machine.is_down(&daemon, at);
        if machine.disk().networks().unwrap().is_empty() {
            daemon.create(&prod()).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
        }
        assert_eq!(machine.disk().peers(&prod()).unwrap().machines.len(), 1, "{at}");
        let started = daemon.start(&prod(), false, &|_| {}).await;
        started.unwrap_or_else(|failure| panic!("{at}: {failure}"));
        machine.is_up(&daemon, at);
        machine.destroyed(&daemon, at).await;
    });
    done.unwrap();
    assert!(kills > 5, "{kills}");
}

#[test]
fn an_init_that_fails_and_is_killed_anywhere_leaves_no_network() {
    let prepare = || {
        let machine = Machine::bare("failing", "kernel");
        machine.fake.state().fails = Some("create WireGuard device wg0".into());
        machine
    };
    let init = async |machine: &Machine, daemon: Arc<Daemon>| {
        let failed = daemon.init(&prod(), &|_| {}).await;
        machine.is_down(&daemon, "failed");
        assert_eq!(machine.directories(), [""; 0]);
        failed
    };
    let (kills, done) = every_kill(prepare, init, made_or_not);
    assert_eq!(done.unwrap_err().code, ErrorCode::NetworkStartFailed);
    assert!(kills > 30, "{kills}");
}

/// Tokens of a network that was only created are out; its keys and its drafts are all that answers for them.
#[test]
fn a_start_killed_anywhere_leaves_no_network_for_an_init_to_replace() {
    let prepare = || {
        let machine = Machine::bare("promised", "kernel");
        machine.life(None, async |daemon| daemon.create(&prod()).await.unwrap()).unwrap();
        let peers = machine.disk().peers(&prod()).unwrap();
        let drafts = vec![crate::network::tests::invite(1, 600)];
        machine.disk().put_peers(&prod(), &PeersFile { drafts, ..peers }).unwrap();
        machine
    };
    let start = async |_: &Machine, daemon: Arc<Daemon>| daemon.start(&prod(), false, &|_| {}).await;
    let (kills, done) = every_kill(prepare, start, async |machine, daemon, at| {
        let failure = daemon.init(&prod(), &|_| {}).await.unwrap_err();
        let codes = [ErrorCode::NetworkAlreadyExists, ErrorCode::NetworkAlreadyRunning];
        assert!(codes.contains(&failure.code), "{at}: {failure}");
        assert_eq!(machine.disk().peers(&prod()).unwrap().drafts.len(), 1, "{at}");
    });
    done.unwrap();
    assert!(kills > 20, "{kills}");
}

#[test]
fn a_stop_killed_anywhere_is_finished_or_can_be_repeated() {
    for backend in BACKENDS {
        let prepare = || Machine::running("stop", backend);
        let stop = async |_: &Machine, daemon: Arc<Daemon>| daemon.stop(true).await;
        let (kills, done) = every_kill(prepare, stop, async |machine, daemon, at| {
            if daemon.current().is_some() {
                machine.is_up(&daemon, at);
                daemon.stop(true).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
            }
            machine.is_down(&daemon, at);
            assert_eq!(machine.disk().network(&prod()).unwrap().unwrap().lifecycle, Stored::Stopped, "{at}");
            let started = daemon.start(&prod(), false, &|_| {}).await;
            started.unwrap_or_else(|failure| panic!("{at}: {failure}"));
            machine.is_up(&daemon, at);
            machine.destroyed(&daemon, at).await;
        });
        done.unwrap();
        assert!(kills > 10, "{kills}");
    }
}

/// A network that goes is there whole or is gone, and can be made again.
async fn there_or_gone(machine: &Machine, daemon: Arc<Daemon>, at: &str) {
    if daemon.current().is_some() {
        machine.is_up(&daemon, at);
        machine.destroyed(&daemon, at).await;
    }
    machine.is_down(&daemon, at);
    assert_eq!(machine.directories(), [""; 0], "{at}");
    daemon.init(&prod(), &|_| {}).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
    machine.is_up(&daemon, at);
}

#[test]
fn a_local_destroy_killed_anywhere_is_finished_or_can_be_repeated() {
    for backend in BACKENDS {
        let prepare = || Machine::running("destroy", backend);
        let destroy = async |_: &Machine, daemon: Arc<Daemon>| daemon.destroy(&prod(), true, &|_| {}).await;
        let (kills, done) = every_kill(prepare, destroy, there_or_gone);
        done.unwrap();
        assert!(kills > 10, "{kills}");
    }
}

/// What does not run because a stop did not get through.
#[test]
fn a_destroy_of_a_half_stopped_network_killed_anywhere_is_finished_or_can_be_repeated() {
    const LAST: &str = "take down Netns";
    let prepare = || {
        let machine = Machine::running("half", "kernel");
        machine.fake.state().fails = Some(LAST.into());
        machine.life(None, async |daemon| daemon.stop(true).await.unwrap_err()).unwrap();
        machine
    };
    let destroy = async |machine: &Machine, daemon: Arc<Daemon>| {
        assert!(daemon.current().is_none());
        machine.fake.state().fails = None;
        daemon.destroy(&prod(), true, &|_| {}).await
    };
    let (kills, done) = every_kill(prepare, destroy, async |machine, daemon, at| {
        // Before its teardown it may be a stop still.
        if !at.contains(LAST) && !machine.directories().is_empty() {
            machine.destroyed(&daemon, at).await;
        }
        there_or_gone(machine, daemon, at).await;
    });
    done.unwrap();
    assert!(kills > 5, "{kills}");
}

/// It is repeated by the same ployzd, and by the next.
#[test]
fn a_stop_or_a_destroy_that_fails_on_a_part_can_be_repeated() {
    for stop in [true, false] {
        let machine = Machine::running(if stop { "stuck-stop" } else { "stuck-destroy" }, "kernel");
        let ask = async |daemon: &Arc<Daemon>| -> std::result::Result<(), Failure> {
            match stop {
                true => daemon.stop(true).await.map(|_| ()),
                false => daemon.destroy(&prod(), true, &|_| {}).await,
            }
        };
        machine.fake.state().fails = Some("take down Netns".into());
        let code = if stop { ErrorCode::NetworkStopFailed } else { ErrorCode::NetworkDestroyFailed };
        machine.life(None, async |daemon| {
            for _ in 0..2 {
                let failure = ask(&daemon).await.unwrap_err();
                assert_eq!((failure.code, failure.causes.len()), (code, 1), "{:?}", failure.causes);
                assert!(matches!(machine.fake.inspect().netns, Seen::Present(_)));
                assert_eq!(machine.disk().active().unwrap(), Some(prod()));
            }
        });
        machine.life(None, async |daemon| {
            assert!(daemon.current().is_none());
            machine.fake.state().fails = None;
            ask(&daemon).await.unwrap();
            machine.is_down(&daemon, "repeated");
            assert_eq!(machine.directories().is_empty(), !stop);
        });
    }
}

/// `mesh stop` of a join that was redeemed and not confirmed.
#[test]
fn a_join_aborted_and_killed_anywhere_is_gone_or_goes_on() {
    let prepare = || {
        let machine = Machine::running("abort", "kernel");
        let mut file = machine.disk().network(&prod()).unwrap().unwrap();
        let issuer = file.machine.overlay_ip;
        file.lifecycle = Stored::Joining { invite: InviteId::from_bytes([1; 8]), issuer, until: u64::MAX };
        machine.disk().put_network(&file).unwrap();
        machine
    };
    let abort = async |_: &Machine, daemon: Arc<Daemon>| daemon.stop(true).await;
    let (kills, done) = every_kill(prepare, abort, async |machine, daemon, at| {
        if let Some(mesh) = daemon.current() {
            assert!(matches!(mesh.network().lifecycle, Stored::Joining { .. }), "{at}");
            daemon.stop(true).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
        }
        there_or_gone(machine, daemon, at).await;
    });
    done.unwrap();
    assert!(kills > 10, "{kills}");
}

/// An issuer with one open invite, which answers as `membership::issue` does: the same machine as often as it asks, no other.
#[derive(Clone)]
struct Issuer {
    token: Token,
    own: MachineMembership,
    joiner: Rc<RefCell<Option<(MachineMembership, bool)>>>,
}

impl Issuer {
    fn new() -> Self {
        let (own, network) = (member(1), network());
        let token = Token {
            version: 1,
            invite_id: InviteId::from_bytes([1; 8]),
            network_id: network,
            network_name: prod(),
            plan: AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap(),
            issuer: own.id.clone(),
            issuer_public_key: own.public_key,
            issuer_overlay_ip: own.overlay_ip,
            issuer_endpoints: vec!["127.0.0.1:51820".parse().unwrap()],
            issuer_verify_key: own.verify_key.clone(),
            one_time_key: PrivateKey::from_random([77; 32]),
            expires_at: clock::now() + 600,
        };
        Self { token, own, joiner: Rc::default() }
    }

    /// Its token, signed.
    fn token(&self) -> String {
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let verify_key = ployz_core::wire::v1::token::verifying_key_text(&key.verifying_key());
        Token { issuer_verify_key: verify_key, ..self.token.clone() }.sign(&key).to_string()
    }

    fn answer(&self, path: &str, body: serde_json::Value) -> (StatusCode, serde_json::Value) {
        let mut joiner = self.joiner.borrow_mut();
        if path == "/v1/redeem" {
            let asked: RedeemRequest = serde_json::from_value(body).unwrap();
            match &*joiner {
                Some((known, _)) if known.public_key != asked.public_key => {
                    let message = "the token was used by another machine";
                    let refused = Envelope::error(ErrorCode::TokenConsumed, message, Vec::new());
                    return (StatusCode::CONFLICT, serde_json::to_value(refused).unwrap());
                }
                Some(_) => {}
                None => {
                    let overlay_ip = OverlayPrefix::of(&self.token.network_id).address(&asked.public_key);
                    let machine = MachineMembership {
                        id: "n2".parse().unwrap(),
                        public_key: asked.public_key,
                        overlay_ip,
                        nats_key: asked.nats_key,
                        verify_key: asked.verify_key,
                        ..member(2)
                    };
                    *joiner = Some((machine, false));
                }
            }
        }
        let (membership, confirmed) = joiner.as_mut().expect("confirmed only after it is redeemed");
        *confirmed |= path == "/v1/confirm";
        let mut machines = vec![self.own.clone()];
        machines.extend(confirmed.then(|| membership.clone()));
        let answer = RedeemResponse {
            network_id: self.token.network_id.clone(),
            network_name: prod(),
            plan: self.token.plan,
            membership: membership.clone(),
            machines,
        };
        (StatusCode::OK, serde_json::to_value(answer).unwrap())
    }
}

/// The token is good for one machine: one that lost its keys after they were redeemed could never join with it.
#[test]
fn a_join_killed_anywhere_goes_on_or_can_be_repeated_with_the_same_token() {
    for backend in BACKENDS {
        let issuer = Rc::new(RefCell::new(Issuer::new()));
        let prepare = || {
            let fresh = Issuer::new();
            let answering = fresh.clone();
            issuer::answers(move |path, body| answering.answer(path, body));
            *issuer.borrow_mut() = fresh;
            Machine::bare("join", backend)
        };
        let join = async |_: &Machine, daemon: Arc<Daemon>| {
            let token = issuer.borrow().token();
            daemon.join(&token, &|_| {}).await
        };
        let (kills, done) = every_kill(prepare, join, async |machine, daemon, at| {
            match daemon.current() {
                // Redeemed: the next ployzd confirms it by itself.
                Some(mesh) => {
                    until("it is confirmed", || mesh.network().lifecycle == Stored::Running).await;
                }
                None => {
                    machine.is_down(&daemon, at);
                    let token = issuer.borrow().token();
                    daemon.join(&token, &|_| {}).await.unwrap_or_else(|failure| panic!("{at}: {failure}"));
                }
            }
            machine.is_up(&daemon, at);
            let confirmed = issuer.borrow().joiner.borrow().clone();
            let own = daemon.current().unwrap().network().machine;
            assert!(confirmed.is_some_and(|(joined, is)| is && is_same(&joined, &own)), "{at}");
            machine.destroyed(&daemon, at).await;
        });
        done.unwrap();
        assert!(kills > 40, "{kills}");
    }
}
