//! What kept an engine from a registry, by what an operator can do about it.
//!
//! The engine passes on what the registry said as `code: message`, with the codes of the distribution specification in
//! lower case, and what its HTTP client met as Go writes it: `Get "https://...": ...`. Those are looked at, never the
//! sentences between them.

use crate::wire::v1::api::ErrorCode;

/// The code of a failure, from the HTTP status of the engine's answer, if it had one, and its words.
pub fn code(status: Option<u16>, words: &str) -> ErrorCode {
    let parts: Vec<&str> = words.lines().flat_map(|line| line.split(": ")).map(str::trim).collect();
    let found = CODES.iter().find(|(text, _)| parts.contains(text)).map(|(_, code)| *code);
    let started = || STARTS.iter().find(|(text, _)| parts.iter().any(|part| part.starts_with(text)));
    found
        .or_else(|| started().map(|(_, code)| *code))
        .or_else(|| status.and_then(of_status))
        .unwrap_or(ErrorCode::ImagePullFailed)
}

/// How much a failure tells beside others: what a registry said tells more than that it was not reached.
pub fn weight(code: &str) -> usize {
    let known = WEIGHTS.iter().position(|known| known.as_str() == code);
    known.map_or(0, |place| place + 1)
}

fn of_status(status: u16) -> Option<ErrorCode> {
    match status {
        401 | 403 => Some(ErrorCode::RegistryLoginFailed),
        404 => Some(ErrorCode::ImageNotInRegistry),
        429 => Some(ErrorCode::RegistryRateLimited),
        _ => None,
    }
}

/// Whole parts; the first that is there decides.
const CODES: [(&str, ErrorCode); 10] = [
    ("toomanyrequests", ErrorCode::RegistryRateLimited),
    ("unauthorized", ErrorCode::RegistryLoginFailed),
    ("denied", ErrorCode::RegistryLoginFailed),
    // The HTTP client's own, before anything is sent.
    ("no basic auth credentials", ErrorCode::RegistryLoginFailed),
    ("manifest unknown", ErrorCode::ImageNotInRegistry),
    ("name unknown", ErrorCode::ImageNotInRegistry),
    ("blob unknown", ErrorCode::ImageNotInRegistry),
    ("no space left on device", ErrorCode::DiskFull),
    ("context deadline exceeded", ErrorCode::RegistryUnreachable),
    ("i/o timeout", ErrorCode::RegistryUnreachable),
];

/// How parts begin. The HTTP client puts method and address before everything that is no answer.
const STARTS: [(&str, ErrorCode); 8] = [
    ("no matching manifest for ", ErrorCode::ImagePlatform),
    ("Get \"", ErrorCode::RegistryUnreachable),
    ("Head \"", ErrorCode::RegistryUnreachable),
    ("Get http", ErrorCode::RegistryUnreachable),
    ("Head http", ErrorCode::RegistryUnreachable),
    ("dial tcp", ErrorCode::RegistryUnreachable),
    ("lookup ", ErrorCode::RegistryUnreachable),
    ("read tcp", ErrorCode::RegistryUnreachable),
];

/// From what tells least.
const WEIGHTS: [ErrorCode; 8] = [
    ErrorCode::MachineUnreachable,
    ErrorCode::RegistryUnreachable,
    ErrorCode::DockerUnavailable,
    ErrorCode::RegistryLoginFailed,
    // Said to a machine that was let in.
    ErrorCode::ImageNotInRegistry,
    ErrorCode::RegistryRateLimited,
    ErrorCode::ImagePlatform,
    ErrorCode::DiskFull,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker 20.10, 26.1 and 28.5 answered.
    #[test]
    fn what_engines_say_of_registries_becomes_a_code() {
        let get = r#"Get "https://registry.example.org/v2/": "#;
        let of = |words: &str| code(Some(500), words);
        for words in [
            "dial tcp 10.0.0.1:443: connect: connection refused",
            "dial tcp: lookup registry.example.org on 10.0.0.2:53: no such host",
            "dial tcp: lookup registry.example.org: Temporary failure in name resolution",
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
            "x509: certificate signed by unknown authority",
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "http: server gave HTTP response to HTTPS client",
            "EOF",
        ] {
            assert_eq!(of(&format!("{get}{words}")), ErrorCode::RegistryUnreachable, "{words}");
        }
        for (words, wanted) in [
            ("no basic auth credentials", ErrorCode::RegistryLoginFailed),
            ("unauthorized: authentication required", ErrorCode::RegistryLoginFailed),
        ] {
            assert_eq!(of(&format!("{get}{words}")), wanted, "{words}");
            assert_eq!(of(words), wanted, "{words}");
        }
        for (words, wanted) in [
            (
                "pull access denied for team/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                ErrorCode::RegistryLoginFailed,
            ),
            (
                "manifest for nginx:x not found: manifest unknown: manifest unknown",
                ErrorCode::ImageNotInRegistry,
            ),
            (
                "errors:\ndenied: requested access\nunauthorized: authentication required",
                ErrorCode::RegistryLoginFailed,
            ),
            (
                "toomanyrequests: You have reached your pull rate limit. https://www.docker.com/increase-rate-limit",
                ErrorCode::RegistryRateLimited,
            ),
            (
                "no matching manifest for linux/arm64/v8 in the manifest list entries",
                ErrorCode::ImagePlatform,
            ),
            ("failed to register layer: write /usr/lib/x: no space left on device", ErrorCode::DiskFull),
            ("something new", ErrorCode::ImagePullFailed),
        ] {
            assert_eq!(of(words), wanted, "{words}");
        }
    }

    #[test]
    fn a_status_counts_where_words_say_nothing() {
        for (status, wanted) in [
            (401, ErrorCode::RegistryLoginFailed),
            (403, ErrorCode::RegistryLoginFailed),
            (404, ErrorCode::ImageNotInRegistry),
            (429, ErrorCode::RegistryRateLimited),
            (500, ErrorCode::ImagePullFailed),
        ] {
            assert_eq!(code(Some(status), "unknown"), wanted, "{status}");
        }
    }

    #[test]
    fn what_a_registry_said_tells_more_than_that_it_was_not_reached() {
        let weight = |code: ErrorCode| weight(code.as_str());
        assert!(weight(ErrorCode::RegistryLoginFailed) > weight(ErrorCode::RegistryUnreachable));
        assert!(weight(ErrorCode::ImageNotInRegistry) > weight(ErrorCode::RegistryLoginFailed));
        assert!(weight(ErrorCode::RegistryUnreachable) > weight(ErrorCode::ImagePullFailed));
    }
}
