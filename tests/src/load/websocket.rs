//! WebSockets that stay open for the whole run, with an echo every tenth of a second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::clients::pause;
use super::connection::{Target, Wire};
use super::tally::Score;

/// An open socket, and who is at its other end.
struct Socket {
    stream: WebSocketStream<Box<dyn Wire>>,
    replica: String,
}

/// One socket for as long as it lives. A close frame is an end in order, everything else that ends it is a loss.
pub(super) async fn echo(mut score: Score, target: Target, stop: CancellationToken) {
    let mut open: Option<Socket> = None;
    for number in 0_u64.. {
        if !pause(BETWEEN, &stop).await {
            if let Some(mut socket) = open {
                let _ = timeout(CLOSING, socket.stream.close(None)).await;
            }
            return;
        }
        score.asked();
        let start = Instant::now();
        match exchange(&target, &mut open, &score, number).await {
            Ok(()) => score.right(start.elapsed()),
            Err(error) => {
                let replica = open.take().map(|socket| socket.replica);
                score.lost(format!("{error:#}"), replica.as_deref());
            }
        }
    }
}

async fn exchange(target: &Target, open: &mut Option<Socket>, score: &Score, number: u64) -> Result<()> {
    loop {
        let socket = match open {
            Some(socket) => socket,
            None => open.insert(Socket::open(target).await?),
        };
        if socket.echo(&format!("word {number}")).await? {
            return Ok(());
        }
        score.closed();
        *open = None;
    }
}

impl Socket {
    async fn open(target: &Target) -> Result<Self> {
        let stream = target.connect().await?;
        let url = format!("ws://{}/ws", target.host);
        let (stream, _) = timeout(PATIENCE, tokio_tungstenite::client_async(url, stream))
            .await
            .context("no upgrade in time")?
            .context("upgrade")?;
        let mut socket = Self { stream, replica: String::new() };
        match socket.next().await? {
            Some(text) => socket.replica = text,
            None => bail!("closed before it said who it is"),
        }
        Ok(socket)
    }

    /// Whether the word came back; otherwise the socket was closed in order.
    async fn echo(&mut self, word: &str) -> Result<bool> {
        // A close frame may be here already: then sending fails, and reading tells why.
        let sent =
            timeout(PATIENCE, self.stream.send(Message::text(word))).await.context("nothing is taken")?;
        match self.next().await {
            Ok(None) => Ok(false),
            Ok(Some(text)) => {
                ensure!(text == word, "{text:.40} for {word}");
                Ok(true)
            }
            Err(error) => Err(match sent {
                Ok(()) => error,
                Err(sent) => error.context(sent),
            }),
        }
    }

    /// The next text, or `None` after a close frame.
    async fn next(&mut self) -> Result<Option<String>> {
        let message = timeout(PATIENCE, self.stream.next()).await.context("no word in time")?;
        match message.context("the connection ended without a close frame")?.context("read")? {
            Message::Text(text) => Ok(Some(text.to_string())),
            Message::Close(_) => Ok(None),
            other => bail!("{other:?}"),
        }
    }
}

const BETWEEN: Duration = Duration::from_millis(100);
const CLOSING: Duration = Duration::from_secs(1);
