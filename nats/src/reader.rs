//! All that a stream holds, then what is written to it, without a consumer.
//!
//! Direct gets page by page say what there is; what the stream republishes says at once what is new. The pages are the
//! truth: a hole in the sequences, and a second without news, make it read on from the last message it has, so what the
//! subscription lost is read, and a server that does not answer is noticed within 2.5 s.

use crate::dialect::{PREFIX, live};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// One step of a [`Reader`].
#[derive(Debug)]
pub(crate) enum Read {
    /// A message, each once and in the order of the stream.
    Entry(Entry),
    /// There is nothing more now.
    Even,
}

/// One message of a stream.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its subject in the stream.
    pub subject: String,
    /// Its number in the stream.
    pub sequence: u64,
    /// What it was written with.
    pub headers: HeaderMap,
    /// Its value.
    pub payload: Bytes,
}

/// Why there is no next step; after it the reader goes on from where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("cannot subscribe to the changes of {0}")]
    Subscribe(String),
    #[error("the store is not connected")]
    Away,
    #[error("no answer from the store for {} s", SILENCE_TIMEOUT.as_secs_f32())]
    Silent,
    #[error("the store sent an unexpected message: {0}")]
    Strange(String),
    #[error("the connection ended")]
    Ended,
}

/// Follows one stream.
pub(crate) struct Reader {
    client: Client,
    stream: String,
    ask: String,
    inbox: String,
    answers: Subscriber,
    changes: Subscriber,
    /// The last message that was given out.
    last: u64,
    /// The highest that was republished.
    heard: u64,
    page: Option<Page>,
    pages: u64,
    /// When to ask, or to give up what was asked.
    due: Instant,
}

/// A read under way.
struct Page {
    inbox: String,
    /// Its last message, 0 before the first one.
    last: u64,
}

impl Reader {
    /// From the first message on. Subscribes before it reads, on one connection: what is written after the read is
    /// republished to it.
    pub async fn open(client: &Client, stream: &str) -> Result<Self, Broken> {
        let subscribe = async |subject: String| {
            client.subscribe(subject).await.map_err(|_| Broken::Subscribe(stream.to_owned()))
        };
        let inbox = client.new_inbox();
        let changes = subscribe(format!("{}.>", live(stream))).await?;
        let answers = subscribe(format!("{inbox}.*")).await?;
        Ok(Self {
            client: client.clone(),
            stream: stream.to_owned(),
            ask: format!("{PREFIX}.DIRECT.GET.{stream}"),
            inbox,
            answers,
            changes,
            last: 0,
            heard: 0,
            page: None,
            pages: 0,
            due: Instant::now(),
        })
    }

    /// The next step; cancel-safe.
    pub async fn next(&mut self) -> Result<Read, Broken> {
        loop {
            // Cancel-safe: both channels keep what was not taken, and asking is one hand-over to the connection.
            let read = tokio::select! {
                biased;
                answer = self.answers.next() => self.answer(answer.ok_or(Broken::Ended)?),
                change = self.changes.next() => self.change(change.ok_or(Broken::Ended)?),
                () = sleep_until(self.due) => match self.page.take() {
                    None => self.read().await.map(|()| None),
                    Some(_) => Err(Broken::Silent),
                },
            };
            match read {
                Ok(None) => {}
                Ok(Some(read)) => return Ok(read),
                Err(broken) => {
                    self.page = None;
                    self.due = Instant::now() + CHECK_INTERVAL;
                    return Err(broken);
                }
            }
        }
    }

    /// Asks for what comes after the last message.
    async fn read(&mut self) -> Result<(), Broken> {
        let question = format!(
            r#"{{"seq":{},"next_by_subj":">","batch":{PAGE_MESSAGES},"max_bytes":{PAGE_BYTES}}}"#,
            self.last + 1
        );
        self.pages += 1;
        let inbox = format!("{}.{}", self.inbox, self.pages);
        let asked = self.client.publish_with_reply(self.ask.clone(), inbox.clone(), question.into());
        asked.await.map_err(|_| Broken::Ended)?;
        self.page = Some(Page { inbox, last: 0 });
        self.due = Instant::now() + ANSWER_TIMEOUT;
        Ok(())
    }

    fn answer(&mut self, message: Message) -> Result<Option<Read>, Broken> {
        let Some(page) = self.page.as_mut().filter(|page| *page.inbox == *message.subject) else {
            return Ok(None); // of a read that was given up
        };
        let headers = message.headers.unwrap_or_default();
        let number = |name: &str| headers.get_last(name)?.as_str().parse::<u64>().ok();
        let follows = |page: &Page| match number("Nats-Last-Sequence") {
            Some(before) if before == page.last => Ok(()),
            before => Err(Broken::Strange(format!("message {} of a page comes after {before:?}", page.last))),
        };
        match message.status.map(|status| status.as_u16()) {
            None => {
                follows(page)?;
                let entry = entry(&self.stream, headers, message.payload)?;
                page.last = entry.sequence;
                self.due = Instant::now() + ANSWER_TIMEOUT;
                Ok(self.take(entry))
            }
            Some(END_OF_PAGE) => {
                follows(page)?;
                let more = number("Nats-Num-Pending").is_none_or(|pending| pending > 0);
                Ok(self.end(more))
            }
            Some(NOTHING) if page.last == 0 => Ok(self.end(false)),
            Some(NO_RESPONDERS) => Err(Broken::Away),
            Some(other) => {
                let said = message.description.unwrap_or_default();
                Err(Broken::Strange(format!("{other} {said}")))
            }
        }
    }

    fn end(&mut self, more: bool) -> Option<Read> {
        self.page = None;
        // What was republished while the page was made may not be in it.
        let again = more || self.heard > self.last;
        self.heard = self.last;
        self.due = Instant::now() + if again { Duration::ZERO } else { CHECK_INTERVAL };
        (!again).then_some(Read::Even)
    }

    fn change(&mut self, message: Message) -> Result<Option<Read>, Broken> {
        // What is no change of this stream is another's attempt; the next page says what there is.
        let Ok(entry) = entry(&self.stream, message.headers.unwrap_or_default(), message.payload) else {
            return Ok(None);
        };
        self.heard = self.heard.max(entry.sequence);
        if entry.sequence > self.last + 1 {
            if self.page.is_none() {
                self.due = Instant::now();
            }
            return Ok(None);
        }
        if self.page.is_none() {
            self.due = Instant::now() + CHECK_INTERVAL;
        }
        Ok(self.take(entry))
    }

    /// Gives out what was not given out yet.
    fn take(&mut self, entry: Entry) -> Option<Read> {
        if entry.sequence <= self.last {
            return None;
        }
        self.last = entry.sequence;
        Some(Read::Entry(entry))
    }
}

/// All that a stream holds now, in its order.
pub(crate) async fn everything(client: &Client, stream: &str) -> Result<Vec<Entry>, Broken> {
    let mut reader = Reader::open(client, stream).await?;
    let mut entries = Vec::new();
    while let Read::Entry(entry) = reader.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

/// From the headers that direct gets and republished messages have in common. The server adds its own after those that
/// the message was written with, so the last one counts; and it names the stream, because an answer about another one can
/// be sent to where the changes come in.
fn entry(stream: &str, headers: HeaderMap, payload: Bytes) -> Result<Entry, Broken> {
    let header = |name: &str| headers.get_last(name).map(|value| value.as_str());
    let subject = header("Nats-Subject").filter(|_| header("Nats-Stream") == Some(stream));
    let subject = subject.map(ToOwned::to_owned);
    let sequence = header("Nats-Sequence").and_then(|text| text.parse().ok());
    match (subject, sequence) {
        (Some(subject), Some(sequence)) => Ok(Entry { subject, sequence, headers, payload }),
        _ => Err(Broken::Strange("a message of the stream without its place in it".into())),
    }
}

/// A page ends with the first limit that is reached; a client holds 65,536 messages that it has not taken yet.
const PAGE_MESSAGES: u32 = 1000;
const PAGE_BYTES: u32 = 4 << 20;
/// After so long without news it asks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// For the next message of a page.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Both.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(2500);
const END_OF_PAGE: u16 = 204;
const NOTHING: u16 = 404;
const NO_RESPONDERS: u16 = 503;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_message_is_what_the_server_says() {
        let read = |said: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in said {
                headers.append(*name, *value);
            }
            entry("KV_a", headers, Bytes::new()).map(|entry| (entry.subject, entry.sequence))
        };
        let server = [("Nats-Stream", "KV_a"), ("Nats-Subject", "$KV.a.k"), ("Nats-Sequence", "7")];
        let place = Ok(("$KV.a.k".to_owned(), 7));
        assert_eq!(read(&server), place);
        let writer = [("Nats-Sequence", "999"), ("Nats-Subject", "$KV.a.other"), ("Nats-Stream", "KV_b")];
        assert_eq!(read(&[writer, server].concat()), place, "a writer's own headers come first");
        assert!(read(&[server, [("Nats-Stream", "KV_b"); 3]].concat()).is_err(), "of another stream");
        assert!(read(&server[..2]).is_err() && read(&[]).is_err());
    }
}
