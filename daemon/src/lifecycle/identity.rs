//! Whether the state on this disk is this machine's: a copy of another machine's does not take its tunnel, write its records
//! or run under its name. How a copy is told: `ployz_core::host::mark`, and by its peers `ployz_core::mesh::twin`.

use crate::failure::{Failure, Result};
use crate::lifecycle::Daemon;
use crate::network::context::Network;
use crate::network::identity_watch;
use crate::node::environment::NETNS;
use crate::node::identity::{Held, held_failure, list, moved, why_held};
use crate::state::{Disk, HeldFile, Keys, NetworkFile, Stored};
use ployz_core::id::NetworkName;
use ployz_core::spec::link::WG_DEVICE;
use ployz_host::clock;
use ployz_netns::{host, namespace, wireguard};
use std::sync::Arc;

impl Daemon {
    /// Lets a network's identity be used, or says why not. The first start notes which machine this is.
    pub(super) async fn admit(&self, network: &NetworkFile, keys: &Keys) -> Result<()> {
        let (disk, name) = (&self.shared.disk, &network.name);
        let differs = match why_held(disk, name)? {
            None => return note_machine(disk, name),
            Some(Held::Peers(held)) => return Err(self.held(network, held.why)),
            Some(Held::Moved(differs)) => differs,
        };
        if is_up(keys).await {
            // It has been running here since this machine booted: the machine's own marks were changed.
            tracing::warn!(network = %name, marks = list(&differs), "this machine's identity marks changed");
            return note_machine(disk, name);
        }
        Err(self.held(network, moved(&differs)))
    }

    /// `mesh start --restored`: the operator says that no other machine has this identity.
    pub(super) fn take_over(&self, name: &NetworkName) -> Result<()> {
        tracing::warn!(
            target: "audit",
            network = %name,
            "this machine takes over the identity of this network"
        );
        identity_watch::renew(self.shared.around.config.socket.parent());
        self.shared.disk.put_host_mark(name, &host::mark())?;
        Ok(self.shared.disk.set_held(name, None)?)
    }

    /// The peers say that another machine uses this identity and was there first: noted on disk, then the data plane goes.
    pub(super) async fn stand_back(&self, mesh: Arc<Network>) {
        let _alone = self.exclusive.lock().await;
        if !self.is_current(&mesh) || mesh.network().lifecycle != Stored::Running {
            return;
        }
        let network = mesh.network();
        let why = "its peers see two machines with its key, and the other one came first".to_owned();
        let held = HeldFile { since: clock::now(), why: why.clone() };
        if let Err(error) = self.shared.disk.set_held(&network.name, Some(&held)) {
            tracing::error!(
                network = %network.name,
                error = %ployz_core::text::chain(&error),
                "cannot record that this identity is held; the next start retries"
            );
        }
        let failure = self.held(&network, why);
        tracing::error!(
            network = %network.name,
            code = %failure.code,
            causes = failure.causes.join("; "),
            hint = failure.code.hint(),
            error = %failure,
            "this machine's identity is held"
        );
        for left in self.take_down(&mesh).await {
            tracing::error!(network = %network.name, error = left, "cannot take the data plane down");
        }
    }

    /// Why the active network is not running, where that is because of its identity.
    pub fn held_reason(&self) -> Option<(NetworkName, String)> {
        self.held.read().clone()
    }

    pub(super) fn no_longer_held(&self) {
        *self.held.write() = None;
    }

    fn held(&self, network: &NetworkFile, why: String) -> Failure {
        let held = Some((network.name.clone(), why.clone()));
        *self.held.write() = held;
        held_failure(&network.name, why)
    }
}

/// Writes only what differs.
fn note_machine(disk: &Disk, name: &NetworkName) -> Result<()> {
    let mark = host::mark();
    if disk.host_mark(name)?.as_ref() != Some(&mark) {
        disk.put_host_mark(name, &mark)?;
    }
    Ok(())
}

/// Whether a tunnel with this key is up in our namespace.
async fn is_up(keys: &Keys) -> bool {
    let seen = wireguard::inspect(WG_DEVICE, &namespace::path(NETNS)).await;
    seen.present().is_some_and(|device| device.public_key == Some(keys.wireguard.public()))
}
