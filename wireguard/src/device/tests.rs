//! What a `set=1` does to the tables. Sessions across a set are looked at in `tunnel::tests`.

use super::*;
use crate::uapi::{Request, parse};
use ployz_core::key::{PrivateKey, PublicKey};

struct Bench(State);

impl Bench {
    fn new() -> Self {
        let mut state = State::new(Sockets::bind(0, 0).unwrap());
        state.set_identity(Some(Identity::new(PrivateKey::from_random([1; 32]))));
        Self(state)
    }

    fn set(&mut self, lines: &str) {
        let Ok(Request::Set(request)) = parse(format!("set=1\n{lines}").as_bytes()) else {
            panic!("no set: {lines}")
        };
        if request.replace_peers {
            self.0.clear_peers();
        }
        request.peers.into_iter().for_each(|peer| set_peer(&mut self.0, peer));
    }

    fn owner(&self, address: &str) -> Option<PublicKey> {
        self.0.allowed.lookup(address.parse().unwrap()).map(|peer| peer.key)
    }
}

fn key(digit: &str) -> String {
    digit.repeat(64)
}

fn public(digit: u8) -> PublicKey {
    PublicKey::from_bytes([digit << 4 | digit; 32])
}

#[test]
fn an_allowed_ip_moves_to_the_peer_named_last() {
    let mut bench = Bench::new();
    bench.set(&format!("public_key={}\nallowed_ip=10.0.0.0/24\nallowed_ip=10.0.1.0/24\n", key("a")));
    bench.set(&format!("public_key={}\nallowed_ip=10.0.1.0/24\n", key("b")));
    assert_eq!(bench.owner("10.0.0.1"), Some(public(0xa)));
    assert_eq!(bench.owner("10.0.1.1"), Some(public(0xb)));
    bench.set(&format!("public_key={}\nallowed_ip=-10.0.1.0/24\n", key("a")));
    assert_eq!(bench.owner("10.0.1.1"), Some(public(0xb)), "not a's to take away");
    bench.set(&format!("public_key={}\nreplace_allowed_ips=true\nallowed_ip=fd00::/8\n", key("b")));
    assert_eq!(bench.owner("10.0.1.1"), None);
    assert_eq!(bench.owner("fd00::1"), Some(public(0xb)));
}

#[test]
fn peers_are_added_updated_and_removed_in_order() {
    let mut bench = Bench::new();
    bench.set(&format!("public_key={}\nupdate_only=true\nallowed_ip=10.0.0.0/24\n", key("a")));
    assert!(bench.0.peers.is_empty(), "update_only makes no peer");
    bench.set(&format!("public_key={}\nremove=true\npublic_key={}\n", key("a"), key("b")));
    assert_eq!(bench.0.peers.keys().collect::<Vec<_>>(), [&public(0xb)]);
    let index = bench.0.peers[&public(0xb)].index;
    bench.set(&format!("public_key={}\nupdate_only=true\nallowed_ip=10.0.0.0/24\n", key("b")));
    assert_eq!(bench.0.peers[&public(0xb)].index, index);
    assert_eq!(bench.owner("10.0.0.1"), Some(public(0xb)));
    bench.set(&format!("public_key={}\nremove=true\n", key("b")));
    assert!(bench.0.peers.is_empty() && bench.0.by_index.is_empty());
    assert_eq!(bench.owner("10.0.0.1"), None);
    bench.set(&format!("public_key={}\nallowed_ip=10.0.0.0/24\n", key("a")));
    bench.set(&format!("replace_peers=true\npublic_key={}\n", key("c")));
    assert_eq!(bench.0.peers.keys().collect::<Vec<_>>(), [&public(0xc)]);
    assert_eq!(bench.owner("10.0.0.1"), None);
}

#[test]
fn a_peer_with_our_own_key_is_ignored_and_removed() {
    let mut bench = Bench::new();
    let own = Identity::new(PrivateKey::from_random([2; 32]));
    let hex: String = own.public().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    bench.set(&format!("public_key={hex}\nallowed_ip=10.0.0.0/24\n"));
    assert_eq!(bench.0.peers.len(), 1);
    bench.0.set_identity(Some(own));
    assert!(bench.0.peers.is_empty());
    bench.set(&format!("public_key={hex}\n"));
    assert!(bench.0.peers.is_empty());
}

#[test]
fn the_same_private_key_again_keeps_the_tunnels() {
    let mut bench = Bench::new();
    bench.set(&format!("public_key={}\nendpoint=192.0.2.1:5\n", key("a")));
    let identity = Arc::clone(bench.0.identity.as_ref().unwrap());
    bench.0.set_identity(Some(Identity::new(PrivateKey::from_random([1; 32]))));
    assert!(Arc::ptr_eq(&identity, bench.0.identity.as_ref().unwrap()));
    bench.0.set_identity(Some(Identity::new(PrivateKey::from_random([3; 32]))));
    assert!(!Arc::ptr_eq(&identity, bench.0.identity.as_ref().unwrap()));
    let view = bench.0.peers[&public(0xa)].lock().view();
    assert_eq!(view.endpoint, Some("192.0.2.1:5".parse().unwrap()));
}
