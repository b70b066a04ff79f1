//! A backend that does what its script says, byte for byte, and keeps what it was sent.

use super::{Backend, raw_backend};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the backend does when a request for a scripted path has come.
#[derive(Debug, Clone, Copy)]
pub enum Do {
    /// Sends these bytes.
    Say(&'static str),
    /// Lets this time pass.
    Pause(u64),
    /// Reads the body of the request.
    Take,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// What came on one connection.
pub type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Every path that begins with `/row` is answered by the script, after its head has come; any other with its own path.
pub async fn scripted(script: &'static [Do]) -> (Backend, Heard) {
    scripted_with(script, &[]).await
}

/// The same, and what it does as soon as it is connected to.
pub async fn scripted_with(script: &'static [Do], first: &'static [Do]) -> (Backend, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let backend = raw_backend(move |stream, number| {
        let kept = kept.clone();
        async move {
            {
                let mut kept = kept.lock();
                let connections = kept.len().max(number + 1);
                kept.resize(connections, Vec::new());
            }
            let mut side = Side { stream, buffer: Vec::new(), kept, number };
            let _ = side.serve(script, first).await;
        }
    })
    .await;
    (backend, heard)
}

struct Side {
    stream: TcpStream,
    buffer: Vec<u8>,
    kept: Heard,
    number: usize,
}

impl Side {
    async fn serve(&mut self, script: &[Do], first: &[Do]) -> Option<()> {
        for step in first {
            self.step(*step, "").await?;
        }
        loop {
            let head = self.head().await?;
            let path = head.split(' ').nth(1)?.to_owned();
            if path.starts_with("/row") {
                for step in script {
                    self.step(*step, &head).await?;
                }
            } else {
                self.body(&head).await?;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                self.stream.write_all(answer.as_bytes()).await.ok()?;
            }
        }
    }

    async fn step(&mut self, step: Do, head: &str) -> Option<()> {
        match step {
            Do::Say(text) => self.stream.write_all(text.as_bytes()).await.ok(),
            Do::Pause(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Some(())
            }
            Do::Take => self.body(head).await,
            Do::Close => None,
            Do::Reset => {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).ok()?;
                None
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let before = self.buffer.len();
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(1..) => {
                self.kept.lock()[self.number].extend_from_slice(&self.buffer[before..]);
                Some(())
            }
            _ => None,
        }
    }

    async fn upto(&mut self, mark: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|part| part == mark) {
                let text = String::from_utf8_lossy(&self.buffer[..at + mark.len()]).into_owned();
                self.buffer.drain(..at + mark.len());
                return Some(text);
            }
            self.more().await?;
        }
    }

    /// The head of a request. What is none is answered as servers do, late: the answer belongs to no request.
    async fn head(&mut self) -> Option<String> {
        loop {
            let head = self.upto(b"\r\n\r\n").await?;
            if head.contains(" HTTP/1.1\r\n") {
                return Some(head);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.ok()?;
        }
    }

    async fn body(&mut self, head: &str) -> Option<()> {
        let head = head.to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            loop {
                let size = self.upto(b"\r\n").await?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                while self.buffer.len() < size + 2 {
                    self.more().await?;
                }
                self.buffer.drain(..size + 2);
                if size == 0 {
                    return Some(());
                }
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.buffer.len() < length {
            self.more().await?;
        }
        self.buffer.drain(..length);
        Some(())
    }
}
