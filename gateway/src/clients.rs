//! How many connections each client address holds, so that one client cannot hold them all.
//!
//! A place is given back when its ticket is dropped, wherever the connection was served. Memory is bounded by the
//! connections that are open at all.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

/// Connections by client.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One connection's place; dropped with it.
#[derive(Debug)]
pub struct Ticket {
    clients: Clients,
    client: IpAddr,
}

impl Clients {
    /// A place for one more connection of a client that may hold `most`.
    pub fn enter(&self, address: IpAddr, most: u32) -> Option<Ticket> {
        let client = network(address);
        let mut held = self.0.lock();
        let held = held.entry(client).or_insert(0);
        if *held >= most {
            return None;
        }
        *held += 1;
        Some(Ticket { clients: self.clone(), client })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.clients.0.lock().entry(self.client) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// One host of IPv6 has a /64 to itself (RFC 6177), so that is what is counted.
pub fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_given_back_with_its_ticket_and_nothing_is_kept_of_who_left() {
        let clients = Clients::default();
        let first = clients.enter(of("192.0.2.1"), 2).unwrap();
        let second = clients.enter(of("::ffff:192.0.2.1"), 2).unwrap();
        assert!(clients.enter(of("192.0.2.1"), 2).is_none());
        let other = clients.enter(of("192.0.2.2"), 2).unwrap();
        drop(first);
        let third = clients.enter(of("192.0.2.1"), 2).unwrap();
        drop((second, third, other));
        assert!(clients.0.lock().is_empty());
    }

    #[test]
    fn addresses_of_one_ipv6_host_are_one_client() {
        let clients = Clients::default();
        let _one = clients.enter(of("2001:db8::1"), 1).unwrap();
        assert!(clients.enter(of("2001:db8::2"), 1).is_none());
        assert!(clients.enter(of("2001:db8:0:1::2"), 1).is_some());
    }
}
