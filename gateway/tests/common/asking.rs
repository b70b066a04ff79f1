//! A client that asks in HTTP/1.0, HTTP/1.1 or HTTP/2 and says all it got: what was said in between, the answer, its
//! trailers, and whether it was whole.

use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http10,
    Http11,
    Http2,
}

pub const ALL: [Speaks; 3] = [Speaks::Http10, Speaks::Http11, Speaks::Http2];

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub fields: Vec<(&'static str, &'static str)>,
    /// Pieces of the body; in HTTP/2 each is a frame, in HTTP/1.1 a chunk.
    pub body: Vec<&'static str>,
    /// The body's length is said beforehand.
    pub length: bool,
    /// The last frame of HTTP/2 is an empty one.
    pub empty_end: bool,
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Got {
    pub interim: Vec<u16>,
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: String,
    pub trailers: Vec<(String, String)>,
    /// The answer ended as its framing says.
    pub whole: bool,
}

impl Got {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Ask {
    pub fn get(path: &str) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            fields: vec![],
            body: vec![],
            length: false,
            empty_end: false,
        }
    }

    pub fn upload(path: &str, body: &[&'static str]) -> Self {
        Self { method: "POST", body: body.to_vec(), ..Self::get(path) }
    }
}

/// Asks on a connection of its own.
pub async fn ask(to: SocketAddr, speaks: Speaks, ask: &Ask) -> Got {
    let answer = async {
        match speaks {
            Speaks::Http2 => http2(to, ask).await,
            _ => http1(to, speaks == Speaks::Http10, ask).await,
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap_or_default()
}

async fn http1(to: SocketAddr, old: bool, ask: &Ask) -> Got {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut text = format!("{} {} HTTP/1.{}\r\nHost: a.org\r\n", ask.method, ask.path, u8::from(!old));
    for (name, value) in &ask.fields {
        text += &format!("{name}: {value}\r\n");
    }
    if !ask.body.is_empty() {
        if ask.length || old {
            text += &format!("Content-Length: {}\r\n\r\n{}", ask.body.concat().len(), ask.body.concat());
        } else {
            text += "Transfer-Encoding: chunked\r\n\r\n";
            for piece in ask.body.iter().filter(|piece| !piece.is_empty()) {
                text += &format!("{:x}\r\n{piece}\r\n", piece.len());
            }
            text += "0\r\n\r\n";
        }
    } else {
        text += "\r\n";
    }
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut got = Got::default();
    let mut wire = Wire { stream, buffer: Vec::new() };
    loop {
        let Some(head) = wire.head().await else { return got };
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        if (100..200).contains(&status) && status != 101 {
            got.interim.push(status);
            continue;
        }
        got.status = status;
        got.fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        break;
    }
    got.fields.sort();
    let bodiless = ask.method == "HEAD" || matches!(got.status, 204 | 304 | 101);
    if bodiless {
        // Whatever follows would be the next answer's.
        got.whole = wire.buffer.is_empty();
    } else if got.field("transfer-encoding").is_some() {
        wire.chunks(&mut got).await;
    } else if let Some(length) = got.field("content-length").map(|length| length.parse::<usize>().unwrap()) {
        got.whole = wire.fill(length).await;
        got.body = String::from_utf8_lossy(&wire.buffer).into_owned();
    } else {
        while wire.more().await {}
        got.body = String::from_utf8_lossy(&wire.buffer).into_owned();
        got.whole = true;
    }
    got
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    async fn fill(&mut self, length: usize) -> bool {
        while self.buffer.len() < length {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Up to a mark, without it.
    async fn until(&mut self, mark: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|part| part == mark) {
                let text = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + mark.len());
                return Some(text);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn head(&mut self) -> Option<String> {
        self.until(b"\r\n\r\n").await
    }

    async fn chunks(&mut self, got: &mut Got) {
        while let Some(size) = self.until(b"\r\n").await {
            let size = usize::from_str_radix(&size, 16).unwrap();
            if size == 0 {
                break;
            }
            if !self.fill(size + 2).await {
                return;
            }
            got.body += &String::from_utf8_lossy(&self.buffer[..size]);
            self.buffer.drain(..size + 2);
        }
        while let Some(line) = self.until(b"\r\n").await {
            if line.is_empty() {
                got.whole = self.buffer.is_empty();
                return;
            }
            got.trailers.push(field(&line));
        }
    }
}

async fn http2(to: SocketAddr, ask: &Ask) -> Got {
    let stream = TcpStream::connect(to).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let got = stream_of(client, ask).await;
    driver.abort();
    got
}

async fn stream_of(client: h2::client::SendRequest<Bytes>, ask: &Ask) -> Got {
    let mut request = http::Request::builder()
        .method(ask.method)
        .uri(format!("http://a.org{}", ask.path))
        .version(http::Version::HTTP_2);
    for (name, value) in &ask.fields {
        request = request.header(*name, *value);
    }
    if ask.length {
        request = request.header("content-length", ask.body.concat().len());
    }
    let mut client = client.ready().await.unwrap();
    let (mut answer, mut send) = client.send_request(request.body(()).unwrap(), ask.body.is_empty()).unwrap();
    for (number, piece) in ask.body.iter().enumerate() {
        let last = number + 1 == ask.body.len() && !ask.empty_end;
        if send.send_data(Bytes::from_static(piece.as_bytes()), last).is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    if ask.empty_end && !ask.body.is_empty() {
        let _ = send.send_data(Bytes::new(), true);
    }
    let mut got = Got::default();
    let head = std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            got.interim.push(interim.status().as_u16());
        }
        std::pin::Pin::new(&mut answer).poll(cx)
    });
    let Ok(head) = head.await else { return got };
    got.status = head.status().as_u16();
    got.fields = pairs(head.headers());
    got.fields.sort();
    let mut body = head.into_body();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return got };
        let _ = body.flow_control().release_capacity(data.len());
        got.body += &String::from_utf8_lossy(&data);
    }
    let Ok(trailers) = body.trailers().await else { return got };
    got.trailers = trailers.as_ref().map(pairs).unwrap_or_default();
    got.whole = true;
    got
}

fn pairs(map: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
