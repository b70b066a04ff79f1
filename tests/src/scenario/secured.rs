//! HTTPS of a service under load: an authority that its clients trust, and certificates that are imported one after another.

use anyhow::{Result, ensure};

use super::Ctx;
use super::served;
use crate::lab::Node;

/// Where clients find the authority.
pub(super) const AUTHORITY: &str = "/run/authority.crt";

/// The port of [`listen`].
pub(super) const PORT: u16 = 443;

/// Gateways listen for HTTPS from ployzd's next start on.
pub(super) fn listen(ctx: &Ctx) -> Result<()> {
    let line = format!("gateway_https_listen_addr = \"0.0.0.0:{PORT}\"");
    ctx.lab.each(|node| node.sh(&format!("echo '{line}' >>/etc/ployz/config.toml"))).map(drop)
}

/// An authority, known to the clients on node 3, and the first certificate.
pub(super) fn begin(ctx: &Ctx, service: &str) -> Result<()> {
    ctx.node(1).sh(MAKE_AUTHORITY)?;
    ctx.node(3).put(ctx.node(1).get(AUTHORITY)?, AUTHORITY, 0o644)?;
    import(ctx, ctx.node(1), service, 0)
}

/// Imports a new certificate from this node and waits until the gateways that are asked show it.
pub(super) fn import(ctx: &Ctx, node: &Node, service: &str, version: usize) -> Result<()> {
    let host = served::host(service);
    let make = format!("name={service}-{version} host={host}; {MAKE_CERTIFICATE}");
    let made = ctx.node(1).sh(&make)?;
    node.put(made, "/run/import.pem", 0o600)?;
    node.sh("ployzctl cert import --cert /run/import.pem --key /run/import.pem; code=$?; rm /run/import.pem; exit $code")?;
    for i in [1, 2] {
        let at = format!("{}:{PORT}", ctx.node(i).ip(1));
        ctx.wait(15, "the gateways to show the certificate", || {
            let shown = ctx.node(3).sh(&format!(
                "openssl s_client -connect {at} -servername {host} </dev/null 2>/dev/null | openssl x509 -noout -subject"
            ))?;
            ensure!(shown.ends_with(&format!("{service}-{version}")), "{at}: {shown}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

const MAKE_AUTHORITY: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
    -subj '/CN=authority' -keyout /run/authority.key -out /run/authority.crt 2>&1";

/// Writes the certificate and its key to standard output.
const MAKE_CERTIFICATE: &str = r#"set -e; d=$(mktemp -d)
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout $d/key -out $d/request 2>$d/told
printf 'subjectAltName=DNS:%s\nbasicConstraints=critical,CA:FALSE\n' "$host" >$d/extensions
openssl x509 -req -in $d/request -CA /run/authority.crt -CAkey /run/authority.key -days 30 -extfile $d/extensions 2>$d/told
cat $d/key; rm -r $d"#;
