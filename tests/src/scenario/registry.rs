//! A registry on the build machine's side of underlay 1 (10.77.0.1): Debian's `docker-registry` behind TLS and a password.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

use anyhow::{Context, Result, ensure};

use super::Ctx;
use crate::lab::{Node, quote};

/// Where it is.
pub(super) const HOST: &str = "10.77.0.1:5443";
/// Who may use it.
pub(super) const USER: &str = "team";
/// What the two kinds of base64 write in different ways, and what a shell would take for its own.
pub(super) const PASSWORD: &str = "secret>>>???~~~";

/// The registry; dropped, it is gone with all it held.
pub(super) struct Registry<'a> {
    ctx: &'a Ctx,
    dir: PathBuf,
    pid: Option<String>,
}

impl<'a> Registry<'a> {
    /// Starts it, and lets every node trust its certificate.
    pub(super) fn start(ctx: &'a Ctx) -> Result<Self> {
        let dir = env::temp_dir().join(format!("ployz-registry-{}", process::id()));
        fs::create_dir_all(&dir)?;
        let mut registry = Self { ctx, dir, pid: None };
        let at = |name: &str| registry.dir.join(name).display().to_string();
        ctx.lab.outside(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=registry -days 30 \
             -addext subjectAltName=IP:10.77.0.1 -keyout {} -out {} 2>&1",
            at("key.pem"),
            at("ca.crt")
        ))?;
        fs::write(at("users"), format!("{USER}:{HASH}\n"))?;
        fs::write(at("config.yml"), config(&registry.dir))?;
        for node in ctx.lab.nodes() {
            node.sh(&format!("mkdir -p /etc/docker/certs.d/{HOST}"))?;
            node.put(fs::read(at("ca.crt"))?, &format!("/etc/docker/certs.d/{HOST}/ca.crt"), 0o644)?;
        }
        registry.up()?;
        Ok(registry)
    }

    /// Starts it again. It ends by itself, should nothing else end it.
    pub(super) fn up(&mut self) -> Result<()> {
        let pid = self.ctx.lab.outside(&format!(
            "command -v docker-registry >/dev/null || {{ echo 'scripts/setup.sh test installs docker-registry' >&2; exit 1; }}
             cd {}; setsid timeout 900 docker-registry serve config.yml >>log 2>&1 </dev/null & echo $!",
            quote(&self.dir.display().to_string())
        ))?;
        self.pid = Some(pid.trim().to_owned());
        self.ctx.wait(20, "the registry", || {
            let code = self.ask("-o /dev/null -w '%{http_code}'", "/v2/")?;
            ensure!(code == "200", "{code}");
            Ok(Some(()))
        })
    }

    /// Ends it; what it holds stays for the next start.
    pub(super) fn down(&mut self) -> Result<()> {
        let Some(pid) = self.pid.take() else { return Ok(()) };
        self.ctx
            .lab
            .outside(&format!(
                "kill -KILL -- -{pid}; while kill -0 -- -{pid} 2>/dev/null; do sleep 0.05; done"
            ))
            .map(drop)
    }

    /// Lets a tag lead to what another one leads to.
    pub(super) fn tag(&self, image: &str, from: &str, to: &str) -> Result<()> {
        let file = self.dir.join("manifest").display().to_string();
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        self.ask(&format!("-f -H 'Accept: {kind}' -o {file}"), &format!("/v2/{image}/manifests/{from}"))?;
        let put = format!("-f -X PUT -H 'Content-Type: {kind}' --data-binary @{file}");
        self.ask(&put, &format!("/v2/{image}/manifests/{to}")).map(drop)
    }

    fn ask(&self, options: &str, path: &str) -> Result<String> {
        let (ca, user) =
            (self.dir.join("ca.crt").display().to_string(), quote(&format!("{USER}:{PASSWORD}")));
        self.ctx
            .lab
            .outside(&format!("curl -sS -m 10 --cacert {ca} -u {user} {options} https://{HOST}{path}"))
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.down();
        let _ = fs::remove_dir_all(&self.dir);
        for node in self.ctx.lab.nodes() {
            let _ = node.run("rm -rf /root/.docker /etc/docker/certs.d");
        }
    }
}

/// What `docker login` leaves, for root.
pub(super) fn log_in(node: &Node, password: &str) -> Result<()> {
    let pair = quote(&format!("{USER}:{password}"));
    let cmd = format!(
        "umask 077; mkdir -p /root/.docker; a=$(printf %s {pair} | base64 -w0); \
         printf '{{\"auths\": {{\"{HOST}\": {{\"auth\": \"%s\"}}}}}}' \"$a\" >/root/.docker/config.json; printf %s \"$a\""
    );
    node.sh(&cmd).map(drop)
}

/// Forgets it.
pub(super) fn log_out(node: &Node) -> Result<()> {
    node.sh("rm -rf /root/.docker").map(drop)
}

/// Sends an image of a node there and takes its name from the node's engine; returns the digest that it has there.
pub(super) fn keep(node: &Node, name: &str) -> Result<String> {
    let cmd = format!(
        "export HOME=/root; docker push -q {name} >&2 && docker image inspect -f '{{{{index .RepoDigests 0}}}}' {name} && \
         docker rmi {name} >&2"
    );
    let kept = node.sh(&cmd)?;
    kept.split_once('@').map(|(_, digest)| digest.trim().to_owned()).with_context(|| kept.clone())
}

fn config(dir: &Path) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: {HOST}\n  tls:\n    certificate: {}\n    key: {}\n\
         auth:\n  htpasswd:\n    realm: lab\n    path: {}\n",
        at("images"),
        at("ca.crt"),
        at("key.pem"),
        at("users")
    )
}

/// Of the password, as `htpasswd -B` makes it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuudxUPHwW1rcITFUfYBAHBTOvQTTzLxFC";
