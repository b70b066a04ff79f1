//! What a member, a local user or an issuer that lies does; run by the scenario `hostile-member`.

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use async_nats::{Client, ConnectOptions, HeaderMap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::envelope::{self, Signer};
use ployz_core::wire::v1::subject;
use ployz_core::wire::v1::token::{Token, verifying_key_text};
use serde_json::Value;

const HELP: &str = "\
hostile ask STORE NETWORK-DIRECTORY MACHINE COMMAND HOW   send standard input as a command, as this machine's user; print the answer.
                                                      HOW: signed, unsigned, twice, or another machine's name to sign as
hostile put STORE NETWORK-DIRECTORY BUCKET KEY        write standard input over what a bucket has, as this machine's user
hostile claim NETWORK-DIRECTORY NAME CHANGE           this machine's record as another writes it: `CHANGE` is a JSON object laid over it
hostile flood ADDRESS COUNT SECONDS                   open so many connections, begin a request on each and hold them
hostile resign NAME                                   sign the token of standard input again, with another network's name
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || args.next().context(HELP);
    match next()?.as_str() {
        "ask" => {
            let (server, directory) = (next()?, PathBuf::from(next()?));
            let (machine, command, how) = (next()?.parse()?, next()?, next()?);
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(ask(&server, &Member::read(&directory)?, &machine, &command, &how))
        }
        "put" => {
            let (server, directory) = (next()?, PathBuf::from(next()?));
            let (bucket, key) = (next()?, next()?);
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(put(&server, &Member::read(&directory)?, &bucket, &key))
        }
        "claim" => claim(&PathBuf::from(next()?), &next()?, &next()?),
        "flood" => flood(next()?.parse()?, next()?.parse()?, Duration::from_secs(next()?.parse()?)),
        "resign" => resign(&next()?),
        _ => bail!(HELP),
    }
}

/// What this machine has of its network.
struct Member {
    network: NetworkId,
    own: MachineId,
    seed: String,
    signing: SigningKey,
}

impl Member {
    fn read(directory: &Path) -> Result<Self> {
        let (network, keys) = (json(directory, "network.json")?, json(directory, "keys.json")?);
        let text =
            |value: &Value, what: &str| value.as_str().map(str::to_owned).with_context(|| what.to_owned());
        let seed: [u8; 32] = STANDARD
            .decode(text(&keys["signing_seed"], "signing seed")?)?
            .try_into()
            .map_err(|_| anyhow!("a signing seed has 32 bytes"))?;
        Ok(Self {
            network: text(&network["id"], "id")?.parse()?,
            own: text(&network["machine"]["id"], "machine")?.parse()?,
            seed: text(&keys["nats_seed"], "seed")?,
            signing: SigningKey::from_bytes(&seed),
        })
    }

    async fn connect(&self, server: &str) -> Result<Client> {
        let options =
            ConnectOptions::with_nkey(self.seed.clone()).custom_inbox_prefix(subject::inbox(&self.own));
        options.connect(format!("nats://{server}")).await.context("connect")
    }
}

fn json(directory: &Path, file: &str) -> Result<Value> {
    let path = directory.join(file);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

fn input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn ask(server: &str, member: &Member, machine: &MachineId, command: &str, how: &str) -> Result<()> {
    let (client, payload) = (member.connect(server).await?, input()?);
    let signer = match how {
        "unsigned" => None,
        "signed" | "twice" => Some(member.own.clone()),
        other => Some(other.parse()?),
    };
    let mut headers = HeaderMap::new();
    if let Some(from) = signer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let nonce = u128::from_ne_bytes([7; 16]) ^ SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let signer = Signer::new(from, member.signing.clone());
        let sealed = signer.seal(&member.network, machine, command, &payload, now, nonce.to_ne_bytes());
        headers.insert(envelope::HEADER, sealed);
    }
    for _ in 0..if how == "twice" { 2 } else { 1 } {
        let subject = subject::rpc(&member.network, machine, command);
        let reply = client.request_with_headers(subject, headers.clone(), payload.clone().into()).await?;
        println!("{}", String::from_utf8_lossy(&reply.payload));
    }
    Ok(())
}

async fn put(server: &str, member: &Member, bucket: &str, key: &str) -> Result<()> {
    let client = member.connect(server).await?;
    let subject = format!("$JS.{}.API.$KV.{bucket}.{key}", subject::DOMAIN);
    let reply = client.request(subject, input()?.into()).await?;
    println!("{}", String::from_utf8_lossy(&reply.payload));
    Ok(())
}

/// The record of a member as `peers.json` has it, under its name, with some fields changed; `own` in `CHANGE` stands for this
/// machine's own value of that field.
fn claim(directory: &Path, name: &str, change: &str) -> Result<()> {
    let peers = json(directory, "peers.json")?;
    let find = |name: &str| {
        let machines = peers["machines"].as_array()?;
        machines.iter().find(|machine| machine["id"] == name).cloned()
    };
    let own = find(json(directory, "network.json")?["machine"]["id"].as_str().context("own name")?);
    let (mut record, own) = (find(name).context("no such member")?, own.context("no record of its own")?);
    let change: Value = serde_json::from_str(change)?;
    for (field, value) in change.as_object().context("a JSON object")? {
        record[field] = if value == "own" { own[field].clone() } else { value.clone() };
    }
    println!("{record}");
    Ok(())
}

/// Keeps as many connections as it is let, and opens those again that are closed.
fn flood(to: SocketAddr, count: usize, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    let open = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
        let head = "POST /v1/redeem HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n{";
        stream.write_all(head.as_bytes()).ok()?;
        Some(stream)
    };
    let mut held: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let mut opened = 0_u64;
    while Instant::now() < until {
        for place in &mut held {
            *place = open();
            opened += u64::from(place.is_some());
            if Instant::now() >= until {
                break;
            }
        }
    }
    println!("{opened} connections");
    Ok(())
}

fn resign(name: &str) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut token = Token::verify(&text)?;
    let key = SigningKey::from_bytes(&[7; 32]);
    token.network_name = name.parse()?;
    token.issuer_verify_key = verifying_key_text(&key.verifying_key());
    println!("{}", token.sign(&key).as_str());
    Ok(())
}
