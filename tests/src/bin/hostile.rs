//! What a member, a local user or an issuer that lies does; run by the scenario `hostile-member`.

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::ConnectOptions;
use ed25519_dalek::SigningKey;
use ployz_core::id::MachineId;
use ployz_core::wire::v1::subject;
use ployz_core::wire::v1::token::{Token, verifying_key_text};
use serde_json::Value;

const HELP: &str = "\
hostile ask STORE NETWORK-DIRECTORY MACHINE COMMAND   send standard input as a command, as this machine's user; print the answer
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
            let (machine, command) = (next()?.parse()?, next()?);
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(ask(&server, &directory, &machine, &command))
        }
        "flood" => flood(next()?.parse()?, next()?.parse()?, Duration::from_secs(next()?.parse()?)),
        "resign" => resign(&next()?),
        _ => bail!(HELP),
    }
}

async fn ask(server: &str, directory: &std::path::Path, machine: &MachineId, command: &str) -> Result<()> {
    let read = |file: &str| -> Result<Value> {
        let path = directory.join(file);
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    };
    let network = read("network.json")?;
    let id = network["id"].as_str().context("id")?.parse()?;
    let own = network["machine"]["id"].as_str().context("machine")?.parse()?;
    let seed = read("keys.json")?["nats_seed"].as_str().context("seed")?.to_owned();
    let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix(subject::inbox(&own));
    let client = options.connect(format!("nats://{server}")).await.context("connect")?;
    let mut payload = Vec::new();
    std::io::stdin().read_to_end(&mut payload)?;
    let reply = client.request(subject::rpc(&id, machine, command), payload.into()).await?;
    println!("{}", String::from_utf8_lossy(&reply.payload));
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
