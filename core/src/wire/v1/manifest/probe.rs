//! The HTTP question of a readiness check: what is sent, and which answers are yes.
//!
//! Names and values are checked so that a request cannot be made into two by what stands in one of its lines.

use crate::wire::v1::manifest::read::{BadManifest, Item, Table};
use crate::wire::v1::manifest::tree::Tree;
use crate::wire::v1::manifest::value::{HeaderName, HostHeader};
use crate::wire::v1::manifest::{CheckPath, InvalidValue, words};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// A request to a container. Redirects are answers like others: they are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpCheck {
    /// Port in the container.
    pub port: u16,
    /// Path, and a query or none.
    pub path: CheckPath,
    /// How it is asked.
    #[serde(skip_serializing_if = "Method::is_get")]
    pub method: Method,
    /// In the clear or in TLS.
    #[serde(skip_serializing_if = "Scheme::is_http")]
    pub scheme: Scheme,
    /// The Host header, and the name asked for in TLS; the container's address otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostHeader>,
    /// More headers, by name in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<HeaderName, String>,
    /// Which answers are yes.
    #[serde(skip_serializing_if = "Statuses::are_usual")]
    pub statuses: Statuses,
}

/// How a container is asked.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
)]
#[strum(serialize_all = "UPPERCASE", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Method>)]
pub enum Method {
    /// As browsers do; the body is not read.
    Get,
    /// Without a body.
    Head,
}

/// What the connection carries.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
)]
#[strum(serialize_all = "lowercase", parse_err_ty = InvalidValue, parse_err_fn = InvalidValue::not_among::<Scheme>)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP in TLS. The certificate is not verified: what is asked is a container of this machine by its address, and most
    /// certificates inside are self-signed.
    Https,
}

/// Status codes, as ranges with both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl HttpCheck {
    /// `GET` of a path over plain HTTP, 200 to 399 being yes.
    pub fn plain(port: u16, path: CheckPath) -> Self {
        Self {
            port,
            path,
            method: Method::Get,
            scheme: Scheme::Http,
            host: None,
            headers: BTreeMap::new(),
            statuses: Statuses::default(),
        }
    }

    /// From the table of a check of kind `http`.
    pub(super) fn read(table: &Table<'_>, port: u16) -> Result<Self, BadManifest> {
        let slash = "/".parse().expect("/ is a path");
        Ok(Self {
            path: table.or("path", slash, Item::parse)?,
            method: table.or("method", Method::Get, Item::parse)?,
            scheme: table.or("scheme", Scheme::Http, Item::parse)?,
            host: table.maybe("host", Item::parse)?,
            headers: table.or("headers", BTreeMap::new(), headers)?,
            statuses: table.or("statuses", Statuses::default(), statuses)?,
            port,
        })
    }
}

impl Method {
    fn is_get(&self) -> bool {
        *self == Self::Get
    }
}

impl Scheme {
    fn is_http(&self) -> bool {
        *self == Self::Http
    }
}

impl Statuses {
    /// Whether an answer with this status is yes.
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }

    /// Whether they are those that count when none are named.
    pub fn are_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(text))
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

fn headers(item: &Item<'_>) -> Result<BTreeMap<HeaderName, String>, BadManifest> {
    let mut headers = BTreeMap::new();
    for (name, item) in item.entries()? {
        let name: HeaderName = name.parse().map_err(|error| item.refuse(error))?;
        let value = match item.tree() {
            Tree::Integer(number) => number.to_string(),
            _ => item.text()?.to_owned(),
        };
        if !is_header_value(&value) {
            // Not repeated: it may be a password.
            return Err(item.refuse(BAD_VALUE));
        }
        if headers.insert(name.clone(), value).is_some() {
            return Err(item.refuse(format!("{name} is given twice: case does not matter")));
        }
    }
    if headers.len() > MAX_HEADERS {
        return Err(item.refuse(format!("holds {} headers; at most {MAX_HEADERS} are sent", headers.len())));
    }
    Ok(headers)
}

/// RFC 9110 section 5.5, without the bytes outside ASCII that it calls obsolete.
fn is_header_value(value: &str) -> bool {
    let inner = |b: u8| matches!(b, b' '..=b'~' | b'\t');
    value.len() <= MAX_HEADER_VALUE && value.bytes().all(inner) && value.trim() == value
}

fn statuses(item: &Item<'_>) -> Result<Statuses, BadManifest> {
    let ranges: Vec<(u16, u16)> = item.list()?.iter().map(range).collect::<Result<_, _>>()?;
    if ranges.is_empty() {
        return Err(item.refuse("is empty: no status would count as ready"));
    }
    Ok(Statuses(ranges))
}

/// `204`, `"204"` or `"200-299"`.
fn range(item: &Item<'_>) -> Result<(u16, u16), BadManifest> {
    let Tree::Text(text) = item.tree() else { return item.integer(200, 599).map(|only| (only, only)) };
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| digits && (200..=599).contains(number))
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(item.refuse(format!("{text:?} is not a status from 200 to 599 or a range such as 200-299"))),
    }
}

fn text((from, to): &(u16, u16)) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

words!(Method, Scheme);

const BAD_VALUE: &str =
    "is not a header's value: at most 4096 characters of ASCII, no line breaks, no space at either end";
const MAX_HEADER_VALUE: usize = 4096;
const MAX_HEADERS: usize = 32;

/// Keys of a check that only kind `http` has.
pub(super) const HTTP_CHECK: &[&str] = &["path", "method", "scheme", "host", "headers", "statuses"];
