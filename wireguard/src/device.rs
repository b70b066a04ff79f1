//! Carries out `set=1` and `get=1`: the one writer of the shared state, and the owner of the UDP threads.

use super::datapath;
use super::error::Error;
use super::identity::Identity;
use super::state::{Peer, Shared, State};
use super::uapi::{AllowedIp, DeviceView, PeerView, Refusal, SetDevice, SetPeer};
use super::udp::Sockets;
use super::worker::{Fatal, Worker};
use ipnet::IpNet;
use nix::errno::Errno;
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

/// The device as its control socket sees it.
pub(super) struct Device {
    shared: Arc<Shared>,
    fatal: Fatal,
    /// One per UDP socket in use.
    receivers: Vec<Worker>,
}

impl Device {
    /// Starts to receive on the sockets the shared state was made with.
    pub(super) fn start(shared: Arc<Shared>, fatal: Fatal) -> Result<Self, Error> {
        let receivers = receivers(&shared, &shared.read().sockets, &fatal)?;
        Ok(Self { shared, fatal, receivers })
    }

    /// Applies a request. What can fail (port, mark) comes first, so a refused request changes nothing.
    pub(super) fn set(&mut self, request: SetDevice) -> Result<(), Refusal> {
        self.set_sockets(request.listen_port, request.fwmark)?;
        let mut state = self.shared.write();
        if let Some(private_key) = request.private_key {
            state.set_identity(private_key.map(Identity::new));
        }
        if request.replace_peers {
            state.clear_peers();
        }
        request.peers.into_iter().for_each(|peer| set_peer(&mut state, peer));
        Ok(())
    }

    /// Everything there is to tell.
    pub(super) fn view(&self) -> DeviceView {
        let state = self.shared.read();
        let mut prefixes: HashMap<u32, Vec<IpNet>> = HashMap::new();
        for (prefix, owner) in state.allowed.iter() {
            prefixes.entry(owner.index).or_default().push(prefix);
        }
        let peer = |peer: &Arc<Peer>| {
            let mut allowed_ips = prefixes.remove(&peer.index).unwrap_or_default();
            allowed_ips.sort_by_key(|net| (net.addr().is_ipv6(), u8::MAX - net.prefix_len(), net.addr()));
            PeerView { public_key: peer.key, tunnel: peer.lock().view(), allowed_ips }
        };
        DeviceView {
            identity: state.identity.clone(),
            listen_port: state.sockets.port,
            fwmark: state.mark,
            peers: state.peers.values().map(peer).collect(),
        }
    }

    /// Sessions and endpoints outlive a change of port or mark.
    fn set_sockets(&mut self, port: Option<u16>, mark: Option<u32>) -> Result<(), Refusal> {
        let (current, old_mark) = {
            let state = self.shared.read();
            (Arc::clone(&state.sockets), state.mark)
        };
        let mark = mark.unwrap_or(old_mark);
        match port {
            Some(port) if port != current.port => {
                let sockets = Sockets::bind(port, mark).map_err(|error| refuse(&error))?;
                let receivers =
                    receivers(&self.shared, &sockets, &self.fatal).map_err(|error| refuse(&error))?;
                tracing::info!(port = sockets.port, "listening");
                self.shared.write().sockets = Arc::new(sockets);
                self.receivers = receivers;
            }
            _ if mark != old_mark => current.set_mark(mark).map_err(|error| refuse(&error))?,
            _ => {}
        }
        self.shared.write().mark = mark;
        Ok(())
    }
}

/// In the order of the kernel's `set_peer`: key, endpoint, allowed IPs, keepalive.
fn set_peer(state: &mut State, request: SetPeer) {
    let own = state.identity.as_ref().is_some_and(|identity| *identity.public() == request.public_key);
    let absent = !state.peers.contains_key(&request.public_key);
    if request.remove {
        return state.remove_peer(&request.public_key);
    }
    if own || (absent && request.update_only) {
        return;
    }
    let peer = state.peer_or_new(request.public_key);
    if request.replace_allowed_ips {
        state.allowed.retain(|owner| !Arc::ptr_eq(owner, &peer));
    }
    for allowed in request.allowed_ips {
        match allowed {
            AllowedIp::Add(prefix) => {
                state.allowed.insert(prefix, Arc::clone(&peer));
            }
            AllowedIp::Remove(prefix) => {
                state.allowed.remove_if(prefix, |owner| Arc::ptr_eq(owner, &peer));
            }
        }
    }
    let mut tunnel = peer.lock();
    if let Some(preshared) = request.preshared_key {
        tunnel.set_preshared(preshared, state.identity.as_deref());
    }
    if let Some(endpoint) = request.endpoint {
        tunnel.set_endpoint(endpoint);
    }
    if let Some(interval) = request.keepalive {
        tunnel.set_keepalive(interval);
    }
}

fn receivers(shared: &Arc<Shared>, sockets: &Sockets, fatal: &Fatal) -> Result<Vec<Worker>, Error> {
    let families = [("udp4", &sockets.v4), ("udp6", &sockets.v6)];
    let present = families.into_iter().filter_map(|(name, socket)| socket.clone().map(|s| (name, s)));
    let spawn = |(name, socket): (&str, Arc<UdpSocket>)| {
        let shared = Arc::clone(shared);
        Worker::spawn(name, fatal, move |stop| datapath::inbound(&shared, &socket, stop))
    };
    present.map(spawn).collect()
}

/// The control protocol carries the errno of the cause; the text is for the log.
fn refuse(error: &Error) -> Refusal {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let errno = cause.and_then(io::Error::raw_os_error).map_or(Errno::EIO, Errno::from_raw);
    Refusal::new(errno, &error.to_string())
}

#[cfg(test)]
mod tests;
