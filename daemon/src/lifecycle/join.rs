//! `mesh join`: what a token must be, and how a join ends: confirmed, or undone on this side.

use crate::failure::{Failure, Result};
use crate::lifecycle::Daemon;
use crate::membership::{dial, join};
use crate::network::context::Network;
use crate::node::reconcile::Outcome;
use crate::progress::Say;
use crate::state::{Keys, NetworkFile, Removal, Stored};
use ployz_core::adopt::{Component, Trigger};
use ployz_core::config::Origin;
use ployz_core::mesh::invite::LIFETIME_MAX_SECS;
use ployz_core::wire::v1::api::ErrorCode;
use ployz_core::wire::v1::token::{BadToken, Token};
use ployz_host::clock;
use std::sync::Arc;
use std::time::Duration;

impl Daemon {
    /// `mesh join`.
    pub async fn join(self: &Arc<Self>, text: &str, say: Say<'_>) -> Result<NetworkFile> {
        let _alone = self.exclusive.lock().await;
        self.nothing_running()?;
        crate::lifecycle::create::has_ipv6()?;
        let token = read_token(text)?;
        self.acceptable(&token).await?;
        // An earlier attempt with this token may have got further than its answer.
        let earlier = self.shared.disk.network(&token.network_name)?.filter(|file| is_joining(file, &token));
        if earlier.is_none() {
            dial::check(&token.issuer_endpoints)?;
        }
        let keys = join::keys_for(&self.shared, &token)?;
        let network = match earlier {
            Some(file) => file,
            None => self.redeem(&token, &keys, say).await?,
        };
        self.shared.disk.set_active(Some(&network.name))?;
        say("starting the data plane");
        let begun = self.bring_up(network, keys, Trigger::Join).await;
        let mesh = begun.map_err(|mut failure| {
            // The invite is redeemed and on disk: it goes on from there.
            self.resume_later();
            failure.hint = Some(GOES_ON.into());
            failure
        })?;
        if let Err(mut failure) = carries(&mesh).await {
            tokio::spawn(self.clone().finish_join(mesh));
            failure.hint = Some(GOES_ON.into());
            return Err(failure);
        }
        say("confirming with this machine's own key");
        match join::confirm(&mesh).await {
            Ok(network) => {
                say("waiting for the store");
                if let Err(failure) = self.until_usable(&mesh).await {
                    tracing::warn!(
                        network = %network.name,
                        error = %failure,
                        "joined, but the store is not usable yet"
                    );
                }
                until_heard(&mesh).await;
                Ok(network)
            }
            Err(failure) if join::is_final(&failure) => match self.undo_join(&mesh).await {
                Ok(()) => Err(failure),
                Err(left) => Err(failure.with(left.causes)),
            },
            Err(mut failure) => {
                tokio::spawn(self.clone().finish_join(mesh));
                failure.hint = Some(GOES_ON.into());
                Err(failure)
            }
        }
    }

    pub(super) async fn redeem(&self, token: &Token, keys: &Keys, say: Say<'_>) -> Result<NetworkFile> {
        let redeemed = join::redeem(&self.shared, token, keys, say).await;
        if let Err(failure) = &redeemed
            && join::is_final(failure)
        {
            self.shared.disk.remove_network(&token.network_name)?;
        }
        redeemed
    }

    /// A join that is not confirmed yet: finished, or undone when the issuer says no or its time is over.
    pub(super) async fn finish_join(self: Arc<Self>, mesh: Arc<Network>) {
        while !mesh.cancel.is_cancelled() {
            let failure = match join::confirm(&mesh).await {
                Ok(_) => {
                    return tracing::info!(target: "audit", network = %mesh.network().name, "join finished");
                }
                Err(failure) => failure,
            };
            let over = match mesh.network().lifecycle {
                Stored::Joining { until, .. } => clock::now() > until,
                _ => return,
            };
            tracing::warn!(network = %mesh.network().name, error = %failure, "the join is not finished");
            if over || join::is_final(&failure) {
                let _alone = self.exclusive.lock().await;
                if self.is_current(&mesh) {
                    let _ = self.undo_join(&mesh).await; // told in the journal, finished by the next start
                }
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Takes a joining network down and off the disk. What cannot be taken down keeps its record, so that the next start or
    /// `mesh stop` finishes it: a namespace without one would be nobody's, and in every other network's way.
    pub(super) async fn undo_join(&self, mesh: &Arc<Network>) -> Result<()> {
        let undone = self.remove_local(&mesh.network().name, Some(mesh.clone()), Removal::Delete).await;
        match &undone {
            Ok(()) => tracing::warn!(target: "audit", network = %mesh.network().name, "join undone"),
            Err(failure) => {
                tracing::error!(
                    network = %mesh.network().name,
                    causes = failure.causes.join("; "),
                    error = %failure,
                    "cannot undo the join"
                )
            }
        }
        undone
    }

    pub(super) async fn acceptable(&self, token: &Token) -> Result<()> {
        in_time(token.expires_at, clock::now())?;
        let config = &self.shared.around.config;
        let chosen = |key| config.origin(key).is_some_and(|origin| *origin != Origin::Default);
        if (chosen("cluster_cidr") || chosen("subnet_prefix_len")) && config.plan != token.plan {
            let message =
                format!("the token is for {}, this machine is configured for {}", token.plan, config.plan);
            return Err(Failure::new(ErrorCode::CidrMismatch, message));
        }
        if let Some(known) = self.shared.disk.network(&token.network_name)? {
            let resumed =
                matches!(&known.lifecycle, Stored::Joining { invite, .. } if *invite == token.invite_id);
            if !resumed {
                let message = format!("network {} exists on this machine", token.network_name);
                return Err(Failure::new(ErrorCode::NetworkAlreadyExists, message));
            }
        }
        self.no_old_store(&token.network_name)?;
        self.no_conflict(token.plan.cluster_cidr).await
    }
}

/// A token that is over, or good for longer than an invite may be, is not begun with.
fn in_time(expires_at: u64, now: u64) -> Result<()> {
    if now >= expires_at {
        return Err(Failure::new(ErrorCode::TokenExpired, "the token has expired"));
    }
    if expires_at - now > LIFETIME_MAX_SECS.saturating_add(CLOCK_SKEW_MAX_SECS) {
        let what = "the token expires in more than 30 days, which no invite does: check this machine's clock";
        return Err(Failure::new(ErrorCode::InvalidToken, what));
    }
    Ok(())
}

/// Until a peer has answered a probe, so that the answer to `mesh join` does not call one lost that was never asked.
async fn until_heard(mesh: &Network) {
    let heard = || {
        let machines = mesh.peers.borrow().machines.clone();
        machines.iter().any(|machine| mesh.path(&machine.public_key).reachable(mesh.millis()))
    };
    let deadline = tokio::time::Instant::now() + PROBE_TIMEOUT;
    while !heard() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether this machine's own part is there: without it the issuer cannot be reached, and is not to blame.
async fn carries(mesh: &Network) -> Result<()> {
    let mut outcome = mesh.outcome.subscribe();
    let broken = |outcome: &Option<Arc<Outcome>>| {
        outcome.as_ref().map(|outcome| outcome.complaints_of(&CARRYING)).unwrap_or_default()
    };
    // Cancel-safe: the watch keeps its value.
    let _ =
        tokio::time::timeout(TUNNEL_TIMEOUT, outcome.wait_for(|outcome| broken(outcome).is_empty())).await;
    let broken = broken(&mesh.outcome.borrow());
    if broken.is_empty() {
        return Ok(());
    }
    let message = "the data plane of this machine did not come up, so the join is not confirmed yet";
    Err(Failure::new(ErrorCode::NetworkStartFailed, message).with(broken))
}

fn read_token(text: &str) -> Result<Token> {
    Token::verify(text).map_err(|error: BadToken| {
        Failure::because(ErrorCode::InvalidToken, "the token is not valid", &error)
    })
}

fn is_joining(file: &NetworkFile, token: &Token) -> bool {
    matches!(&file.lifecycle, Stored::Joining { invite, .. } if *invite == token.invite_id)
}

/// Probes are sent every second. In a unit test no peer is there to answer one.
const PROBE_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(3) };
/// What packets to the issuer need.
const CARRYING: [Component; 4] = [Component::Netns, Component::Tunnel, Component::Wireguard, Component::Link];
/// What failed at first is tried again every second.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(6);
const GOES_ON: &str = "the join continues in the background; `ployzctl mesh ready` shows its state, `ployzctl mesh stop` aborts it";
/// Seconds that two machines' clocks may differ by.
const CLOCK_SKEW_MAX_SECS: u64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_thirty_days_at_most() {
        let now = 1_800_000_000;
        assert!(in_time(now + 600, now).is_ok() && in_time(now + LIFETIME_MAX_SECS, now).is_ok());
        assert_eq!(in_time(now, now).unwrap_err().code, ErrorCode::TokenExpired);
        for far in [now + 31 * 86_400, u64::MAX] {
            assert_eq!(in_time(far, now).unwrap_err().code, ErrorCode::InvalidToken, "{far}");
        }
        assert_eq!(in_time(u64::MAX, u64::MAX).unwrap_err().code, ErrorCode::TokenExpired);
    }
}
