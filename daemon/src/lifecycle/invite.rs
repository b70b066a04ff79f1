//! `machine invite`: of the running network in the store, of one that is not running on its founder's disk.

use crate::failure::{Failure, Result};
use crate::lifecycle::Daemon;
use crate::membership::{draft, issue};
use ployz_core::address::{NamedEndpoint, Observed, why_not};
use ployz_core::id::{InviteId, NetworkName};
use ployz_core::wire::v1::api::{ErrorCode, InviteRow};
use ployz_netns::underlay;
use std::net::SocketAddr;
use tokio::sync::MutexGuard;

impl Daemon {
    /// `machine invite create`.
    pub async fn invite(
        &self,
        ttl_secs: u64,
        endpoints: &[NamedEndpoint],
        network: Option<NetworkName>,
    ) -> Result<issue::Made> {
        if !(1..=MAX_TTL_SECS).contains(&ttl_secs) {
            let message = format!("ttl_secs must be from 1 to {MAX_TTL_SECS}, not {ttl_secs}");
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let port = self.shared.around.config.wireguard_listen_port;
        let endpoints: Vec<SocketAddr> = endpoints.iter().map(|named| named.at(port)).collect();
        let made = match self.at_rest(network).await {
            None => issue::create(&self.running()?, ttl_secs, &endpoints).await,
            Some((name, _alone)) => {
                let (network, keys) = self.load(&name)?;
                draft::create(&self.shared.disk, &network, &keys, ttl_secs, &endpoints)
            }
        };
        match made {
            Err(failure) if failure.code == ErrorCode::NoEndpoint => Err(failure.with(left_out().await)),
            made => made,
        }
    }

    /// `machine invite list`.
    pub async fn invites(&self, network: Option<NetworkName>) -> Result<Vec<InviteRow>> {
        match self.at_rest(network).await {
            None => issue::list(&*self.running()?).await,
            Some((name, _alone)) => draft::list(&self.shared.disk, &self.load(&name)?.0),
        }
    }

    /// `machine invite revoke`.
    pub async fn revoke_invite(&self, invite: &InviteId, network: Option<NetworkName>) -> Result<()> {
        let Some((name, _alone)) = self.at_rest(network).await else {
            return issue::revoke(&self.running()?, invite).await;
        };
        draft::revoke(&self.shared.disk, &self.load(&name)?.0, invite)
    }

    /// The network that is asked for, unless it is the one that runs; it stays so while the guard is held, because a start
    /// that is under way would write its peers over a draft made beside it.
    async fn at_rest(&self, network: Option<NetworkName>) -> Option<(NetworkName, MutexGuard<'_, ()>)> {
        let name = network?;
        let alone = self.exclusive.lock().await;
        let runs = self.current().is_some_and(|mesh| mesh.network().name == name);
        (!runs).then_some((name, alone))
    }
}

/// The addresses of this machine that are not offered, each with why.
async fn left_out() -> Vec<String> {
    let seen = match underlay::observe().await {
        Ok(seen) => seen,
        Err(error) => return vec![ployz_core::text::chain(&error)],
    };
    let reason = |seen: &Observed| {
        why_not(seen).map(|why| format!("{} of {} is not offered: {why}", seen.address, seen.interface))
    };
    seen.iter().filter_map(reason).collect()
}

/// A week.
const MAX_TTL_SECS: u64 = 7 * 24 * 3600;
