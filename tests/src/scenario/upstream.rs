//! Resolvers outside the mesh: a DNS server in a node's host namespace, and the list that names it.

use anyhow::{Result, ensure};

use super::Ctx;
use crate::lab::{Background, Node};

/// A DNS server at this address: the same address for every name; prints who asks.
pub(super) fn start(ctx: &Ctx, node: &Node, at: &str, answer: &str) -> Result<Background> {
    node.put(RESOLVER, "/run/resolver.py", 0o644)?;
    let server = node.spawn(&format!("exec python3 -u /run/resolver.py {at} {answer}"))?;
    ctx.wait(10, &format!("{} to have a resolver at {at}", node.name()), || {
        let (address, _) = at.split_once('%').unwrap_or((at, ""));
        let bound = node.sh("ss -Hlun 'sport = :53'")?;
        ensure!(bound.contains(address), "{bound}");
        Ok(Some(()))
    })?;
    Ok(server)
}

/// Makes this the list of the host.
pub(super) fn list(node: &Node, file: &str, address: &str) -> Result<()> {
    node.put(format!("nameserver {address}\n"), file, 0o644)
}

/// Answers every question with one A record that must not be kept.
const RESOLVER: &str = r#"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind(socket.getaddrinfo(sys.argv[1], 53, family, socket.SOCK_DGRAM)[0][4])
while True:
    query, asker = server.recvfrom(512)
    print(asker[0])
    end = query.index(b'\0', 12) + 5
    address = query[end - 4:end - 2] == b'\0\1'
    head = query[:2] + b'\x81\x80\0\1\0' + bytes([address]) + b'\0\0\0\0'
    record = b'\xc0\x0c\0\1\0\1\0\0\0\0\0\4' + socket.inet_aton(sys.argv[2])
    server.sendto(head + query[12:end] + (record if address else b''), asker)
"#;
