//! The store: whether this machine's server is healthy, and whether it is connected to the founder's.

use super::context::{Ground, Running, dial};
use crate::http;
use crate::node::nats::config::MONITOR_PORT;
use hyper::{Method, StatusCode};
use ployz_core::mesh::belief::Doubt;
use ployz_core::wire::v1::doctor::Check;
use std::net::{Ipv4Addr, SocketAddr};

pub(super) async fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let Some(running) = &ground.network else { return Vec::new() };
    let health = ask("/healthz").await;
    let mut checks = vec![judge_health(health.as_ref().map(|(code, body)| (*code, body.as_str())))];
    if health.is_ok() {
        let leaves = ask("/leafz").await.ok().and_then(|(_, body)| leaves(&body));
        checks.push(judge_leaves(running, leaves));
    }
    checks.extend(ground.shared.doubts.borrow().as_deref().map(judge_records));
    checks
}

fn judge_records(doubts: &[Doubt]) -> Check {
    if doubts.is_empty() {
        return Check::ok("store-records", "every member's record is believed");
    }
    let seen = doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let advice = "another member wrote over it, or it is of a newer version; what was known before stands. A machine writes its own \
                  record again by itself: is its ployzd up?";
    Check::warn("store-records", seen, advice)
}

/// On the namespace's loopback, where only this machine's root can ask.
async fn ask(path: &str) -> Result<(StatusCode, String), String> {
    let stream = dial(SocketAddr::from((Ipv4Addr::LOCALHOST, MONITOR_PORT))).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let exchange = super::context::limited(http::exchange(stream, Method::GET, path, None::<&()>)).await;
    let (status, body) = exchange.ok_or("timed out")?.map_err(|error| ployz_core::text::chain(&error))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn judge_health(answer: Result<(StatusCode, &str), &String>) -> Check {
    let advice = "`systemctl status ployz-nats`, `journalctl -u ployz-nats -n 50`; names and routes are served from the last known state";
    match answer {
        Ok((StatusCode::OK, _)) => Check::ok("store", "the server and its JetStream are healthy"),
        Ok((code, body)) => {
            Check::fail("store", format!("the server reports {code}: {}", error_of(body)), advice)
        }
        Err(why) => Check::fail("store", format!("this machine's server does not answer: {why}"), advice),
    }
}

fn error_of(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let error = parsed.as_ref().and_then(|value| value["error"].as_str());
    error.unwrap_or(body.trim()).to_owned()
}

fn leaves(body: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(body).ok()?["leafnodes"].as_u64()
}

fn judge_leaves(running: &Running, leaves: Option<u64>) -> Check {
    let founder = &running.file.founder.id;
    match leaves {
        None => Check::warn(
            "store-links",
            "the server does not report its connections",
            "`journalctl -u ployz-nats -n 50`",
        ),
        Some(count) if running.file.is_founder() => Check::ok(
            "store-links",
            format!("this machine holds the store; {count} other servers are connected"),
        ),
        Some(0) => Check::fail(
            "store-links",
            format!("not connected to the store on {founder}"),
            format!(
                "are {founder} and its ployz-nats up? Deploys are refused until then; services keep running"
            ),
        ),
        Some(_) => Check::ok("store-links", format!("connected to the store on {founder}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    #[test]
    fn what_the_server_says_is_told() {
        assert_eq!(judge_health(Ok((StatusCode::OK, ""))).level, Level::Ok);
        let sick = judge_health(Ok((
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"unavailable","error":"no stream"}"#,
        )));
        assert!(sick.level == Level::Fail && sick.seen.ends_with("no stream"), "{sick:?}");
        let away = judge_health(Err(&"Connection refused".to_owned()));
        assert!(away.level == Level::Fail && away.seen.contains("refused"), "{away:?}");
        assert_eq!((leaves(r#"{"leafnodes": 2}"#), leaves("<html>")), (Some(2), None));
    }
}
