//! A userspace WireGuard over its UAPI socket: the cross-platform text protocol (`get=1`, `set=1`).

use crate::error::{Context, Error, Result};
use crate::wireguard::{DeviceChange, DeviceState, PeerChange};
use ployz_core::id::hex;
use ployz_core::key::{PrivateKey, PublicKey};
use ployz_core::live::{PeerLive, PeerStats};
use std::fmt::Write as _;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Where the `wg` tool and we look for the socket of a device.
pub fn socket_path(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/wireguard/{name}.sock"))
}

pub(super) async fn read(name: &str) -> Result<DeviceState> {
    let lines = exchange(name, "read", "get=1\n\n").await?;
    parse(&lines).map_err(|detail| Error::Protocol { operation: "read", subject: name.to_owned(), detail })
}

pub(super) async fn configure(name: &str, change: &DeviceChange) -> Result<()> {
    exchange(name, "configure", &render(change)).await.map(|_| ())
}

async fn exchange(name: &str, operation: &'static str, text: &str) -> Result<Vec<(String, String)>> {
    let path = socket_path(name);
    let mut stream = UnixStream::connect(&path).await.doing("connect to", path.display().to_string())?;
    stream.write_all(text.as_bytes()).await.doing(operation, name)?;
    let mut lines = BufReader::new(stream).lines();
    let mut answer = Vec::new();
    while let Some(line) = lines.next_line().await.doing(operation, name)? {
        let Some((key, value)) = line.split_once('=') else { break };
        match (key, value) {
            ("errno", "0") => return Ok(answer),
            ("errno", code) => {
                let code = code.trim_start_matches('-').parse().unwrap_or(nix::libc::EPROTO);
                return Err(std::io::Error::from_raw_os_error(code)).doing(operation, name);
            }
            _ => answer.push((key.to_owned(), value.to_owned())),
        }
    }
    let detail = "the response ended without errno".to_owned();
    Err(Error::Protocol { operation, subject: name.to_owned(), detail })
}

fn render(change: &DeviceChange) -> String {
    let mut text = String::from("set=1\n");
    if let Some(key) = &change.private_key {
        let _ = writeln!(text, "private_key={}", hex(key.as_bytes()));
    }
    if let Some(port) = change.listen_port {
        let _ = writeln!(text, "listen_port={port}");
    }
    for peer in &change.peers {
        match peer {
            PeerChange::Remove(key) => {
                let _ = writeln!(text, "public_key={}\nremove=true", hex(key.as_bytes()));
            }
            PeerChange::Set { key, update_only, allowed_ips, keepalive, endpoint } => {
                let _ = writeln!(text, "public_key={}", hex(key.as_bytes()));
                if *update_only {
                    text.push_str("update_only=true\n");
                }
                if let Some(endpoint) = endpoint {
                    let _ = writeln!(text, "endpoint={endpoint}");
                }
                if let Some(seconds) = keepalive {
                    let _ = writeln!(text, "persistent_keepalive_interval={seconds}");
                }
                if let Some(ips) = allowed_ips {
                    text.push_str("replace_allowed_ips=true\n");
                    for ip in ips {
                        let _ = writeln!(text, "allowed_ip={ip}");
                    }
                }
            }
        }
    }
    text.push('\n');
    text
}

fn parse(lines: &[(String, String)]) -> std::result::Result<DeviceState, String> {
    let mut state = DeviceState::default();
    let mut peer: Option<(PublicKey, PeerLive)> = None;
    for (key, value) in lines {
        let bad = || format!("{key}={value}");
        match (key.as_str(), &mut peer) {
            // The private half is read only to know the public one, and never shown.
            ("private_key", _) => {
                let bytes = unhex(value).ok_or("private_key is not a key")?;
                state.public_key = (bytes != [0; 32]).then(|| PrivateKey::from_random(bytes).public());
            }
            ("listen_port", _) => state.listen_port = value.parse().map_err(|_| bad())?,
            ("public_key", _) => {
                state.peers.extend(peer.take());
                let key = PublicKey::from_bytes(unhex(value).ok_or_else(bad)?);
                let empty =
                    PeerLive { allowed_ips: Default::default(), keepalive: 0, stats: PeerStats::default() };
                peer = Some((key, empty));
            }
            ("endpoint", Some((_, p))) => p.stats.endpoint = Some(value.parse().map_err(|_| bad())?),
            ("persistent_keepalive_interval", Some((_, p))) => {
                p.keepalive = value.parse().map_err(|_| bad())?
            }
            ("allowed_ip", Some((_, p))) => {
                p.allowed_ips.insert(value.parse().map_err(|_| bad())?);
            }
            ("last_handshake_time_sec", Some((_, p))) => {
                p.stats.last_handshake = value.parse().ok().filter(|seconds| *seconds > 0);
            }
            ("rx_bytes", Some((_, p))) => p.stats.rx_bytes = value.parse().map_err(|_| bad())?,
            ("tx_bytes", Some((_, p))) => p.stats.tx_bytes = value.parse().map_err(|_| bad())?,
            _ => {}
        }
    }
    state.peers.extend(peer);
    Ok(state)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> =
        text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_back_whole() {
        let key = "02".repeat(32);
        let text = format!(
            "private_key={}\nlisten_port=51820\npublic_key={key}\nendpoint=[2001:db8::1]:4\nallowed_ip=10.0.0.0/24\n\
             allowed_ip=fd00::1/128\npersistent_keepalive_interval=15\nlast_handshake_time_sec=7\nrx_bytes=8\ntx_bytes=9",
            "40".repeat(32)
        );
        let lines: Vec<_> =
            text.lines().filter_map(|l| l.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect();
        let state = parse(&lines).unwrap();
        assert_eq!(state.listen_port, 51820);
        assert_eq!(state.public_key, Some(PrivateKey::from_random([0x40; 32]).public()));
        let peer = &state.peers[&PublicKey::from_bytes([2; 32])];
        assert_eq!((peer.allowed_ips.len(), peer.keepalive, peer.stats.last_handshake), (2, 15, Some(7)));
        assert_eq!((peer.stats.rx_bytes, peer.stats.tx_bytes), (8, 9));
    }

    #[test]
    fn a_change_is_written_in_protocol_order() {
        let change = DeviceChange {
            listen_port: Some(7),
            peers: vec![
                PeerChange::Remove(PublicKey::from_bytes([1; 32])),
                PeerChange::Set {
                    key: PublicKey::from_bytes([2; 32]),
                    update_only: false,
                    allowed_ips: Some(vec!["10.0.0.0/24".parse().unwrap()]),
                    keepalive: Some(15),
                    endpoint: Some("10.0.0.1:5".parse().unwrap()),
                },
            ],
            ..Default::default()
        };
        let want = format!(
            "set=1\nlisten_port=7\npublic_key={}\nremove=true\npublic_key={}\nendpoint=10.0.0.1:5\n\
             persistent_keepalive_interval=15\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/24\n\n",
            "01".repeat(32),
            "02".repeat(32)
        );
        assert_eq!(render(&change), want);
    }
}
