//! `doctor`: what an operator would look at on this machine, looked at. Reads only: it writes nothing and starts nothing.
//!
//! Everything is read from the machine and the disk, never from ployzd's memory, so that it tells the same with ployzd
//! (over its socket) and without (`ployzd doctor`, which `ployzctl` runs when nobody answers). Reading and judging are
//! apart: what judges is pure.

mod answers;
mod certificates;
mod clock_of_peer;
mod context;
mod engine;
mod families;
pub mod fresh;
mod host;
mod machine;
mod name;
mod plane;
mod served;
mod sidecar;
mod store;
mod tunnel;
mod upstreams;

use crate::network::asked::Asked;
use crate::network::context::Shared;
use crate::node::spec;
use crate::node::supervisor::ports::has_ipv6;
use crate::state::Stored;
use context::{Ground, Running};
use ployz_core::config::BadConfig;

use ployz_core::wire::v1::api::{Envelope, Payload};
use ployz_core::wire::v1::doctor::{Check, Doctor};
use ployz_host::clock;

/// For the daemon itself.
pub async fn examine(shared: &Shared) -> Envelope {
    let mut checks = vec![machine::daemon_runs()];
    checks.extend(machine::config_file(shared));
    checks.extend(Box::pin(of_ground(shared)).await);
    envelope(Doctor { daemon_answers: true, checks })
}

/// Without a daemon; a configuration that is refused is one of the findings, and the defaults stand in for it.
pub async fn alone(shared: &Shared, refused: Option<BadConfig>) -> Envelope {
    let mut checks = vec![machine::daemon_is_away(refused.is_some())];
    checks.extend(refused.map(|error| machine::bad_config(&error)));
    checks.extend(Box::pin(of_ground(shared)).await);
    envelope(Doctor { daemon_answers: false, checks })
}

async fn of_ground(shared: &Shared) -> Vec<Check> {
    let mut checks = Vec::new();
    let network = match network(shared).await {
        Ok(found) => found,
        Err(check) => {
            checks.push(check);
            None
        }
    };
    let (identity, held) = host::identity(shared, network.as_ref());
    checks.extend(identity);
    // What is held should not be there, so that it is not is no finding.
    let ground = Ground { shared, network: network.filter(|_| !held) };
    let (host, tunnel, store, served, upstreams, engine) = tokio::join!(
        Box::pin(host::checks(&ground)),
        tunnel::checks(&ground),
        store::checks(&ground),
        served::checks(&ground),
        Box::pin(upstreams::checks(&ground)),
        engine::checks(&ground),
    );
    checks.extend(plane::checks(&ground));
    let certificates = certificates::checks(&ground);
    for part in [host, tunnel, store, served, upstreams, certificates, engine, machine::programs(&ground)] {
        checks.extend(part);
    }
    checks
}

/// The network that should run here, and what is there of it.
async fn network(shared: &Shared) -> Result<Option<Running>, Check> {
    let unreadable = |error: &dyn std::error::Error| {
        let advice =
            "as root: the state is readable by root alone; if it is damaged, restore it from a backup";
        Check::fail("state", ployz_core::text::chain(error), advice)
    };
    let disk = &shared.disk;
    let Some(name) = disk.active().map_err(|error| unreadable(&error))? else { return Ok(None) };
    let file = disk.network(&name).map_err(|error| unreadable(&error))?;
    let keys = disk.keys(&name).map_err(|error| unreadable(&error))?;
    let peers = disk.peers(&name).map_err(|error| unreadable(&error))?;
    let (Some(file), Some(keys)) = (file, keys) else {
        let seen = format!("{name} is the active network and has no record");
        return Err(Check::fail(
            "state",
            seen,
            "`ployzctl mesh list`; restore the state or create the network again",
        ));
    };
    if !matches!(file.lifecycle, Stored::Running) {
        return Ok(None);
    }
    let mut spec = spec::node(&shared.around, disk, &file, &keys, &peers, clock::now());
    spec.gateway.routes = Asked::last_known(disk, &file).sockets(&shared.around.config, has_ipv6());
    let live = shared.reconciler.inspect(&spec).await;
    Ok(Some(Running { file, peers, spec, live }))
}

fn envelope(found: Doctor) -> Envelope {
    Envelope::ok(found.summary(), Some(Payload::Doctor(found)))
}
