//! The daemon's configuration: defaults < TOML < `PLOYZ_*` < flags, each value with where it came from.
//!
//! Reading files and the environment is the caller's; this module parses, merges and judges.

mod foreign;

use crate::address::{AddressPlan, InvalidPlan, NamedEndpoint};
use crate::text::without_mark;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The effective configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where state lives.
    pub data_dir: PathBuf,
    /// The operator socket.
    pub socket: PathBuf,
    /// Region label.
    pub region: Option<String>,
    /// Availability zone label.
    pub az: Option<String>,
    /// The cluster's addresses.
    pub plan: AddressPlan,
    /// Underlay UDP port.
    pub wireguard_listen_port: u16,
    /// Endpoints offered to peers before those that are found on the machine.
    pub advertise_endpoints: Vec<NamedEndpoint>,
    /// Who runs the tunnel.
    pub wireguard_backend: BackendChoice,
    /// HTTP listener of the gateway. Where it is not set, IPv6 is served beside it ([`Config::gateway_takes_both`]).
    pub gateway_listen_addr: SocketAddr,
    /// HTTPS listener of the gateway; set = TLS on.
    pub gateway_https_listen_addr: Option<SocketAddr>,
    /// Worker threads of the gateway.
    pub gateway_threads: u16,
    /// Port of the volume transfer listener.
    pub zfs_transfer_port: u16,
    /// Prometheus listener of the daemon.
    pub daemon_metrics_listen_addr: Option<SocketAddr>,
    /// Prometheus listener of the gateway.
    pub gateway_metrics_listen_addr: Option<SocketAddr>,
    /// Prometheus listener of the DNS server.
    pub dns_metrics_listen_addr: Option<SocketAddr>,
    /// Which volumes.
    pub storage_backend: StorageChoice,
    /// Parent dataset of volumes.
    pub storage_zfs_root: Option<String>,
    /// Parent directory of subvolumes.
    pub storage_btrfs_root: Option<PathBuf>,
    /// Sum of quotas over space.
    pub storage_overcommit_ratio: f64,
    origins: BTreeMap<&'static str, Origin>,
}

/// `wireguard_backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    /// The kernel's when it has one, else userspace.
    Auto,
    /// The kernel's or none.
    Kernel,
    /// Userspace although the kernel has one.
    Userspace,
}

/// `storage.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageChoice {
    /// Whichever is there.
    Auto,
    /// ZFS.
    Zfs,
    /// Btrfs.
    Btrfs,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Default,
    /// The configuration file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

/// A configuration that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct BadConfig {
    /// File with line, variable or flag.
    pub place: String,
    /// What is wrong, with the values allowed.
    pub what: String,
}

/// One layer of raw values: text by key, each with its origin.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    values: BTreeMap<&'static str, (String, Origin, String)>,
}

struct Key {
    name: &'static str,
    default: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Float,
    /// Kept as one text with commas, as an environment variable has it.
    List,
}

impl Layer {
    /// The values of a TOML file.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, BadConfig> {
        let text = without_mark(text);
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| BadConfig {
            place: error
                .span()
                .map_or_else(|| file.to_owned(), |span| format!("{file}:{}", line_of(text, span.start))),
            what: error.message().to_owned(),
        })?;
        let mut layer = Self::default();
        for (name, value) in &table {
            match (name.as_str(), value) {
                ("storage", toml::Value::Table(inner)) => {
                    for (name, value) in inner {
                        layer.toml_value(file, text, &format!("storage.{name}"), value)?;
                    }
                }
                ("storage", other) => {
                    let what = format!("storage must be a table, not {}", other.type_str());
                    return Err(BadConfig { place: place(file, text, name), what });
                }
                _ => layer.toml_value(file, text, name, value)?,
            }
        }
        Ok(layer)
    }

    /// The values of `PLOYZ_*` variables. Unknown ones are left alone: other programs of ours have their own.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut layer = Self::default();
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix("PLOYZ_") else { continue };
            let wanted = rest.to_ascii_lowercase();
            if let Some(key) = KEYS.iter().find(|key| key.name.replace('.', "_") == wanted) {
                layer.values.insert(key.name, (value, Origin::Environment(variable.clone()), variable));
            }
        }
        layer
    }

    /// Adds a flag's value.
    pub fn flag(&mut self, name: &'static str, flag: &str, value: Option<String>) {
        if let Some(value) = value {
            self.values.insert(name, (value, Origin::Flag(flag.to_owned()), flag.to_owned()));
        }
    }

    fn toml_value(
        &mut self,
        file: &str,
        text: &str,
        name: &str,
        value: &toml::Value,
    ) -> Result<(), BadConfig> {
        let place = place(file, text, name.rsplit('.').next().unwrap_or(name));
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return Err(BadConfig { place, what: unknown_key(name) });
        };
        let raw = match (key.kind, value) {
            (Kind::Text, toml::Value::String(text)) => text.clone(),
            (Kind::Number, toml::Value::Integer(number)) => number.to_string(),
            (Kind::Float, toml::Value::Float(number)) => number.to_string(),
            (Kind::Float, toml::Value::Integer(number)) => number.to_string(),
            (Kind::List, toml::Value::String(text)) => text.clone(),
            (Kind::List, toml::Value::Array(items)) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(", ")
            }
            (kind, other) => {
                let what = format!("{name} must be {}, not {}", kind.article(), other.type_str());
                return Err(BadConfig { place, what });
            }
        };
        self.values.insert(key.name, (raw, Origin::File(place.clone()), place));
        Ok(())
    }
}

impl Config {
    /// The effective configuration of these layers, lowest precedence first.
    pub fn resolve(layers: &[Layer]) -> Result<Self, BadConfig> {
        let merged = Merged(layers);
        let cidr: Ipv4Net = merged.parse("cluster_cidr", "an IPv4 network such as 10.101.0.0/16")?;
        let len: u8 = merged.parse("subnet_prefix_len", "a prefix length from 1 to 29")?;
        let plan = AddressPlan::new(cidr, len).map_err(|error| {
            let key = if matches!(error, InvalidPlan::NoNode { .. }) {
                "subnet_prefix_len"
            } else {
                "cluster_cidr"
            };
            merged.bad(key, error.to_string())
        })?;
        let ratio: f64 = merged.parse("storage.overcommit_ratio", "a number above 0")?;
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(merged.bad("storage.overcommit_ratio", "must be finite and above 0".into()));
        }
        Ok(Self {
            data_dir: merged.path("data_dir")?,
            socket: merged.path("socket")?,
            region: merged.label("region")?,
            az: merged.label("az")?,
            plan,
            wireguard_listen_port: merged.port("wireguard_listen_port")?,
            advertise_endpoints: merged.endpoints("advertise_endpoints")?,
            wireguard_backend: merged.choice(
                "wireguard_backend",
                &[
                    ("auto", BackendChoice::Auto),
                    ("kernel", BackendChoice::Kernel),
                    ("userspace", BackendChoice::Userspace),
                ],
            )?,
            gateway_listen_addr: merged
                .parse("gateway_listen_addr", "an address with a port such as 0.0.0.0:80")?,
            gateway_https_listen_addr: merged.optional_address("gateway_https_listen_addr")?,
            gateway_threads: merged.threads("gateway_threads")?,
            zfs_transfer_port: merged.port("zfs_transfer_port")?,
            daemon_metrics_listen_addr: merged.optional_address("daemon_metrics_listen_addr")?,
            gateway_metrics_listen_addr: merged.optional_address("gateway_metrics_listen_addr")?,
            dns_metrics_listen_addr: merged.optional_address("dns_metrics_listen_addr")?,
            storage_backend: merged.choice(
                "storage.backend",
                &[
                    ("auto", StorageChoice::Auto),
                    ("zfs", StorageChoice::Zfs),
                    ("btrfs", StorageChoice::Btrfs),
                ],
            )?,
            storage_zfs_root: merged.optional("storage.zfs_root"),
            storage_btrfs_root: merged.optional("storage.btrfs_root").map(PathBuf::from),
            storage_overcommit_ratio: ratio,
            origins: KEYS.iter().map(|key| (key.name, merged.get(key.name).1)).collect(),
        })
    }

    /// Where a key's value came from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Whether the gateway serves IPv6 beside IPv4: an address that an operator wrote means what it says.
    pub fn gateway_takes_both(&self) -> bool {
        self.origin("gateway_listen_addr") == Some(&Origin::Default)
    }

    /// Every key with its value and origin, for `check-config`.
    pub fn describe(&self, layers: &[Layer]) -> Vec<(String, String, Origin)> {
        let merged = Merged(layers);
        KEYS.iter()
            .map(|key| {
                let (value, origin, _) = merged.get(key.name);
                (key.name.to_owned(), if value.is_empty() { "(unset)".into() } else { value }, origin)
            })
            .collect()
    }
}

struct Merged<'a>(&'a [Layer]);

impl Merged<'_> {
    fn get(&self, name: &str) -> (String, Origin, String) {
        let found = self.0.iter().rev().find_map(|layer| layer.values.get(name).cloned());
        found.unwrap_or_else(|| {
            let default = KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default);
            (default.to_owned(), Origin::Default, "default".to_owned())
        })
    }

    fn bad(&self, name: &str, what: String) -> BadConfig {
        BadConfig { place: self.get(name).2, what: format!("{name}: {what}") }
    }

    fn parse<T: std::str::FromStr>(&self, name: &str, wanted: &str) -> Result<T, BadConfig> {
        let (value, ..) = self.get(name);
        value.parse().map_err(|_| self.bad(name, format!("{value:?} is not {wanted}")))
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.get(name).0).filter(|value| !value.is_empty())
    }

    fn optional_address(&self, name: &str) -> Result<Option<SocketAddr>, BadConfig> {
        self.optional(name)
            .map(|_| self.parse(name, "an address with a port such as 127.0.0.1:9100"))
            .transpose()
    }

    fn endpoints(&self, name: &str) -> Result<Vec<NamedEndpoint>, BadConfig> {
        let text = self.optional(name).unwrap_or_default();
        let named = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        named.map(|one| one.parse().map_err(|error| self.bad(name, format!("{error}")))).collect()
    }

    fn path(&self, name: &str) -> Result<PathBuf, BadConfig> {
        let path = PathBuf::from(self.get(name).0);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.bad(name, format!("{} is not an absolute path", path.display())))
        }
    }

    fn port(&self, name: &str) -> Result<u16, BadConfig> {
        match self.parse::<u16>(name, "a port from 1 to 65535")? {
            0 => Err(self.bad(name, "0 is not a port from 1 to 65535".into())),
            port => Ok(port),
        }
    }

    fn threads(&self, name: &str) -> Result<u16, BadConfig> {
        match self.parse::<u16>(name, "a number of threads from 1 to 1024")? {
            n @ 1..=1024 => Ok(n),
            n => Err(self.bad(name, format!("{n} is not a number of threads from 1 to 1024"))),
        }
    }

    fn label(&self, name: &str) -> Result<Option<String>, BadConfig> {
        let Some(text) = self.optional(name) else { return Ok(None) };
        let label = text.trim().to_ascii_lowercase();
        let first = label.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            Ok(Some(label))
        } else {
            Err(self.bad(name, format!("{text:?} is not a label: [a-z0-9._-], first alphanumeric")))
        }
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, BadConfig> {
        let (value, ..) = self.get(name);
        choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.bad(name, format!("{value:?} is not one of {}", words.join(", ")))
        })
    }
}

impl Kind {
    fn article(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Number => "an integer",
            Self::Float => "a number",
            Self::List => "a list of strings",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "file {place}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

fn unknown_key(name: &str) -> String {
    if let Some(advice) = foreign::advice(name) {
        return format!("unknown key {name}; {advice}");
    }
    let known = KEYS.iter().map(|key| key.name);
    let near = known.map(|key| (strsim::damerau_levenshtein(key, name), key)).min();
    match near {
        Some((distance, key)) if distance <= name.len().div_ceil(3).min(4) => {
            format!("unknown key {name}; did you mean {key}?")
        }
        _ => {
            let all: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            format!("unknown key {name}; the keys are {}", all.join(", "))
        }
    }
}

/// `file:line` of a key: the first line that begins with it.
fn place(file: &str, text: &str, key: &str) -> String {
    let is_key = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"']);
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start_matches('"').trim_start().starts_with(['=', ']', '.']))
    };
    match text.lines().position(is_key) {
        Some(index) => format!("{file}:{}", index + 1),
        None => file.to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

const fn key(name: &'static str, default: &'static str, kind: Kind) -> Key {
    Key { name, default, kind }
}

const KEYS: [Key; 20] = [
    key("data_dir", "/var/lib/ployz", Kind::Text),
    key("socket", "/run/ployz/ployzd.sock", Kind::Text),
    key("region", "", Kind::Text),
    key("az", "", Kind::Text),
    key("cluster_cidr", "10.101.0.0/16", Kind::Text),
    key("subnet_prefix_len", "24", Kind::Number),
    key("wireguard_listen_port", "51820", Kind::Number),
    key("advertise_endpoints", "", Kind::List),
    key("wireguard_backend", "auto", Kind::Text),
    key("gateway_listen_addr", "0.0.0.0:80", Kind::Text),
    key("gateway_https_listen_addr", "", Kind::Text),
    key("gateway_threads", "2", Kind::Number),
    key("zfs_transfer_port", "4319", Kind::Number),
    key("daemon_metrics_listen_addr", "", Kind::Text),
    key("gateway_metrics_listen_addr", "", Kind::Text),
    key("dns_metrics_listen_addr", "", Kind::Text),
    key("storage.backend", "auto", Kind::Text),
    key("storage.zfs_root", "", Kind::Text),
    key("storage.btrfs_root", "", Kind::Text),
    key("storage.overcommit_ratio", "1.0", Kind::Float),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Config, BadConfig> {
        Config::resolve(&[Layer::from_toml("config.toml", text)?])
    }

    fn refused(text: &str) -> String {
        file(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = file("").unwrap();
        assert_eq!(config.plan.to_string(), "10.101.0.0/16 in /24 node subnets");
        assert_eq!((config.wireguard_listen_port, config.zfs_transfer_port), (51820, 4319));
        assert_eq!(config.gateway_listen_addr.to_string(), "0.0.0.0:80");
        assert_eq!(config.gateway_https_listen_addr, None);
        assert_eq!(config.origin("region"), Some(&Origin::Default));
    }

    #[test]
    fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
        let config = file("\u{feff}region = \"eu\"\r\naz = \"a\"\r\n").unwrap();
        assert_eq!((config.region.as_deref(), config.az.as_deref()), (Some("eu"), Some("a")));
        assert_eq!(config.origin("region").unwrap().to_string(), "file config.toml:1");
    }

    #[test]
    fn endpoints_named_by_hand_are_a_list_or_a_text_with_commas() {
        let named = |config: Config| {
            config.advertise_endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let list = file("advertise_endpoints = [\"203.0.113.7\", \"[fd12::1]:4000\"]").unwrap();
        assert_eq!(named(list), "203.0.113.7 [fd12::1]:4000");
        let variable = ("PLOYZ_ADVERTISE_ENDPOINTS".to_owned(), "203.0.113.7,fd12::1".to_owned());
        assert_eq!(
            named(Config::resolve(&[Layer::from_environment([variable])]).unwrap()),
            "203.0.113.7 fd12::1"
        );
        assert_eq!(named(file("").unwrap()), "");
    }

    #[test]
    fn both_families_are_served_unless_an_address_is_given() {
        assert!(file("").unwrap().gateway_takes_both());
        for given in ["0.0.0.0:80", "[::]:80", "192.0.2.1:8080"] {
            assert!(!file(&format!("gateway_listen_addr = \"{given}\"")).unwrap().gateway_takes_both());
        }
        let variable = ("PLOYZ_GATEWAY_LISTEN_ADDR".to_owned(), "0.0.0.0:80".to_owned());
        let given = Config::resolve(&[Layer::from_environment([variable])]).unwrap();
        assert!(!given.gateway_takes_both());
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let toml =
            Layer::from_toml("c.toml", "region = \"eu\"\nzfs_transfer_port = 1\naz = \"a\"\n").unwrap();
        let environment = Layer::from_environment([
            ("PLOYZ_ZFS_TRANSFER_PORT".to_owned(), "2".to_owned()),
            ("PLOYZ_AZ".to_owned(), "b".to_owned()),
            ("PLOYZ_GATEWAY_TLS_CERT_PATH".to_owned(), "/x".to_owned()),
        ]);
        let mut flags = Layer::default();
        flags.flag("zfs_transfer_port", "--zfs-transfer-port", Some("3".into()));
        let config = Config::resolve(&[toml, environment, flags]).unwrap();
        assert_eq!(config.zfs_transfer_port, 3);
        assert_eq!(config.az.as_deref(), Some("b"));
        assert_eq!(config.origin("region").unwrap().to_string(), "file c.toml:1");
        assert_eq!(config.origin("az").unwrap().to_string(), "environment PLOYZ_AZ");
        assert_eq!(config.origin("zfs_transfer_port").unwrap().to_string(), "flag --zfs-transfer-port");
    }

    #[test]
    fn what_is_refused_names_line_key_and_values() {
        for (text, want) in [
            ("\nregoin = \"x\"", "config.toml:2: unknown key regoin; did you mean region?"),
            (
                "[storage]\nbackend = \"ext4\"",
                "config.toml:2: storage.backend: \"ext4\" is not one of auto, zfs, btrfs",
            ),
            ("subnet_prefix_len = \"24\"", "config.toml:1: subnet_prefix_len must be an integer, not string"),
            (
                "cluster_cidr = \"10.101.0.1/16\"",
                "config.toml:1: cluster_cidr: cluster_cidr 10.101.0.1/16 has host bits set; the network is 10.101.0.0/16",
            ),
            (
                "subnet_prefix_len = 16",
                "config.toml:1: subnet_prefix_len: subnet_prefix_len 16 leaves no room for nodes in 10.101.0.0/16: it must be from 17 to 29",
            ),
            (
                "wireguard_listen_port = 70000",
                "config.toml:1: wireguard_listen_port: \"70000\" is not a port from 1 to 65535",
            ),
            (
                "advertise_endpoints = [\"203.0.113.7\", \"n1.example.org\"]",
                "config.toml:1: advertise_endpoints: \"n1.example.org\" is not an address that other machines can dial, such as 203.0.113.7, 203.0.113.7:51820 or [2001:db8::7]:51820",
            ),
            (
                "advertise_endpoints = [1]",
                "config.toml:1: advertise_endpoints must be a list of strings, not array",
            ),
            (
                "gateway_tls_cert_path = \"/etc/cert.pem\"",
                "config.toml:1: unknown key gateway_tls_cert_path; it is an environment variable of ployzd, PLOYZ_GATEWAY_TLS_CERT_PATH, set with `systemctl edit ployzd`; or `ployzctl cert import` for all machines at once",
            ),
            (
                "public_ip = \"203.0.113.7\"",
                "config.toml:1: unknown key public_ip; did you mean advertise_endpoints?",
            ),
            (
                "log_level = \"debug\"",
                "config.toml:1: unknown key log_level; it is an environment variable of ployzd, PLOYZ_LOG",
            ),
            ("data_dir = \"x\"", "config.toml:1: data_dir: x is not an absolute path"),
            (
                "[storage]\novercommit_ratio = 0",
                "config.toml:2: storage.overcommit_ratio: must be finite and above 0",
            ),
            (
                "wireguard_backend = \"fast\"",
                "config.toml:1: wireguard_backend: \"fast\" is not one of auto, kernel, userspace",
            ),
        ] {
            assert_eq!(refused(text), want);
        }
        assert!(refused("a = ").starts_with("config.toml:1: "));
    }
}
