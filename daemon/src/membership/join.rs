//! Getting in: the one-time tunnel, the redemption through it, the change to the machine's own key, the
//! confirmation. What the machine needs for the next step is on disk before the step, so a join that is cut short
//! anywhere is finished or undone by the next start.

use crate::failure::{Failure, Result};
use crate::network::context::{Network, Shared};
use crate::node::environment::NETNS;
use crate::node::spec;
use crate::node::teardown;
use crate::state::{Founder, Keys, NetworkFile, PeersFile, Stored};
use crate::{http, keys, reach};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use ipnet::{IpNet, Ipv6Net};
use ployz_core::address::{OverlayPrefix, candidates};
use ployz_core::adopt::Trigger;
use ployz_core::id::MachineId;
use ployz_core::mesh::admission::{Promised, Refused};
use ployz_core::mesh::invite::CONFIRM_GRACE_SECS;
use ployz_core::mesh::join::{AfterFailure, after_failure};
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::spec::wireguard::tunnel_mtu;
use ployz_core::spec::{NodeSpec, PeerSpec, WireguardSpec};
use ployz_core::wire::v1::api::{Envelope, ErrorCode};
use ployz_core::wire::v1::join::{ConfirmRequest, PORT, RedeemRequest, RedeemResponse};
use ployz_core::wire::v1::record::Topology;
use ployz_core::wire::v1::token::Token;
use ployz_host::clock;
use ployz_netns::{namespace, underlay, wireguard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Redeems a token: afterwards the network is on disk as joining, with everything a start needs.
pub async fn redeem(
    shared: &Arc<Shared>,
    token: &Token,
    keys: &Keys,
    say: crate::progress::Say<'_>,
) -> Result<NetworkFile> {
    let prefix = OverlayPrefix::of(&token.network_id);
    let mut file = placeholder(token, keys)?;
    file.backend = Some(crate::node::spec::backend(&shared.around.config, None).await);
    let spec = one_time_spec(shared, token, keys, &file, prefix);
    shared.disk.set_pending(Some(&file))?;
    say("opening the one-time tunnel");
    let result = async {
        open_tunnel(shared, &spec).await?;
        say("redeeming the token");
        let request = request(shared, token, keys).await?;
        let to = SocketAddrV6::new(token.issuer_overlay_ip, PORT, 0, 0);
        let deadline = Instant::now() + REDEEM_DEADLINE;
        let answer: RedeemResponse =
            post((to, &token.issuer_endpoints), "/v1/redeem", &request, deadline).await?;
        keep(shared, token, &request, &answer)
    }
    .await;
    if result.is_err() {
        let left = teardown::run(&shared.reconciler, &spec).await;
        left.iter().for_each(|error| tracing::warn!(error, "cannot roll the join back"));
    }
    // From here on the network's own record says what is to be there.
    shared.disk.set_pending(None)?;
    result
}

/// Tells the issuer that the machine runs with its own key: it is a member then. A failure with
/// [`ErrorCode::IssuerUnreachable`] or [`ErrorCode::StoreUnavailable`] leaves the outcome unknown: ask again.
pub async fn confirm(mesh: &Network) -> Result<NetworkFile> {
    let network = mesh.network();
    let Stored::Joining { invite, issuer, until } = network.lifecycle.clone() else { return Ok(network) };
    let to = SocketAddrV6::new(issuer, PORT, 0, 0);
    let left = until.saturating_sub(clock::now());
    let deadline = Instant::now() + CONFIRM_DEADLINE.min(Duration::from_secs(left.max(1)));
    let machines = mesh.peers.borrow().machines.clone();
    let known =
        machines.iter().find(|machine| machine.overlay_ip == issuer).map(|machine| machine.endpoints.clone());
    let request = ConfirmRequest { invite_id: invite };
    let sent = post((to, &known.unwrap_or_default()), "/v1/confirm", &request, deadline).await;
    // This machine holds a redeemed invite: without a word from the issuer nothing is decided.
    let silence =
        |failure: Failure| Failure { unknown: failure.code == ErrorCode::IssuerUnreachable, ..failure };
    let answer: RedeemResponse = sent.map_err(silence)?;
    let promised = Promised { network: &network.id, name: &network.name, plan: &network.plan, issuer };
    let same = answer.network_id == network.id && answer.membership.public_key == network.machine.public_key;
    if !same {
        return Err(refused(Refused::Machine("key")));
    }
    promised.members(&network.machine, &answer.machines).map_err(refused)?;
    let _ = mesh.learn(|peers| peers.machines = answer.machines.clone())?;
    Ok(mesh.change_network(|network| network.lifecycle = Stored::Running)?)
}

/// Whether a failed step is final, so that the join must be undone.
pub fn is_final(failure: &Failure) -> bool {
    after_failure(failure.code, failure.unknown) == AfterFailure::Undo
}

/// The machine's keys for this invite: those of an earlier attempt with the same token if there are any.
pub fn keys_for(shared: &Shared, token: &Token) -> Result<Keys> {
    let known = shared.disk.keys(&token.network_name)?;
    if let Some(keys) = known.filter(|keys| keys.invite.as_ref() == Some(&token.invite_id)) {
        return Ok(keys);
    }
    let keys = keys::fresh(Some(token.invite_id.clone()));
    shared.disk.put_keys(&token.network_name, &keys)?;
    Ok(keys)
}

/// A tunnel with the one-time key to the issuer and nobody else.
fn one_time_spec(
    shared: &Shared,
    token: &Token,
    keys: &Keys,
    file: &NetworkFile,
    prefix: OverlayPrefix,
) -> NodeSpec {
    let mut spec = spec::node(&shared.around, &shared.disk, file, keys, &PeersFile::default(), clock::now());
    let address = prefix.guest(&token.one_time_key.public());
    let issuer = PeerSpec {
        name: token.issuer.clone(),
        allowed_ips: BTreeSet::from([IpNet::from(IpAddr::V6(token.issuer_overlay_ip))]),
        keepalive: 0,
        endpoints: token.issuer_endpoints.clone(),
    };
    spec.wireguard = WireguardSpec {
        private_key: token.one_time_key.clone(),
        mtu: tunnel_mtu(shared.around.underlay_mtu),
        // With the whole prefix on the device no route is needed.
        addresses: BTreeSet::from([IpNet::V6(Ipv6Net::new_assert(address, prefix.net().prefix_len()))]),
        peers: BTreeMap::from([(token.issuer_public_key, issuer)]),
        ..spec.wireguard
    };
    spec
}

/// Takes down the tunnel of a join that an earlier daemon did not get to end.
pub async fn clear_leftover(shared: &Shared) -> Result<()> {
    let Some(file) = shared.disk.pending()? else { return Ok(()) };
    let redeemed = shared
        .disk
        .network(&file.name)?
        .is_some_and(|known| matches!(known.lifecycle, Stored::Joining { .. }));
    if redeemed {
        // Cut short between the record and its activation: it is finished as any other start of it.
        shared.disk.set_active(Some(&file.name))?;
    } else {
        tracing::warn!(network = %file.name, "removing the tunnel of an interrupted join");
        let keys = shared.disk.keys(&file.name)?.unwrap_or_else(|| keys::fresh(None));
        let spec =
            spec::node(&shared.around, &shared.disk, &file, &keys, &PeersFile::default(), clock::now());
        if !gone_within_looks(shared, &spec).await {
            return Ok(()); // tried again by the next start
        }
    }
    Ok(shared.disk.set_pending(None)?)
}

/// Takes everything of a join down. A component that could not be looked at just now may be seen a moment later.
async fn gone_within_looks(shared: &Shared, spec: &NodeSpec) -> bool {
    for _ in 0..LOOKS {
        let left = teardown::run(&shared.reconciler, spec).await;
        left.iter().for_each(|error| tracing::warn!(error, "cannot remove an interrupted join"));
        if left.is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    false
}

/// Namespace and tunnel only; links, firewall and store come with the membership.
async fn open_tunnel(shared: &Shared, spec: &NodeSpec) -> Result<()> {
    let mut outcome = shared.reconciler.run_tunnel(Trigger::Join, spec).await;
    for _ in 0..LOOKS {
        if !outcome.is_unsure() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        outcome = shared.reconciler.run_tunnel(Trigger::Join, spec).await;
    }
    let trouble = outcome.complaints();
    if trouble.is_empty() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::ComponentHeld, "the one-time tunnel cannot be opened").with(trouble))
}

async fn request(shared: &Shared, token: &Token, keys: &Keys) -> Result<RedeemRequest> {
    let config = &shared.around.config;
    let seen = underlay::observe().await.map_err(|error| {
        Failure::because(ErrorCode::IoError, "cannot read this machine's addresses", &error)
    })?;
    let (v6, v4) = (OverlayPrefix::of(&token.network_id).net(), token.plan.cluster_cidr);
    let overlay = move |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => v4.contains(ip),
        IpAddr::V6(ip) => v6.contains(ip),
    };
    let damaged = || Failure::new(ErrorCode::IoError, "keys.json is damaged");
    Ok(RedeemRequest {
        invite_id: token.invite_id.clone(),
        name: crate::membership::record::hostname(),
        public_key: keys.wireguard.public(),
        nats_key: keys::nats_key(keys).ok_or_else(damaged)?,
        verify_key: keys::verify_key(keys).ok_or_else(damaged)?,
        endpoints: crate::network::endpoints::named_first(
            config,
            &candidates(&seen, &[], config.wireguard_listen_port, overlay),
        ),
        topology: Topology { region: config.region.clone(), availability_zone: config.az.clone() },
    })
}

/// Puts the membership on disk.
fn keep(
    shared: &Shared,
    token: &Token,
    asked: &RedeemRequest,
    answer: &RedeemResponse,
) -> Result<NetworkFile> {
    let promised = Promised {
        network: &token.network_id,
        name: &token.network_name,
        plan: &token.plan,
        issuer: token.issuer_overlay_ip,
    };
    let founder = promised.judge(asked, answer).map_err(refused)?;
    let file = NetworkFile {
        version: 1,
        id: answer.network_id.clone(),
        name: answer.network_name.clone(),
        plan: answer.plan,
        lifecycle: Stored::Joining {
            invite: token.invite_id.clone(),
            issuer: token.issuer_overlay_ip,
            until: token.expires_at.saturating_add(CONFIRM_GRACE_SECS),
        },
        machine: answer.membership.clone(),
        founder: Founder { id: founder.id.clone(), overlay_ip: founder.overlay_ip },
        backend: None,
    };
    let peers = PeersFile { machines: answer.machines.clone(), ..Default::default() };
    shared.disk.put_new(&file, &peers)?;
    shared.disk.set_active(Some(&file.name))?;
    Ok(file)
}

/// What an issuer said is not what this machine asked for.
fn refused(why: Refused) -> Failure {
    Failure::new(ErrorCode::InvalidToken, why.to_string())
}

/// Just enough of a record to build a spec from, before the issuer has given the real one.
fn placeholder(token: &Token, keys: &Keys) -> Result<NetworkFile> {
    let prefix = OverlayPrefix::of(&token.network_id);
    let subnet = token
        .plan
        .slice(0)
        .ok_or_else(|| Failure::new(ErrorCode::InvalidToken, "its network has no subnet"))?;
    let machine =
        crate::membership::record::membership(MachineId::from_hostname("joiner"), keys, prefix, subnet)?;
    Ok(NetworkFile {
        version: 1,
        id: token.network_id.clone(),
        name: token.network_name.clone(),
        plan: token.plan,
        lifecycle: Stored::Stopped,
        machine,
        founder: Founder { id: token.issuer.clone(), overlay_ip: token.issuer_overlay_ip },
        backend: None,
    })
}

/// Posts through the tunnel, again and again until there is an answer: the first handshake takes its time, and
/// what is asked for is idempotent. An attempt that hears nothing is followed by one at the issuer's next endpoint.
async fn post<T: DeserializeOwned>(
    (to, endpoints): (SocketAddrV6, &[SocketAddr]),
    path: &str,
    body: &impl Serialize,
    deadline: Instant,
) -> Result<T> {
    let mut last = "no answer".to_owned();
    let (mut tried, mut sent) = (0, false);
    while Instant::now() < deadline {
        match tokio::time::timeout(ATTEMPT_TIMEOUT, once(to, path, body, &mut sent)).await {
            Ok(Ok((status, body))) => match parse(status, &body) {
                // The issuer is there, but its store is not for the moment.
                Err(failure) if failure.code == ErrorCode::StoreUnavailable => {
                    last = failure.to_string();
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                other => return other,
            },
            Ok(Err(error)) => {
                last = error;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(_) => {
                tried += 1;
                last = format!("no answer within {}s", ATTEMPT_TIMEOUT.as_secs());
                next_endpoint(to.ip(), endpoints, tried).await;
            }
        }
    }
    let message = format!("the issuing machine does not answer at [{}]", to.ip());
    Err(Failure { unknown: sent, ..Failure::new(ErrorCode::IssuerUnreachable, message).with(vec![last]) })
}

async fn once(
    to: SocketAddrV6,
    path: &str,
    body: &impl Serialize,
    sent: &mut bool,
) -> std::result::Result<(StatusCode, Bytes), String> {
    #[cfg(test)]
    if let Some(answer) = issuer::ask(path, body) {
        *sent = true;
        return Ok(answer);
    }
    let stream =
        reach::connect(&namespace::path(NETNS), SocketAddr::V6(to)).await.map_err(|e| e.to_string())?;
    *sent = true;
    http::exchange(stream, Method::POST, path, Some(body))
        .await
        .map_err(|error| ployz_core::text::chain(&error))
}

fn parse<T: DeserializeOwned>(status: StatusCode, body: &Bytes) -> Result<T> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| {
            Failure::because(ErrorCode::InvalidRequest, "invalid response from the issuer", &error)
        });
    }
    let envelope: Envelope = serde_json::from_slice(body).map_err(|_| {
        Failure::new(ErrorCode::InvalidRequest, format!("the issuer answered {status} without a reason"))
    })?;
    let code = envelope.code.parse().unwrap_or(ErrorCode::IoError);
    // What these are to be mended at is not this machine.
    let there = matches!(code, ErrorCode::IoError | ErrorCode::DiskFull);
    let hint = there.then(|| format!("on the issuing machine: {}", code.hint()));
    Err(Failure { hint, ..Failure::new(code, envelope.message).with(envelope.causes) })
}

/// Points the peer with this overlay address at another of its candidates; a single one is left alone.
async fn next_endpoint(peer: &Ipv6Addr, known: &[SocketAddr], tried: usize) {
    let netns = namespace::path(NETNS);
    let Some(device) = wireguard::inspect(WG_DEVICE, &netns).await.present().cloned() else { return };
    let wanted = IpNet::from(IpAddr::V6(*peer));
    let Some((key, _)) = device.peers.iter().find(|(_, live)| live.allowed_ips.contains(&wanted)) else {
        return;
    };
    if let Some(endpoint) = known.get(tried % known.len().max(1)).filter(|_| known.len() > 1) {
        let change = wireguard::DeviceChange::endpoint(*key, *endpoint);
        let _ = wireguard::configure(device.backend, WG_DEVICE, &netns, &change).await;
    }
}

const REDEEM_DEADLINE: Duration = Duration::from_secs(45);
const CONFIRM_DEADLINE: Duration = Duration::from_secs(45);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// How often the machine is looked at again when a look came too late.
const LOOKS: usize = 5;

/// An issuer in memory: there is no namespace to dial from in a unit test.
#[cfg(test)]
pub mod issuer {
    use crate::state::crash;
    use hyper::StatusCode;
    use hyper::body::Bytes;
    use serde::Serialize;
    use std::cell::RefCell;

    type Answer = Box<dyn FnMut(&str, serde_json::Value) -> (StatusCode, serde_json::Value)>;

    thread_local! {
        static ISSUER: RefCell<Option<Answer>> = const { RefCell::new(None) };
    }

    /// Answers what is asked on this thread, in this process and in those after it.
    pub fn answers(answer: impl FnMut(&str, serde_json::Value) -> (StatusCode, serde_json::Value) + 'static) {
        ISSUER.set(Some(Box::new(answer)));
    }

    /// The answer. Who asks may die before the question is sent, and before the answer is there.
    pub(super) fn ask(path: &str, body: &impl Serialize) -> Option<(StatusCode, Bytes)> {
        if ISSUER.with_borrow(Option::is_none) {
            return None;
        }
        crash::effect();
        let body = serde_json::to_value(body).unwrap();
        let (status, answer) = ISSUER.with_borrow_mut(|issuer| issuer.as_mut().unwrap()(path, body));
        crash::effect();
        Some((status, answer.to_string().into()))
    }
}
