//! What a machine that lies writes into the strings of a command, and what the fake engine must never be asked for it.

use super::fake::Fake;
use proptest::strategy::Strategy;
use serde_json::Value;
use std::collections::BTreeSet;

/// Each led to another call when ids were put into paths as they came.
pub const TEXTS: [&str; 12] = [
    "../containers/foreign/kill?x=",
    "../containers/prune?x=",
    "../volumes/prune?x=",
    "../networks/prune?x=",
    "../containers/big/export?x=",
    "..",
    "foreign",
    "%2e%2e/containers/foreign",
    "web?force=1",
    "web#x",
    "a/../../containers/foreign",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000/../../containers/foreign/kill",
];

/// Texts of what paths are made of.
pub fn text() -> impl Strategy<Value = String> {
    "(sha256:)?(\\.\\./|[a-z0-9]{1,6}|[./?#%:@_\\\\-]){1,8}"
}

/// The value with this text in the place of one string each.
pub fn variants(value: &Value, text: &str) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::String(_) => all.push(Value::from(text)),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                all.extend(variants(item, text).into_iter().map(|changed| {
                    let mut items = items.clone();
                    items[at] = changed;
                    Value::from(items)
                }));
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                all.extend(variants(field, text).into_iter().map(|changed| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), changed);
                    Value::from(fields)
                }));
            }
        }
        _ => {}
    }
    all
}

/// Requests whose path is none of the product's calls, or has something in its slot that is not one of these.
pub fn strays(fake: &Fake, slots: &BTreeSet<String>) -> Vec<String> {
    fake.asked("").into_iter().filter(|line| !is_call(line, slots)).collect()
}

fn is_call(line: &str, slots: &BTreeSet<String>) -> bool {
    let Some((method, uri)) = line.split_once(' ') else { return false };
    let path = uri.split('?').next().unwrap_or_default();
    let slot = |before: &str, after: &str| {
        let inner = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        inner.is_some_and(|inner| slots.contains(inner))
    };
    match method {
        "GET" => {
            matches!(path, "/version" | "/_ping" | "/info" | "/containers/json" | "/networks" | "/events")
                || slot("/containers/", "/json")
                || slot("/containers/", "/logs")
                || slot("/images/", "/json")
        }
        "POST" => {
            path == "/containers/create"
                || slot("/containers/", "/start")
                || slot("/containers/", "/stop")
                || slot("/images/", "/tag")
        }
        "DELETE" => slot("/containers/", ""),
        _ => false,
    }
}
