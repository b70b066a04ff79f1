//! What the threads share: keys, peers and the tables that find a peer by key, by session index, by address.
//!
//! Lock order: [`State`], then one peer's [`Tunnel`]. The data path takes the first for reading, once per
//! batch; only a `set=1` takes it for writing.

use super::allowed::AllowedIps;
use super::identity::Identity;
use super::tun::Tun;
use super::tunnel::Tunnel;
use super::udp::Sockets;
use ployz_core::key::PublicKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Everything the threads see.
pub(super) struct Shared {
    pub(super) tun: Tun,
    /// Of the interface, as last read; it bounds the padding of inner packets.
    pub(super) mtu: AtomicU16,
    state: RwLock<State>,
}

/// The configuration in force.
pub(super) struct State {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) mark: u32,
    pub(super) sockets: Arc<Sockets>,
    pub(super) peers: BTreeMap<PublicKey, Arc<Peer>>,
    pub(super) by_index: HashMap<u32, Arc<Peer>>,
    pub(super) allowed: AllowedIps<Arc<Peer>>,
}

/// A peer: what never changes, and its tunnel.
pub(super) struct Peer {
    pub(super) key: PublicKey,
    /// 24 bits; the upper part of every session index of the peer.
    pub(super) index: u32,
    tunnel: Mutex<Tunnel>,
}

impl Shared {
    pub(super) fn new(tun: Tun, mtu: u16, sockets: Sockets) -> Self {
        Self { tun, mtu: AtomicU16::new(mtu), state: RwLock::new(State::new(sockets)) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect(POISON)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect(POISON)
    }
}

impl State {
    pub(super) fn new(sockets: Sockets) -> Self {
        Self {
            identity: None,
            mark: 0,
            sockets: Arc::new(sockets),
            peers: BTreeMap::new(),
            by_index: HashMap::new(),
            allowed: AllowedIps::new(),
        }
    }

    /// The peer of this key, made if it is not there.
    pub(super) fn peer_or_new(&mut self, key: PublicKey) -> Arc<Peer> {
        if let Some(peer) = self.peers.get(&key) {
            return Arc::clone(peer);
        }
        let index = self.free_index();
        let tunnel = Mutex::new(Tunnel::new(key, index, self.identity.as_deref()));
        let peer = Arc::new(Peer { key, index, tunnel });
        self.peers.insert(key, Arc::clone(&peer));
        self.by_index.insert(index, Arc::clone(&peer));
        tracing::debug!(peer = %key.short(), "peer added");
        peer
    }

    /// Removes the peer with its allowed IPs, if it is there.
    pub(super) fn remove_peer(&mut self, key: &PublicKey) {
        if let Some(peer) = self.peers.remove(key) {
            self.by_index.remove(&peer.index);
            self.allowed.retain(|owner| !Arc::ptr_eq(owner, &peer));
            tracing::debug!(peer = %key.short(), "peer removed");
        }
    }

    /// Removes every peer.
    pub(super) fn clear_peers(&mut self) {
        self.peers.clear();
        self.by_index.clear();
        self.allowed = AllowedIps::new();
    }

    /// Changes who we are; the same key changes nothing and keeps every session.
    pub(super) fn set_identity(&mut self, identity: Option<Identity>) {
        if self.identity.as_ref().map(|i| i.public()) == identity.as_ref().map(Identity::public) {
            return;
        }
        self.identity = identity.map(Arc::new);
        if let Some(own) = self.identity.as_ref().map(|identity| *identity.public()) {
            self.remove_peer(&own);
        }
        for peer in self.peers.values() {
            peer.lock().rebuild(self.identity.as_deref());
        }
    }

    /// Drawn at random so that datagrams for sessions of an earlier process rarely meet a peer at all.
    fn free_index(&self) -> u32 {
        loop {
            let index = random_index();
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }
}

impl Peer {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tunnel> {
        self.tunnel.lock().expect(POISON)
    }
}

fn random_index() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes[..3]).expect("getrandom(2) has not failed since Linux 3.17");
    u32::from_le_bytes(bytes)
}

/// Poisoning is used, so these locks are the standard library's: a thread that panics is reported and ends the process, and
/// until it has ended no other thread sends packets from half-changed state.
const POISON: &str = "a thread that panics ends the process";
