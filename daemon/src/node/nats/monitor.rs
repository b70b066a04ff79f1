//! What a running server says about itself on the namespace's loopback, port 8222.

use crate::{http, reach};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

#[derive(Deserialize)]
struct Varz {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// Revision of the settings the server has loaded; `None` when it does not answer.
pub async fn revision(netns: &Path) -> Option<String> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::node::nats::config::MONITOR_PORT));
    let stream = reach::connect(netns, at).await.ok()?;
    let (status, body) = http::exchange(stream, Method::GET, "/varz", None::<&()>).await.ok()?;
    if status != StatusCode::OK {
        return None;
    }
    serde_json::from_slice::<Varz>(&body).ok()?.metadata.remove(super::config::REVISION_KEY)
}
