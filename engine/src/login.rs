//! What this machine's root is logged in with at a registry, as the Docker command line keeps it: `config.json` in
//! `$DOCKER_CONFIG` or `~/.docker`, in it `auths`, or the name of a program that has them (`credHelpers`, `credsStore`).
//!
//! A login is read for one request and goes nowhere but to the engine: it is not printed, kept or sent to a machine.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::header::HeaderValue;
use nix::unistd::{Uid, User};
use ployz_core::wire::v1::manifest::DOCKER_HUB;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A name and a secret for one registry.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Login {
    server: String,
    name: String,
    secret: String,
    /// Whether the secret is a token that the registry gave in place of a password.
    token: bool,
}

/// Why a login that seems to be there was not read. What stands in the file is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its form.
    #[error("{path} is not what `docker login` writes (line {line})")]
    Form {
        /// Which.
        path: String,
        /// Where.
        line: usize,
    },
    /// The program that has it.
    #[error("the credential helper {program} gives no login: {why}")]
    Helper {
        /// Which.
        program: String,
        /// Why.
        why: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The login for a registry, `None` where there is none.
pub async fn of(registry: &str) -> Result<Option<Login>, LoginError> {
    match path() {
        Some(path) => at(&path, registry).await,
        None => Ok(None),
    }
}

async fn at(path: &Path, registry: &str) -> Result<Option<Login>, LoginError> {
    let shown = || path.display().to_string();
    let text = match tokio::fs::read(path).await {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoginError::Read { path: shown(), source }),
    };
    // The parser's own message would repeat what it found.
    let form = |line| LoginError::Form { path: shown(), line };
    let file: File = serde_json::from_slice(&text).map_err(|error| form(error.line()))?;
    let helper = file.cred_helpers.iter().find(|(key, _)| is(key, registry)).map(|(_, program)| program);
    if let Some(program) = helper.or(file.creds_store.as_ref()) {
        return helped(program, server(registry)).await;
    }
    let entry = file.auths.iter().find(|(key, _)| is(key, registry)).map(|(_, entry)| entry);
    match entry {
        Some(entry) => login(registry, entry).ok_or_else(|| form(0)),
        None => Ok(None),
    }
}

fn login(registry: &str, entry: &Entry) -> Option<Option<Login>> {
    let of = |name: &str, secret: &str, token| Login {
        server: server(registry).to_owned(),
        name: name.to_owned(),
        secret: secret.to_owned(),
        token,
    };
    let pair = match entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        Some(auth) => Some(Zeroizing::new(String::from_utf8(STANDARD.decode(auth).ok()?).ok()?)),
        None => None,
    };
    let (name, secret) = match &pair {
        // Docker pads it with NUL.
        Some(pair) => pair.trim_end_matches('\0').split_once(':')?,
        None => {
            (entry.username.as_deref().unwrap_or_default(), entry.password.as_deref().unwrap_or_default())
        }
    };
    Some(match entry.identitytoken.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => Some(of(name, token, true)),
        None if name.is_empty() => None,
        None => Some(of(name, secret, false)),
    })
}

/// Asks a program of the operator's, over pipes.
async fn helped(program: &str, server: &str) -> Result<Option<Login>, LoginError> {
    let failed = |why: String| LoginError::Helper { program: program.to_owned(), why };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if program.is_empty() || !program.chars().all(plain) {
        return Err(failed("invalid name of a credential helper".into()));
    }
    let work = async {
        let mut child = Command::new(format!("docker-credential-{program}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER_TIMEOUT, work).await {
        Ok(done) => done.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {}s", HELPER_TIMEOUT.as_secs()))),
    };
    let said = Zeroizing::new(output.stdout);
    // A helper without a login for this registry ends with an error; there are no codes to tell that from others.
    if !output.status.success() {
        return Ok(None);
    }
    let helped: Helped = serde_json::from_slice(&said).map_err(|_| failed("invalid response".into()))?;
    Ok(Some(Login {
        server: server.to_owned(),
        name: helped.username.clone(),
        secret: helped.secret.clone(),
        token: helped.username == "<token>",
    }))
}

impl Login {
    /// The header in which an engine takes it: JSON in the URL's kind of base64 (Docker Engine API, "Authentication").
    pub fn header(&self) -> Option<HeaderValue> {
        let json = |text: &str| Zeroizing::new(serde_json::Value::from(text).to_string());
        let (name, secret, server) = (json(&self.name), json(&self.secret), json(&self.server));
        let text = Zeroizing::new(if self.token {
            format!(r#"{{"identitytoken":{},"serveraddress":{}}}"#, *secret, *server)
        } else {
            format!(r#"{{"username":{},"password":{},"serveraddress":{}}}"#, *name, *secret, *server)
        });
        let mut value = HeaderValue::from_str(&Zeroizing::new(URL_SAFE.encode(text.as_bytes()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Whether a key of the file is a registry's: a host, or an address as older versions wrote it.
fn is(key: &str, registry: &str) -> bool {
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    let hub = |host: &str| host == "index.docker.io" || host == DOCKER_HUB;
    host == registry || (hub(host) && hub(registry))
}

fn server(registry: &str) -> &str {
    if registry == DOCKER_HUB { HUB_KEY } else { registry }
}

fn path() -> Option<PathBuf> {
    if let Some(directory) = env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()) {
        return Some(Path::new(&directory).join("config.json"));
    }
    // A unit of systemd has no HOME.
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| User::from_uid(Uid::effective()).ok()?.map(|user| user.dir))?;
    Some(home.join(".docker/config.json"))
}

/// What Docker's own registry is called in the file.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
impl Login {
    /// One that is good for nothing.
    pub(crate) fn sample() -> Self {
        Self { server: "r.example.org".into(), name: "user".into(), secret: "secret".into(), token: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn header(login: &Login) -> Value {
        serde_json::from_slice(&URL_SAFE.decode(login.header().unwrap()).unwrap()).unwrap()
    }

    async fn read(file: &Value, registry: &str) -> Result<Option<Value>, LoginError> {
        let path = env::temp_dir()
            .join(format!("ployz-login-{:016x}", u64::from_ne_bytes(ployz_host::random::bytes())));
        std::fs::write(&path, file.to_string()).unwrap();
        let found = at(&path, registry).await;
        std::fs::remove_file(&path).unwrap();
        found.map(|login| login.map(|login| header(&login)))
    }

    #[tokio::test]
    async fn a_login_is_that_of_the_images_registry_and_no_other() {
        // Characters that the two kinds of base64 write in different ways.
        let pair = STANDARD.encode("user:>>>???~~~");
        let file = json!({"auths": {
            "r.example.org:5000": {"auth": pair},
            "https://old.example.org/v2/": {"username": "old", "password": "p"},
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("<token>:"), "identitytoken": "t"},
            "empty.example.org": {},
        }});
        let login = read(&file, "r.example.org:5000").await.unwrap().unwrap();
        assert_eq!(
            login,
            json!({"username": "user", "password": ">>>???~~~", "serveraddress": "r.example.org:5000"})
        );
        assert_eq!(read(&file, "old.example.org").await.unwrap().unwrap()["username"], "old");
        let hub = read(&file, "docker.io").await.unwrap().unwrap();
        assert_eq!(hub, json!({"identitytoken": "t", "serveraddress": HUB_KEY}));
        for other in ["r.example.org", "example.org", "empty.example.org"] {
            assert_eq!(read(&file, other).await.unwrap(), None, "{other}");
        }
        assert!(at(Path::new("/nowhere/config.json"), "docker.io").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_not_repeated() {
        let file = json!({"auths": {"r.example.org": {"auth": 5, "password": "hunter2"}}});
        let error = read(&file, "r.example.org").await.unwrap_err().to_string();
        assert!(error.contains("`docker login`") && !error.contains("hunter2"), "{error}");
        let file = json!({"auths": {"r.example.org": {"auth": "hunter2"}}});
        let error = read(&file, "r.example.org").await.unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_is_a_program_and_nothing_else() {
        let file = json!({"credHelpers": {"r.example.org": "../../bin/sh"}});
        let error = read(&file, "r.example.org").await.unwrap_err().to_string();
        assert!(error.contains("invalid name of a credential helper"), "{error}");
        let file = json!({"credsStore": "ployz-is-not-there"});
        assert!(matches!(read(&file, "r.example.org").await, Err(LoginError::Helper { .. })));
    }
}
