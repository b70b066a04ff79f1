//! Names and identifiers, parsed once at the edge and valid everywhere after.

use crate::text::checked_text;

/// A text that is not a valid name or identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What was being parsed, for example `network name`.
    pub what: &'static str,
    /// The text as given.
    pub text: String,
    /// The rule it broke.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        checked_text!($(#[$doc])* $name, InvalidId, |text| {
            let check: fn(&str) -> bool = $check;
            match check(text) {
                true => Ok(text.to_owned()),
                false => Err(InvalidId { what: $what, text: shorten(text), rule: $rule }),
            }
        });
    };
}

text_id!(
    /// Name of a mesh network, also the name of its directory on disk.
    NetworkName,
    "network name",
    "1-63 characters of [a-z0-9-], first and last alphanumeric",
    is_label
);
text_id!(
    /// Name of a machine, unique in its network, also its DNS label.
    MachineId,
    "machine id",
    "1-63 characters of [a-z0-9-], first and last alphanumeric",
    is_label
);
text_id!(
    /// Identifier of a network: 32 lower-case hexadecimal digits, drawn at random when it is created.
    NetworkId,
    "network id",
    "32 lower-case hexadecimal digits",
    |t| t.len() == 32 && is_hex(t)
);
text_id!(
    /// Identifier of an invite: 16 lower-case hexadecimal digits.
    InviteId,
    "invite id",
    "16 lower-case hexadecimal digits",
    |t| t.len() == 16 && is_hex(t)
);

text_id!(
    /// Name of a namespace: a set of services that are deployed together and see each other by short names.
    Namespace,
    "namespace",
    "1-63 characters of [a-z0-9-], first and last alphanumeric",
    is_label
);
text_id!(
    /// Name of a service, unique in its namespace, also its DNS label.
    ServiceName,
    "service name",
    "1-63 characters of [a-z0-9-], first and last alphanumeric",
    is_label
);
text_id!(
    /// Identifier of one running copy of a service, also its DNS label; never used twice.
    InstanceId,
    "instance id",
    "1-63 characters of [a-z0-9-], first and last alphanumeric",
    is_label
);
text_id!(
    /// Identifier of a deploy: 16 lower-case hexadecimal digits, drawn at random when it begins.
    DeployId,
    "deploy id",
    "16 lower-case hexadecimal digits",
    |t| t.len() == 16 && is_hex(t)
);

text_id!(
    /// An engine's id of an image: `sha256:` and 64 lower-case hexadecimal digits. It becomes part of a path of the
    /// engine's API, so nothing else is one.
    ImageId,
    "image id",
    "sha256: and 64 lower-case hexadecimal digits",
    |t| t.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && is_hex(digits))
);
text_id!(
    /// Identifier of an operation on the whole network: 16 lower-case hexadecimal digits, drawn at random when it begins.
    OperationId,
    "operation id",
    "16 lower-case hexadecimal digits",
    |t| t.len() == 16 && is_hex(t)
);

impl OperationId {
    /// The identifier made of 8 random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(hex(&bytes))
    }
}

impl DeployId {
    /// The identifier made of 8 random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(hex(&bytes))
    }
}

impl NetworkId {
    /// The identifier made of 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes))
    }
}

impl InviteId {
    /// The identifier made of 8 random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(hex(&bytes))
    }
}

impl MachineId {
    /// The nearest valid id to a host name: lower-cased, up to the first dot, other characters become `-`.
    ///
    /// A host name with nothing usable gives `node`.
    pub fn from_hostname(hostname: &str) -> Self {
        let first = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mapped: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let cut: String = mapped.trim_matches('-').chars().take(MAX_LABEL).collect();
        let id = cut.trim_matches('-');
        Self(if id.is_empty() { "node".to_owned() } else { id.to_owned() })
    }

    /// This id with a suffix, for a machine whose host name is already taken; the result stays valid.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        let keep = MAX_LABEL - suffix.len() - 1;
        let base: String = self.0.chars().take(keep).collect();
        Self(format!("{}-{suffix}", base.trim_end_matches('-')))
    }
}

/// Lower-case hexadecimal text of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=MAX_LABEL).contains(&bytes.len())
        && bytes.iter().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 {
        text.to_owned()
    } else {
        text.chars().take(77).collect::<String>() + "..."
    }
}

/// RFC 1035 section 2.3.4: a DNS label has at most 63 octets.
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_names_follow_the_dns_label_rule() {
        for good in ["a", "prod", "my-cluster", "0", "a-1", &"x".repeat(63)] {
            assert!(good.parse::<NetworkName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä", "../x", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hostname_becomes_a_valid_machine_id() {
        assert_eq!(MachineId::from_hostname("DB_2.example.org").as_str(), "db-2");
        assert_eq!(MachineId::from_hostname("--").as_str(), "node");
        assert_eq!(MachineId::from_hostname("").as_str(), "node");
        let long = MachineId::from_hostname(&"h".repeat(80));
        assert!(long.as_str().parse::<MachineId>().is_ok());
        assert!(long.with_suffix("ab12").as_str().parse::<MachineId>().is_ok());
    }

    #[test]
    fn serde_refuses_an_invalid_name() {
        assert!(serde_json::from_str::<NetworkName>("\"../etc\"").is_err());
        assert_eq!(serde_json::from_str::<NetworkName>("\"prod\"").unwrap().as_str(), "prod");
    }
}
