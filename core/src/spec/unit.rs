//! A sidecar process, under either supervisor. Every field that is identity is listed in [`UnitSpec::identity`].

use crate::adopt::identity::Identity;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Name of a unit without suffix, for example `ployz-nats`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(&'static str);

/// The wanted process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    /// Name of the unit without `.service`, or of the process.
    pub name: UnitName,
    /// One line for `systemctl status`; not identity.
    pub description: String,
    /// Program (absolute path) and arguments.
    pub exec: Vec<String>,
    /// Environment, without the fingerprint.
    pub environment: BTreeMap<String, String>,
    /// System user it runs as where the supervisor can (`None` = root).
    pub user: Option<String>,
    /// Whether it runs inside the namespace file given here; compared with the namespace's real identity.
    pub netns: Option<PathBuf>,
    /// Directories it may write to.
    pub writable: Vec<PathBuf>,
    /// Whether it tells its supervisor when it is ready (`READY=1`).
    pub notifies: bool,
    /// Signal number that makes it read its configuration again.
    pub reload_signal: Option<i32>,
    /// Capabilities it keeps, as names (`CAP_NET_ADMIN`).
    pub capabilities: Vec<&'static str>,
    /// Seconds it may take to stop; not identity.
    pub stop_seconds: u64,
}

impl UnitName {
    /// The store, NATS.
    pub const NATS: Self = Self("ployz-nats");
    /// The userspace tunnel.
    pub const WIREGUARD: Self = Self("ployz-wireguard");
    /// The gateway; its sockets are units named after it.
    pub const GATEWAY: Self = Self("ployz-gateway");
    /// The DNS server.
    pub const DNS: Self = Self("ployz-dns");
    /// Every unit this daemon may own.
    pub const ALL: [Self; 4] = [Self::NATS, Self::WIREGUARD, Self::GATEWAY, Self::DNS];

    /// The bare name.
    pub fn as_str(&self) -> &'static str {
        self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl UnitSpec {
    /// What makes a live unit the same unit. Not identity, on purpose: `description`, `stop_seconds`, the
    /// hardening drop-in, memory limits, the daemon's version, and the version of the program behind the path
    /// (a package upgrade must restart nothing but ployzd).
    pub fn identity(&self) -> Identity {
        let mut fields = BTreeMap::new();
        let mut put = |name: &str, value: String| fields.insert(name.to_owned(), value);
        put("exec", self.exec.join(" "));
        for (key, value) in &self.environment {
            put(&format!("env.{key}"), value.clone());
        }
        put("user", self.user.clone().unwrap_or_else(|| "root".into()));
        put("netns", self.netns.as_ref().map_or_else(|| "host".into(), |path| path.display().to_string()));
        put("writable", self.writable.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "));
        put("notifies", self.notifies.to_string());
        put("reload_signal", self.reload_signal.map_or_else(|| "none".into(), |s| s.to_string()));
        put("capabilities", self.capabilities.join(" "));
        Identity::new(fields)
    }
}

/// The variable that carries the fingerprint: it cannot be changed while the unit runs, and survives
/// `daemon-reload` and `daemon-reexec`.
pub const HASH_VARIABLE: &str = "PLOYZ_CONFIG_HASH";
