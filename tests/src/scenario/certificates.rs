//! Certificates: imported at one machine, served by every other one, kept while the store is away, replaced under a connection;
//! and what clients outside make of one that a CA issued.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process};

use anyhow::{Result, ensure};

use super::{Ctx, Need, Scenario};
use super::{product, served};
use crate::lab::{Node, quote};

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "certificates-from-the-store",
        needs: &[Need::Systemd, Need::Package],
        nodes: 2,
        underlays: 1,
        run,
    },
    Scenario {
        name: "certificates-judged",
        needs: &[Need::Systemd, Need::Package],
        nodes: 3,
        underlays: 1,
        run: judged,
    },
];

fn run(ctx: &mut Ctx) -> Result<()> {
    product::mesh(ctx, 2)?;
    let (n1, n2) = (ctx.node(1), ctx.node(2));
    https(ctx)?;
    for name in ["a", "b"] {
        make(n1, name)?;
    }
    product::refused(
        n1,
        "ployzctl cert import --cert /root/a.crt --key /root/b.key",
        "CERTIFICATE_KEY_MISMATCH",
    )?;
    product::refused(n1, "ployzctl cert rm shop.example.org", "CERTIFICATE_NOT_FOUND")?;
    n1.sh("ployzctl cert import --cert /root/a.crt --key-stdin </root/a.key")?;
    let listed = n2.sh("ployzctl cert ls && ployzctl --json cert ls && ployzctl --plain cert ls")?;
    ensure!(listed.contains("shop.example.org") && !listed.contains("PRIVATE"), "{listed}");
    for i in [1, 2] {
        serves(ctx, n1, i, "a")?;
    }
    let kept = n2.sh("stat -c '%U %a' /var/lib/ployz/networks/*/gateway/data/certificates.json")?;
    ensure!(kept == "ployz-gateway 600", "{kept}");

    // Without the store, after a restart.
    n1.sh("systemctl stop ployzd && systemctl stop ployz-nats")?;
    n2.sh("systemctl restart ployz-gateway")?;
    serves(ctx, n1, 2, "a")?;
    n1.sh("systemctl start ployzd")?;
    product::ready(ctx, 1)?;
    product::ready(ctx, 2)?;

    // Replaced under a connection that lives on.
    n1.put(KEEPS, "/root/keeps", 0o755)?;
    let open = n1.spawn("exec timeout 60 sh /root/keeps 10.77.0.12")?;
    ctx.wait(10, "the first answer", || n1.sh("grep -q '^HTTP/1.1 404' /run/keeps").map(Some))?;
    ctx.wait(20, "the import", || {
        n2.put(n1.get("/root/b.crt")?, "/root/b.crt", 0o600)?;
        n2.put(n1.get("/root/b.key")?, "/root/b.key", 0o600)?;
        n2.sh("ployzctl cert import --cert /root/b.crt --key /root/b.key").map(Some)
    })?;
    for i in [1, 2] {
        serves(ctx, n1, i, "b")?;
    }
    n1.sh("touch /run/keeps-go")?;
    open.wait(ctx.lab.secs(20))?;
    let answers = n1.sh("grep -c '^HTTP/1.1 404' /run/keeps")?;
    ensure!(answers == "2", "{answers} answers over the open connection: {}", n1.sh("cat /run/keeps")?);

    n2.sh("ployzctl cert rm shop.example.org")?;
    ctx.wait(10, "it to be gone everywhere", || {
        for i in [1, 2] {
            let shown = n1.run(&curl(i, "b"))?;
            ensure!(shown.stdout != "404", "node {i} serves it still");
        }
        Ok(Some(()))
    })
}

fn https(ctx: &Ctx) -> Result<()> {
    for node in ctx.lab.nodes() {
        node.sh("echo 'gateway_https_listen_addr = \"0.0.0.0:443\"' >>/etc/ployz/config.toml")?;
        product::restart(ctx, node)?;
    }
    Ok(())
}

/// A chain that only its root is trusted of is imported at node 1; curl, openssl and, with `PLOYZ_FULL=1`, all of testssl.sh (nothing
/// above LOW) look at every machine from outside.
fn judged(ctx: &mut Ctx) -> Result<()> {
    let dir = Scratch::new()?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scripts").join("gateway-clients");
    let (root, scripts) = (dir.0.join("root.pem").display().to_string(), scripts.display().to_string());
    ctx.lab.outside(&format!("{scripts}/certificate.sh {}", quote(&dir.0.display().to_string())))?;
    product::mesh(ctx, 3)?;
    // Some of what testssl.sh asks for names no host; the static pair is for that.
    for node in ctx.lab.nodes() {
        for (file, mode) in [("cert.pem", 0o644), ("key.pem", 0o600)] {
            node.put(fs::read(dir.0.join(file))?, &format!("/etc/ployz/{file}"), mode)?;
        }
        node.put(STATIC_PAIR, "/etc/systemd/system/ployzd.service.d/pair.conf", 0o644)?;
        node.sh("chown ployz-gateway /etc/ployz/key.pem; systemctl daemon-reload")?;
    }
    https(ctx)?;
    ctx.node(1).sh("ployzctl cert import --cert /etc/ployz/cert.pem --key /etc/ployz/key.pem")?;
    for i in 1..=3 {
        let at = format!("10.77.0.1{i}");
        ctx.wait(20, &format!("the chain at node {i}"), || {
            let told = ctx.lab.outside(&format!(
                "curl -s -m 5 -o /dev/null -w '%{{http_code}} %{{http_version}} %{{ssl_verify_result}}' --cacert {root} \
                 --resolve a.test:443:{at} https://a.test/ || true"
            ))?;
            ensure!(told == "404 2 0", "{told}");
            Ok(Some(()))
        })?;
        for version in ["tls1_2", "tls1_3"] {
            let told = ctx.lab.outside(&format!(
                "openssl s_client -connect {at}:443 -servername a.test -verify_hostname a.test -verify_return_error \
                 -CAfile {root} -{version} -alpn h2 </dev/null 2>&1"
            ))?;
            let passed = told.contains("Verify return code: 0 (ok)") && told.contains("ALPN protocol: h2");
            ensure!(passed, "node {i}, {version}: {told}");
        }
    }
    if served::full() {
        let limit = ctx.lab.secs(600);
        let judge = format!("{scripts}/judge-tls.sh https://a.test/ 10.77.0.12 {root} {}", limit.as_secs());
        let findings = ctx.lab.outside_for(limit + Duration::from_secs(30), &judge)?;
        let low: Vec<_> = findings.lines().filter(|line| line.starts_with("LOW ")).collect();
        ctx.say(format!("testssl.sh: {} findings, none above LOW; LOW: {low:?}", findings.lines().count()));
    }
    Ok(())
}

const STATIC_PAIR: &str = "[Service]
Environment=PLOYZ_GATEWAY_TLS_CERT_PATH=/etc/ployz/cert.pem PLOYZ_GATEWAY_TLS_KEY_PATH=/etc/ployz/key.pem
";

/// A directory of the build machine, gone with the scenario.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = env::temp_dir().join(format!("ployz-judged-{}", process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make(node: &Node, name: &str) -> Result<()> {
    node.sh(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=shop -days 30 \
         -addext subjectAltName=DNS:shop.example.org,DNS:*.shop.example.org \
         -keyout /root/{name}.key -out /root/{name}.crt 2>&1"
    ))
    .map(drop)
}

/// Node `i` shows exactly this certificate for its name and for one below it.
fn serves(ctx: &Ctx, from: &Node, i: usize, certificate: &str) -> Result<()> {
    ctx.wait(15, &format!("certificate {certificate} at node {i}"), || {
        let code = from.sh(&curl(i, certificate))?;
        ensure!(code == "404", "{code}");
        Ok(Some(()))
    })
}

fn curl(i: usize, certificate: &str) -> String {
    format!(
        "curl -s -m 5 -o /dev/null -w '%{{http_code}}' --cacert /root/{certificate}.crt \
         --resolve x.shop.example.org:443:10.77.0.1{i} https://x.shop.example.org/"
    )
}

/// One connection, two requests, an import in between.
const KEEPS: &str = r#"
ask() { printf 'GET / HTTP/1.1\r\nHost: nobody.example.org\r\nConnection: %s\r\n\r\n' "$1"; }
{
    ask keep-alive
    # The gateway closes what is idle for longer than a minute.
    until [ -e /run/keeps-go ]; do sleep 0.1; done
    ask close
} | openssl s_client -quiet -verify_return_error -CAfile /root/a.crt -servername shop.example.org -connect "$1:443" >/run/keeps 2>&1
"#;
