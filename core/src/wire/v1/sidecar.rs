//! What the gateway and the DNS server report of the routing state they serve from.
//!
//! One line of `key=value` words, e.g. `freshness=last-good since=1782907200 sequence=42 routes=3 version=0.4.0`. The gateway
//! gives it to systemd (`systemctl show -P StatusText ployz-gateway`); the DNS server answers it as strings of the TXT record
//! `_status.ployz.internal`. Neither needs ployzd or the store. A reader ignores keys it does not know, and a text that it
//! cannot parse is of another build: its freshness is unknown, which is not a fault.

use crate::routing::Freshness;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// What a sidecar serves from. Printed and parsed here alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarStatus {
    /// How far what is served can be trusted.
    pub freshness: Freshness,
    /// The routing stream's number of the last event in what is served.
    pub sequence: Option<u64>,
    /// How much is served. Each sidecar counts what it has.
    pub counts: Counts,
    /// The sidecar's version: no white space, not empty.
    pub version: Option<String>,
}

/// How much a sidecar serves; `None` is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Routes of the gateway.
    pub routes: Option<u64>,
    /// Machines that have a name.
    pub machines: Option<u64>,
    /// Services that have a name.
    pub services: Option<u64>,
    /// Instances that have a name.
    pub instances: Option<u64>,
}

/// Why a text is not a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSidecarStatus {
    /// It says nothing of freshness.
    #[error("no freshness is given")]
    NoFreshness,
    /// Freshness is `last-good`, and since when is not said.
    #[error("last-good without since")]
    NoSince,
    /// The value of a key is none that this build knows.
    #[error("{key}: unknown value {value:?}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is given for it.
        value: String,
    },
}

impl SidecarStatus {
    /// The status of a sidecar that counts nothing.
    pub fn new(freshness: Freshness, version: &str) -> Self {
        Self { freshness, sequence: None, counts: Counts::default(), version: Some(version.to_owned()) }
    }

    /// The line in parts; freshness and `since` are one part.
    pub fn parts(&self) -> Vec<String> {
        let freshness = match self.freshness {
            Freshness::Empty => format!("{FRESHNESS}={EMPTY}"),
            Freshness::Live => format!("{FRESHNESS}={LIVE}"),
            Freshness::LastGood(since) => format!("{FRESHNESS}={LAST_GOOD} {SINCE}={since}"),
        };
        let numbers = self.numbers().into_iter();
        let numbers = numbers.filter_map(|(key, number)| Some(format!("{key}={}", number?)));
        let version = self.version.iter().map(|version| format!("{VERSION}={version}"));
        std::iter::once(freshness).chain(numbers).chain(version).collect()
    }

    fn numbers(&self) -> [(&'static str, Option<u64>); 5] {
        let Counts { routes, machines, services, instances } = self.counts;
        [
            (SEQUENCE, self.sequence),
            (ROUTES, routes),
            (MACHINES, machines),
            (SERVICES, services),
            (INSTANCES, instances),
        ]
    }
}

impl Display for SidecarStatus {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(&self.parts().join(" "))
    }
}

impl FromStr for SidecarStatus {
    type Err = BadSidecarStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of = |key: &'static str| {
            let mut words = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
            words.find_map(|(found, value)| (found == key).then_some(value))
        };
        let number = |key: &'static str| of(key).map(|value| parse(key, value)).transpose();
        let freshness = match of(FRESHNESS).ok_or(BadSidecarStatus::NoFreshness)? {
            EMPTY => Freshness::Empty,
            LIVE => Freshness::Live,
            LAST_GOOD => Freshness::LastGood(number(SINCE)?.ok_or(BadSidecarStatus::NoSince)?),
            other => return Err(BadSidecarStatus::Value { key: FRESHNESS, value: other.to_owned() }),
        };
        let counts = Counts {
            routes: number(ROUTES)?,
            machines: number(MACHINES)?,
            services: number(SERVICES)?,
            instances: number(INSTANCES)?,
        };
        let version = of(VERSION).filter(|version| !version.is_empty()).map(str::to_owned);
        Ok(Self { freshness, sequence: number(SEQUENCE)?, counts, version })
    }
}

fn parse(key: &'static str, value: &str) -> Result<u64, BadSidecarStatus> {
    value.parse().map_err(|_| BadSidecarStatus::Value { key, value: value.to_owned() })
}

const FRESHNESS: &str = "freshness";
const EMPTY: &str = "empty";
const LIVE: &str = "live";
const LAST_GOOD: &str = "last-good";
/// Unix seconds.
const SINCE: &str = "since";
const SEQUENCE: &str = "sequence";
const ROUTES: &str = "routes";
const MACHINES: &str = "machines";
const SERVICES: &str = "services";
const INSTANCES: &str = "instances";
const VERSION: &str = "version";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    fn freshness() -> impl Strategy<Value = Freshness> {
        prop_oneof![Just(Freshness::Empty), Just(Freshness::Live), any::<u64>().prop_map(Freshness::LastGood)]
    }

    prop_compose! {
        fn counts()(
            routes in of(any::<u64>()),
            machines in of(any::<u64>()),
            services in of(any::<u64>()),
            instances in of(any::<u64>()),
        ) -> Counts {
            Counts { routes, machines, services, instances }
        }
    }

    prop_compose! {
        fn status()(
            freshness in freshness(),
            sequence in of(any::<u64>()),
            counts in counts(),
            version in of("[0-9a-z.+=-]{1,20}"),
        ) -> SidecarStatus {
            SidecarStatus { freshness, sequence, counts, version }
        }
    }

    proptest! {
        #[test]
        fn printed_status_parses_to_itself(status in status()) {
            prop_assert_eq!(status.to_string().parse(), Ok(status));
        }

        #[test]
        fn status_ignores_keys_and_words_of_other_builds(
            status in status(),
            key in "x-[a-z]{1,8}",
            value in "[^\\s]{0,12}",
            word in "[a-z,:]{1,8}",
        ) {
            let text = format!("{word} {key}={value} {status}  {key}={value}\n");
            prop_assert_eq!(text.parse(), Ok(status));
        }

        #[test]
        fn status_of_any_text_does_not_panic(text in ".{0,80}") {
            let _ = text.parse::<SidecarStatus>();
        }
    }

    /// What is written in the field: other builds read it, so it stays.
    #[test]
    fn status_line_is_a_contract() {
        let mut status = SidecarStatus::new(Freshness::LastGood(1_782_907_200), "0.4.0");
        status.sequence = Some(42);
        status.counts.routes = Some(3);
        let line = "freshness=last-good since=1782907200 sequence=42 routes=3 version=0.4.0";
        assert_eq!(status.to_string(), line);
        assert_eq!(SidecarStatus::new(Freshness::Live, "1").to_string(), "freshness=live version=1");
        assert_eq!(SidecarStatus::new(Freshness::Empty, "1").to_string(), "freshness=empty version=1");
    }

    #[test]
    fn text_without_a_known_freshness_is_no_status() {
        let bad = |text: &str| text.parse::<SidecarStatus>().unwrap_err();
        assert_eq!(bad(""), BadSidecarStatus::NoFreshness);
        assert_eq!(bad("3 routes, followed live"), BadSidecarStatus::NoFreshness);
        assert_eq!(bad("freshness=last-good"), BadSidecarStatus::NoSince);
        let value = |key, value: &str| BadSidecarStatus::Value { key, value: value.to_owned() };
        assert_eq!(bad("freshness=lively"), value("freshness", "lively"));
        assert_eq!(bad("freshness=live routes=many"), value("routes", "many"));
    }
}
