//! One gateway or DNS server, asked again and again until it answers as the commit says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::load::connection::Target;
use crate::load::packet::{addresses, query};
use crate::load::service::VERSION;

/// When the gateway first sent a request for `host` to the instance with this version; the connection is kept over commits.
pub(super) async fn gateway(server: SocketAddr, host: String, version: String) -> Result<Instant> {
    let target = Target::new(server, host);
    let mut sender = target.http1().await?;
    let mut every = ticks();
    let until = Instant::now() + PATIENCE;
    loop {
        every.tick().await;
        let answer = timeout(PATIENCE, of_gateway(&target, &mut sender)).await.context("timed out")?;
        if answer?.as_deref() == Some(&version[..]) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < until, "the gateway {server} never heard of {}", target.host);
    }
}

/// The version of whoever answered; `None` where the gateway has no such route.
async fn of_gateway(target: &Target, sender: &mut SendRequest<Empty<Bytes>>) -> Result<Option<String>> {
    sender.ready().await?;
    let response = sender.send_request(target.request("/echo/changed")?).await?;
    let (status, version) = (response.status().as_u16(), response.headers().get(VERSION).cloned());
    response.into_body().collect().await?;
    match (status, version) {
        (404, None) => Ok(None),
        (200, Some(version)) => Ok(Some(version.to_str()?.to_owned())),
        other => anyhow::bail!("the gateway {} answered {other:?}", target.server),
    }
}

/// When the DNS server first answered with this address and no other.
pub(super) async fn resolver(server: SocketAddr, name: String, wanted: IpAddr) -> Result<Instant> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await.context("a socket")?;
    socket.connect(server).await.context("connect")?;
    let mut every = ticks();
    let until = Instant::now() + PATIENCE;
    for id in (0_u16..=u16::MAX).cycle() {
        every.tick().await;
        socket.send(&query(id, &name)).await.context("send")?;
        let mut buffer = [0; 1500];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.context("timed out")??;
        if addresses(id, &name, &buffer[..length])? == [wanted] {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < until, "the DNS server {server} never gave {wanted} for {name}");
    }
    unreachable!("a cycle has no end")
}

fn ticks() -> tokio::time::Interval {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

/// Between two questions: what the times may be too long by, beside the way there and back.
const EVERY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);
