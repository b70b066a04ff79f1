//! The values of a manifest, each a type that cannot hold anything else.

use crate::text::checked_text;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use strum::VariantNames;

/// A text that is not such a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidValue {
    /// As given, cut where it is long.
    pub text: String,
    /// What it should have been.
    pub wanted: Cow<'static, str>,
}

impl InvalidValue {
    fn new(text: &str, wanted: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.chars().take(80).collect(), wanted: wanted.into() }
    }

    /// Of a text that is none of the words of `T`.
    pub(super) fn not_among<T: VariantNames>(text: &str) -> Self {
        Self::new(text, format!("one of {}", T::VARIANTS.join(" ")))
    }
}

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $wanted:literal, $check:expr) => {
        checked_text!($(#[$doc])* $name, InvalidValue, |text| {
            let check: fn(&str) -> Option<String> = $check;
            check(text).ok_or_else(|| InvalidValue::new(text, $wanted))
        });
    };
}

text_value!(
    /// Reference of an image: `[registry[:port]/]path[:tag][@sha256:digest]`.
    ImageRef,
    "an image reference such as nginx:1.27 or registry.example.org/team/app@sha256:...",
    |text| is_image(text).then(|| text.to_owned())
);
text_value!(
    /// Digest of what a registry or an engine has: `sha256:` and 64 hexadecimal digits in lower case.
    ImageDigest,
    "a digest: sha256: and 64 hexadecimal digits in lower case",
    |text| is_digest(text).then(|| text.to_owned())
);
text_value!(
    /// Name of a port, also its SRV name (RFC 6335 section 5.1: at most 15 characters).
    PortName,
    "a port name: 1-15 characters of [a-z0-9-], first and last alphanumeric",
    |text| (text.len() <= 15 && is_label(text)).then(|| text.to_owned())
);
text_value!(
    /// Host of a route, in lower case: a name, `*.` and a name, or `*`.
    HostPattern,
    "a host name, *.example.org or * (names outside ASCII in punycode, xn--...)",
    host
);
text_value!(
    /// Host header of a request, in lower case: a name or an address, with a port or without.
    HostHeader,
    "a host: a name or an address, with a port or without, such as shop.example.org or [::1]:8443",
    host_header
);
text_value!(
    /// Name of a header that may be set, in lower case.
    HeaderName,
    "a header that can be set: letters, digits and -, and none that describes how the request is sent (for Host use the key host)",
    header_name
);
text_value!(
    /// Path prefix of a route, matched by whole segments.
    PathPrefix,
    "a path: it starts with / and has no query, no empty or dot segment and no character that must be escaped",
    path_prefix
);
text_value!(
    /// What a readiness check asks for: a path, and a query or none (RFC 3986 section 3.4).
    CheckPath,
    "a path, with a query if need be: it begins with / and has no fragment, no empty or dot segment and nothing that must \
     be escaped",
    check_path
);
text_value!(
    /// Name of an environment variable.
    EnvName,
    "a variable's name: [A-Za-z0-9_.-], not starting with a digit",
    |text| is_env_name(text).then(|| text.to_owned())
);
text_value!(
    /// Name of a volume.
    VolumeName,
    "a volume name: 1-63 characters of [a-z0-9-], first and last alphanumeric",
    |text| (text.len() <= 63 && is_label(text)).then(|| text.to_owned())
);
text_value!(
    /// Absolute path inside a container.
    MountPath,
    "an absolute path without dot segments, below /",
    |text| path_prefix(text).filter(|path| path != "/")
);
text_value!(
    /// Permissions of a volume's root, octal.
    FileMode,
    "a mode of three or four octal digits such as 0750",
    |text| {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        octal.then(|| text.to_owned())
    }
);
text_value!(
    /// Owner of a volume's root by number: `uid:gid`.
    FileOwner,
    "an owner uid:gid by number such as 999:999",
    |text| {
        let (uid, gid) = text.split_once(':')?;
        [uid, gid].iter().all(|id| is_number(id) && id.parse::<u32>().is_ok()).then(|| text.to_owned())
    }
);

/// A length of time in whole milliseconds, at most a day: `500ms`, `30s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u64);

/// A number of bytes: `268435456`, `256M`; K, M, G and T are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(u64);

/// Processor time in thousandths of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u32);

impl Span {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// In milliseconds.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// In seconds, rounded up.
    pub fn as_secs(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// As the clock's type.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Cpus {
    /// From thousandths of a processor; `None` outside 10 to 1,024,000 (Docker takes no less than 0.01).
    pub fn from_millis(millis: u32) -> Option<Self> {
        (10..=1_024_000).contains(&millis).then_some(Self(millis))
    }

    /// From a number of processors.
    pub fn from_number(number: f64) -> Option<Self> {
        let millis = (number * 1000.0).round();
        // A cast outside the range saturates and is thrown away.
        (10.0..=1_024_000.0).contains(&millis).then_some(Self(millis as u32))
    }

    /// In thousandths of a processor.
    pub fn as_millis(self) -> u32 {
        self.0
    }
}

impl FromStr for Span {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new(text, "a length of time such as 500ms, 30s, 5m or 1h, at most 24h");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let scale = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        millis.filter(|millis| *millis <= MAX_SPAN).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let unit = fits.into_iter().find(|(scale, _)| self.0 > 0 && self.0.is_multiple_of(*scale));
        let (scale, unit) = unit.unwrap_or((1, "ms"));
        f.pad(&format!("{}{unit}", self.0 / scale))
    }
}

impl FromStr for Bytes {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new(text, "a number of bytes such as 268435456, 256M or 1G");
        let shift = match text.bytes().last().map(|b| b.to_ascii_uppercase()) {
            Some(b'K') => 10,
            Some(b'M') => 20,
            Some(b'G') => 30,
            Some(b'T') => 40,
            _ => 0,
        };
        let number = if shift == 0 { text } else { &text[..text.len() - 1] };
        if !is_number(number) {
            return Err(bad());
        }
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        // Above this a TOML integer could not say it either.
        bytes.filter(|bytes| *bytes <= i64::MAX as u64).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let unit = fits.into_iter().find(|(shift, _)| self.0 > 0 && self.0.is_multiple_of(1 << shift));
        let (shift, unit) = unit.unwrap_or((0, ""));
        f.pad(&format!("{}{unit}", self.0 >> shift))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&(f64::from(self.0) / 1000.0).to_string())
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(d)?;
        Self::from_number(number)
            .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a number of processors")))
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(text: String) -> Result<Self, InvalidValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
as_text!(Span);
as_text!(Bytes);

/// The grammar of github.com/distribution/reference, without its length limits on the host.
fn is_image(text: &str) -> bool {
    if text.len() > 512 {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let digest_fits = digest.is_none_or(is_digest);
    let (path, tag) = match rest.rsplit_once(':') {
        // A colon before the last slash is the registry's port.
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    digest_fits && tag.is_none_or(is_tag) && is_repository(path)
}

fn is_digest(text: &str) -> bool {
    let hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(hex)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_repository(path: &str) -> bool {
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, path),
    };
    registry.is_none_or(is_registry) && rest.split('/').all(is_component)
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    port.is_none_or(|port| is_number(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
        && host.to_ascii_lowercase().split('.').all(is_label)
}

/// Lower-case words with one separator between two: `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(word) && bytes.last().is_some_and(word);
    ends && bytes.split(word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let name = text.strip_prefix("*.").unwrap_or(text);
    let fits = text == "*" || (text.len() <= 253 && name.split('.').all(is_host_label));
    fits.then(|| text.to_owned())
}

fn host_header(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    // A colon inside brackets is the address's.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text.as_str(), None),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(is_host_label),
    };
    let port = port.is_none_or(|port| is_number(port) && port.parse::<u16>().is_ok_and(|port| port > 0));
    (fits && port).then_some(text)
}

/// A token of RFC 9110 section 5.6.2 that a request does not need for itself.
fn header_name(text: &str) -> Option<String> {
    let name = text.to_ascii_lowercase();
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let fits = (1..=128).contains(&name.len()) && name.bytes().all(inner);
    (fits && !OWN_HEADERS.contains(&name.as_str())).then_some(name)
}

fn is_host_label(label: &str) -> bool {
    label.len() <= 63 && is_label(label)
}

fn path_prefix(text: &str) -> Option<String> {
    if text.len() > 1024 || !text.bytes().all(is_path_byte) {
        return None;
    }
    let rest = text.strip_prefix('/')?;
    if rest.is_empty() {
        return Some(text.to_owned());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let segments = rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    segments.then(|| format!("/{rest}"))
}

/// No byte that ends a request's line or adds one to it is among those taken.
fn check_path(text: &str) -> Option<String> {
    if text.len() > 1024 {
        return None;
    }
    let Some((path, query)) = text.split_once('?') else { return path_prefix(text) };
    let all = query.bytes().all(|b| is_path_byte(b) || b == b'?');
    all.then(|| path_prefix(path)).flatten().map(|path| format!("{path}?{query}"))
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b)
}

fn is_env_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    text.len() <= 256
        && text.bytes().all(inner)
        && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Decimal digits only: `parse` alone would take a sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A day: nothing in a manifest waits longer.
const MAX_SPAN: u64 = 24 * 3_600_000;

/// What says where a request goes, how long it is, and what becomes of the connection.
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
