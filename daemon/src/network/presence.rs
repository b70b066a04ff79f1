//! Whether a peer's ployzd answers by itself: over the overlay and without the store.

use crate::node::environment::NETNS;
use crate::reach;
use crate::state::PeersFile;
use ployz_core::mesh::presence::Door;
use ployz_core::wire::v1::join::PORT;
use ployz_nats::presence::Knock;
use ployz_netns::namespace;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::sync::watch;

/// Looks at these members.
pub fn knock(peers: watch::Receiver<PeersFile>) -> Knock {
    Box::new(move |machine| {
        let known =
            peers.borrow().machines.iter().find(|peer| peer.id == *machine).map(|peer| peer.overlay_ip);
        Box::pin(async move {
            match known {
                Some(overlay) => connect(overlay).await,
                None => Door::Silent,
            }
        })
    })
}

/// A connection to its membership listener, given up as soon as it stands.
async fn connect(overlay: Ipv6Addr) -> Door {
    let to = SocketAddr::V6(SocketAddrV6::new(overlay, PORT, 0, 0));
    let netns = namespace::path(NETNS);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, reach::connect(&netns, to)).await;
    door(connected.unwrap_or_else(|late| Err(late.into())))
}

/// Only the machine's own kernel refuses: whatever else went wrong may be the way to it.
fn door<T>(connected: io::Result<T>) -> Door {
    match connected {
        Ok(_) => Door::Open,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Door::Shut,
        Err(_) => Door::Silent,
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ployzd_is_taken_for_stopped_only_when_its_machine_refuses() {
        assert_eq!(door(Ok(())), Door::Open);
        assert_eq!(door::<()>(Err(ErrorKind::ConnectionRefused.into())), Door::Shut);
        for other in [ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::ConnectionReset] {
            assert_eq!(door::<()>(Err(other.into())), Door::Silent, "{other}");
        }
        let (_peers, known) = watch::channel(PeersFile::default());
        assert_eq!(knock(known)(&"n2".parse().unwrap()).await, Door::Silent, "not a member");
    }
}
