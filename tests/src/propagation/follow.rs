//! Follows the commits of one service and times each: heard, acknowledged, told to gateways and DNS, answered by all of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use ployz_core::id::{InstanceId, MachineId};
use ployz_core::routing::{Key, ServiceRef, Value};
use ployz_core::wire::v1::deploy::Decision;
use ployz_core::wire::v1::subject;
use ployz_nats::dialect::Dialect;
use ployz_nats::events::Publisher;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::figures::Figures;
use super::{Store, answers};

/// What is followed, and who is asked.
pub struct Plan {
    /// The service. Each of its deploys has one instance, another `VERSION` in its environment and the route
    /// `v<VERSION>.<namespace>.example.org`.
    pub service: ServiceRef,
    /// How many commits.
    pub count: usize,
    /// Gateways.
    pub gateways: Vec<SocketAddr>,
    /// DNS servers.
    pub resolvers: Vec<SocketAddr>,
}

/// What was committed.
struct Change {
    version: String,
    machine: MachineId,
    instance: InstanceId,
    /// Where the store's acknowledgement is sent.
    reply: String,
}

/// Times since the store's acknowledgement.
struct Times {
    told: Duration,
    gateways: Duration,
    resolvers: Duration,
}

/// What passes by on the founder's server.
struct Heard {
    commits: Subscriber,
    replies: Subscriber,
    events: Subscriber,
}

/// Prints `begun` when it listens; returns lines of a name and `median:p99:longest` in milliseconds.
pub async fn follow(store: &Store, plan: &Plan) -> Result<Vec<String>> {
    let client = &store.client;
    let events = format!("{}.service.{}", subject::routing(&store.network), plan.service);
    let mut heard = Heard {
        commits: client.subscribe(subject::deploy_commits(&store.network)).await?,
        replies: client.subscribe("_INBOX.>").await?,
        events: client.subscribe(events).await?,
    };
    client.flush().await?;
    println!("begun");
    let mut all = Vec::new();
    while all.len() < plan.count {
        let change = heard.commit(plan).await?;
        let times = timeout(PATIENCE, time(store, plan, &mut heard, &change)).await;
        let times = times.context("timed out").and_then(|times| times);
        all.push(times.with_context(|| format!("version {}", change.version))?);
    }
    let figures = |of: fn(&Times) -> Duration| Figures::of(all.iter().map(of)).line();
    Ok(vec![
        format!("until gateways and DNS are told:{}", figures(|times| times.told)),
        format!("until the last gateway answers:{}", figures(|times| times.gateways)),
        format!("until the last DNS server answers:{}", figures(|times| times.resolvers)),
        format!("until all answer:{}", figures(|times| times.gateways.max(times.resolvers))),
    ])
}

impl Heard {
    /// The next commit of the service. What else is said meanwhile is read and forgotten.
    async fn commit(&mut self, plan: &Plan) -> Result<Change> {
        loop {
            tokio::select! {
                // First: its acknowledgement comes after it, and must not be read before it.
                biased;
                message = self.commits.next() => {
                    if let Some(change) = Change::of(plan, &message.context("the store is away")?)? {
                        return Ok(change);
                    }
                }
                reply = self.replies.next() => drop(reply.context("the store is away")?),
                event = self.events.next() => drop(event.context("the store is away")?),
            }
        }
    }

    /// When the store acknowledged the commit, and when the coordinator told gateways and DNS.
    async fn acknowledged_and_told(&mut self, change: &Change) -> Result<(Instant, Instant)> {
        let (mut acknowledged, mut told) = (None, None);
        loop {
            tokio::select! {
                reply = self.replies.next() => {
                    if reply.context("the store is away")?.subject.as_str() == change.reply {
                        acknowledged = Some(Instant::now());
                    }
                }
                event = self.events.next() => {
                    event.context("the store is away")?;
                    told = Some(Instant::now());
                }
            }
            if let (Some(acknowledged), Some(told)) = (acknowledged, told) {
                return Ok((acknowledged, told));
            }
        }
    }
}

impl Change {
    fn of(plan: &Plan, message: &Message) -> Result<Option<Self>> {
        let decision: Decision = serde_json::from_slice(&message.payload).context("a decision")?;
        let Some(commit) = decision.commit().filter(|commit| commit.namespace == plan.service.namespace)
        else {
            return Ok(None);
        };
        let committed = commit.services.get(&plan.service.service).context("the service")?;
        let version = committed.service.env.iter().find(|(name, _)| name.as_str() == "VERSION");
        ensure!(committed.slots.len() == 1, "{} instances", committed.slots.len());
        let placed = committed.slots.values().next().context("an instance")?;
        Ok(Some(Self {
            version: version.context("no VERSION")?.1.clone(),
            machine: placed.machine.clone(),
            instance: placed.instance.clone(),
            reply: message.reply.as_ref().context("nobody waits for an answer")?.to_string(),
        }))
    }
}

async fn time(store: &Store, plan: &Plan, heard: &mut Heard, change: &Change) -> Result<Times> {
    let ServiceRef { namespace, service } = &plan.service;
    let mut gateways = JoinSet::new();
    for server in &plan.gateways {
        let host = format!("v{}.{namespace}.example.org", change.version);
        gateways.spawn(answers::gateway(*server, host, change.version.clone()));
    }
    let answered = async {
        let address = address(store, plan, change).await?;
        let mut resolvers = JoinSet::new();
        for server in &plan.resolvers {
            let name = format!("{service}.{namespace}.ployz.internal");
            resolvers.spawn(answers::resolver(*server, name, address));
        }
        tokio::try_join!(last(gateways), last(resolvers))
    };
    let ((acknowledged, told), (gateway, resolver)) =
        tokio::try_join!(heard.acknowledged_and_told(change), answered)?;
    Ok(Times {
        told: told.duration_since(acknowledged),
        gateways: gateway.duration_since(acknowledged),
        resolvers: resolver.duration_since(acknowledged),
    })
}

/// Where the new instance is: its machine said so before it was committed.
async fn address(store: &Store, plan: &Plan, change: &Change) -> Result<IpAddr> {
    let publisher = Publisher::new(&store.client, &store.network, Dialect::Domain);
    let key = Key::Instance(change.machine.clone(), plan.service.clone(), change.instance.clone());
    match publisher.current(&key).await?.value {
        Some(Value::Instance(route)) => Ok(route.address.into()),
        other => anyhow::bail!("{key}: {other:?}"),
    }
}

async fn last(mut asked: JoinSet<Result<Instant>>) -> Result<Instant> {
    let mut last = Instant::now();
    let mut first = true;
    while let Some(answered) = asked.join_next().await {
        let answered = answered.context("it died")??;
        last = if std::mem::take(&mut first) { answered } else { last.max(answered) };
    }
    ensure!(!first, "nobody was asked");
    Ok(last)
}

const PATIENCE: Duration = Duration::from_secs(30);
