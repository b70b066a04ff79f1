//! Queries over UDP and TCP, whose answers must be what the plan says.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::clients::pause;
use super::connection::PAUSE;
use super::packet::{addresses, query};
use super::tally::Score;

/// A name and what its addresses must be: an address, or the beginning of one before a `*`.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) answer: String,
}

impl Name {
    fn check(&self, id: u16, packet: &[u8]) -> Result<()> {
        let found = addresses(id, &self.name, packet).with_context(|| self.name.clone())?;
        ensure!(!found.is_empty(), "{}: no addresses", self.name);
        let wrong = found.iter().find(|address| !self.allows(address));
        ensure!(wrong.is_none(), "{}: {found:?}, not {}", self.name, self.answer);
        Ok(())
    }

    fn allows(&self, address: &IpAddr) -> bool {
        let text = address.to_string();
        self.answer.strip_suffix('*').map_or(text == self.answer, |head| text.starts_with(head))
    }
}

/// One packet for every query, never sent again: a lost one shows.
pub(super) async fn udp(mut score: Score, server: SocketAddr, names: Vec<Name>, stop: CancellationToken) {
    for (id, name) in (0_u16..=u16::MAX).cycle().zip(names.iter().cycle()) {
        if !pause(PAUSE, &stop).await {
            return;
        }
        score.asked();
        let start = Instant::now();
        match timeout(PATIENCE, by_packet(server, name, id)).await.unwrap_or_else(|_| no_answer(name)) {
            Ok(()) => score.right(start.elapsed()),
            Err(error) => score.lost(format!("{error:#}"), None),
        }
    }
}

fn no_answer(name: &Name) -> Result<()> {
    Err(anyhow::anyhow!("{}: no answer in time", name.name))
}

async fn by_packet(server: SocketAddr, name: &Name, id: u16) -> Result<()> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await.context("a socket")?;
    socket.connect(server).await.context("connect")?;
    socket.send(&query(id, &name.name)).await.context("send")?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).await.context("receive")?;
    name.check(id, &buffer[..length])
}

/// Connections that carry [`ON_ONE`] queries, one after another; a server may close one between two of them.
pub(super) async fn tcp(mut score: Score, server: SocketAddr, names: Vec<Name>, stop: CancellationToken) {
    let mut kept: Option<(TcpStream, usize)> = None;
    for (id, name) in (0_u16..=u16::MAX).cycle().zip(names.iter().cycle()) {
        if !pause(PAUSE, &stop).await {
            return;
        }
        score.asked();
        let start = Instant::now();
        let asked = by_connection(server, &mut kept, &score, name, id);
        match timeout(PATIENCE, asked).await.unwrap_or_else(|_| no_answer(name)) {
            Ok(()) => score.right(start.elapsed()),
            Err(error) => {
                kept = None;
                score.lost(format!("{error:#}"), None);
            }
        }
    }
}

async fn by_connection(
    server: SocketAddr,
    kept: &mut Option<(TcpStream, usize)>,
    score: &Score,
    name: &Name,
    id: u16,
) -> Result<()> {
    if kept.as_ref().is_some_and(|(stream, _)| is_closed(stream)) {
        score.closed();
        *kept = None;
    }
    let (mut stream, used) = match kept.take() {
        Some(kept) => kept,
        None => (TcpStream::connect(server).await.context("connect")?, 0),
    };
    let packet = query(id, &name.name);
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend(packet);
    stream.write_all(&framed).await.context("send")?;
    let length = stream.read_u16().await.with_context(|| format!("query {used} of a connection"))?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.context("half an answer")?;
    *kept = (used + 1 < ON_ONE).then_some((stream, used + 1));
    name.check(id, &answer)
}

/// Whether the server has closed a connection on which nothing is asked.
fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

const PATIENCE: Duration = Duration::from_secs(2);
const ON_ONE: usize = 20;
