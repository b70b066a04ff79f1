//! The membership listener's routes. The caller is known by its overlay source address, for which WireGuard
//! vouches: nothing that it says about itself is believed without it.

use crate::failure::Failure;
use crate::membership::issue;
use crate::network::context::Network;
use crate::node::environment::NETNS;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ployz_core::spec::link::WG_DEVICE;
use ployz_core::wire::v1::api::Asked;
use ployz_core::wire::v1::join::{ConfirmRequest, ObservedResponse, RedeemRequest};
use ployz_netns::{namespace, wireguard};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// All routes.
pub fn router(mesh: Arc<Network>) -> Router {
    Router::new()
        .route("/v1/redeem", post(redeem))
        .route("/v1/confirm", post(confirm))
        .route("/v1/observed", get(observed))
        .with_state(mesh)
}

async fn redeem(
    State(mesh): State<Arc<Network>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(request): Json<RedeemRequest>,
) -> Response {
    match Box::pin(issue::redeem(&mesh, source(from), request)).await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => refused(failure),
    }
}

async fn confirm(
    State(mesh): State<Arc<Network>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(request): Json<ConfirmRequest>,
) -> Response {
    match issue::confirm(&mesh, source(from), request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => refused(failure),
    }
}

async fn observed(State(mesh): State<Arc<Network>>, ConnectInfo(from): ConnectInfo<SocketAddr>) -> Response {
    let caller = source(from);
    let key = mesh.peers.borrow().machines.iter().find(|m| m.overlay_ip == caller).map(|m| m.public_key);
    let seen = wireguard::inspect(WG_DEVICE, &namespace::path(NETNS)).await;
    let endpoint = key.and_then(|key| seen.present()?.peers.get(&key)?.stats.endpoint);
    Json(ObservedResponse { endpoint }).into_response()
}

fn source(from: SocketAddr) -> Ipv6Addr {
    match from.ip() {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
    }
}

fn refused(failure: Failure) -> Response {
    tracing::warn!(target: "audit", code = %failure.code, error = %failure, "join request refused");
    (StatusCode::CONFLICT, Json(failure.envelope(Asked::Join))).into_response()
}
