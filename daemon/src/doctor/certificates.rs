//! Certificates that this machine's gateway shows: those of the store, as it keeps them on disk, and the pair of files.

use super::context::{Ground, Running};
use ployz_core::wire::v1::certificate::CertificateFacts;
use ployz_core::wire::v1::doctor::Check;
use ployz_host::clock;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

pub(super) fn checks(ground: &Ground<'_>) -> Vec<Check> {
    let (Some(running), Some(_)) = (&ground.network, ground.config().gateway_https_listen_addr) else {
        return Vec::new();
    };
    let now = clock::now();
    let stored = variable(running, "PLOYZ_GATEWAY_SNAPSHOT")
        .map(|routes| judge(STORED, "`ployzctl cert import` its successor", kept(&routes), now));
    let pair = variable(running, "PLOYZ_GATEWAY_TLS_CERT_PATH").map(|chain| {
        let advice = format!(
            "replace {} and its key, then `systemctl restart ployz-gateway` (no connection is refused meanwhile)",
            chain.display()
        );
        judge(PAIR, &advice, pair(&chain), now)
    });
    stored.into_iter().chain(pair).collect()
}

/// As the process has it: the daemon's own environment may say more than a doctor without a daemon knows.
fn variable(running: &Running, name: &str) -> Option<PathBuf> {
    let live = running.live.gateway.present().and_then(|live| live.unit.as_ref());
    let has = live.and_then(|unit| unit.identity.fields().get(&format!("env.{name}")));
    has.or_else(|| running.spec.gateway.unit.environment.get(name)).map(PathBuf::from)
}

/// One certificate: whether a later one for the same name takes its place, and what it says.
struct Found {
    revision: u64,
    facts: Option<CertificateFacts>,
}

/// What the gateway keeps beside its routes (`ployz-gateway`, module `kept`); of a record only the chain is read.
fn kept(routes: &Path) -> io::Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct Body {
        held: BTreeMap<String, (u64, Record)>,
    }
    #[derive(Deserialize)]
    struct Record {
        chain: String,
    }
    let bytes = match fs::read(routes.with_file_name("certificates.json")) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = bytes.iter().position(|&byte| byte == b'\n').map_or(&bytes[..0], |end| &bytes[end + 1..]);
    // The error of a parser may hold what it stumbled over.
    let body: Body = serde_json::from_slice(text)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it was not written by this release"))?;
    let found = |(revision, record): (u64, Record)| Found {
        revision,
        facts: CertificateFacts::of_pem(&record.chain).ok(),
    };
    Ok(body.held.into_values().map(found).collect())
}

fn pair(chain: &Path) -> io::Result<Vec<Found>> {
    let facts = CertificateFacts::of_pem(&fs::read_to_string(chain)?).ok();
    Ok(vec![Found { revision: 0, facts }])
}

fn judge(check: &str, advice: &str, found: io::Result<Vec<Found>>, now: u64) -> Check {
    let found = match found {
        Ok(found) => found,
        Err(error) => return Check::warn(check, format!("cannot be read: {error}"), "run this as root"),
    };
    let unreadable = found.iter().filter(|one| one.facts.is_none()).count();
    let ends = ends(found.into_iter().filter_map(|one| Some((one.revision, one.facts?))), now);
    let of = |wanted: fn(i64) -> bool| {
        let names = ends.iter().filter(|(_, left)| wanted(**left));
        let mut words: Vec<String> = names.map(|(name, left)| format!("{name} {}", expiry(*left))).collect();
        let more = words.len().saturating_sub(SHOWN);
        words.truncate(SHOWN);
        words.extend((more > 0).then(|| format!("and {more} more")));
        words.join(", ")
    };
    let (ended, soon) = (of(|left| left < 0), of(|left| (0..EXPIRY_WARNING_SECS).contains(&left)));
    if !ended.is_empty() {
        let rest = if soon.is_empty() { soon } else { format!(", {soon}") };
        Check::fail(check, format!("{ended}{rest}"), advice)
    } else if unreadable > 0 {
        Check::fail(check, format!("{unreadable} cannot be used: not a certificate for names"), advice)
    } else if !soon.is_empty() {
        Check::warn(check, soon, advice)
    } else {
        let first = ends.iter().min_by_key(|(_, left)| **left);
        let seen = first.map_or_else(
            || "none: HTTPS has no certificate to serve".to_owned(),
            |(name, left)| format!("{} names, the first to expire: {name} {}", ends.len(), expiry(*left)),
        );
        Check::ok(check, seen)
    }
}

/// How many seconds are left of each name. Of several certificates for one name the gateway shows one that is valid, and of
/// those the one that came last.
fn ends(found: impl Iterator<Item = (u64, CertificateFacts)>, now: u64) -> BTreeMap<String, i64> {
    let mut found: Vec<_> =
        found.map(|(revision, facts)| (facts.check(now).is_ok(), revision, facts)).collect();
    found.sort_by_key(|(valid, revision, _)| (*valid, *revision));
    let left = |until: u64| i64::try_from(until).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(i64::MAX);
    let named = |(_, _, facts): (bool, u64, CertificateFacts)| {
        let left = left(facts.not_after);
        facts.names.into_iter().map(move |name| (name, left))
    };
    found.into_iter().flat_map(named).collect()
}

fn expiry(left: i64) -> String {
    match left / DAY {
        _ if left < 0 => format!("expired {} days ago", -left / DAY),
        days => format!("expires in {days} days"),
    }
}

const STORED: &str = "certificates";
const PAIR: &str = "certificate-files";
const DAY: i64 = 86_400;
/// Time enough to get another one.
const EXPIRY_WARNING_SECS: i64 = 14 * DAY;
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::wire::v1::doctor::Level;

    const NOW: u64 = 1_700_000_000;

    fn found(names: &[&str], revision: u64, days: i64) -> Found {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let not_after = NOW.saturating_add_signed(days * DAY);
        Found {
            revision,
            facts: Some(CertificateFacts { names, not_before: 0, not_after, fingerprint: String::new() }),
        }
    }

    fn judged(found: Vec<Found>) -> (Level, String) {
        let check = judge(STORED, "import", Ok(found), NOW);
        (check.level, check.seen)
    }

    #[test]
    fn what_ends_soon_is_named_and_what_has_ended_fails() {
        assert_eq!(judged(vec![]).0, Level::Ok);
        let (level, seen) = judged(vec![found(&["a.org", "b.org"], 1, 90), found(&["c.org"], 2, 14)]);
        assert_eq!(
            (level, seen.as_str()),
            (Level::Ok, "3 names, the first to expire: c.org expires in 14 days")
        );
        let (level, seen) = judged(vec![found(&["a.org"], 1, 90), found(&["c.org"], 2, 13)]);
        assert_eq!((level, seen.as_str()), (Level::Warn, "c.org expires in 13 days"));
        let (level, seen) = judged(vec![found(&["a.org"], 1, -3), found(&["c.org"], 2, 0)]);
        assert_eq!(
            (level, seen.as_str()),
            (Level::Fail, "a.org expired 3 days ago, c.org expires in 0 days")
        );
        let names: Vec<String> = (0..8).map(|n| format!("{n}.org")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(judged(vec![found(&names, 1, 1)]).1.ends_with("and 3 more"));
    }

    #[test]
    fn one_that_another_has_taken_the_place_of_is_not_missed() {
        let names = ["a.org"];
        assert_eq!(judged(vec![found(&names, 1, 2), found(&names, 2, 90)]).0, Level::Ok);
        assert_eq!(
            judged(vec![found(&names, 1, 90), found(&names, 2, -2)]).0,
            Level::Ok,
            "the valid one is shown"
        );
        assert_eq!(
            judged(vec![found(&names, 1, 90), found(&names, 2, 2)]).0,
            Level::Warn,
            "the last one is shown"
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_good() {
        let junk = Found { revision: 1, facts: None };
        assert_eq!(judged(vec![junk]).0, Level::Fail);
        let denied = judge(PAIR, "replace", Err(io::ErrorKind::PermissionDenied.into()), NOW);
        assert_eq!(denied.level, Level::Warn);
        let dir = std::env::temp_dir().join(format!("ployz-doctor-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(kept(&dir.join("routes")).unwrap().len(), 0, "none was ever kept");
        fs::write(
            dir.join("certificates.json"),
            "ployz-certificates 1 x\n{\"held\": {\"a\": [3, {\"chain\": \"\"}]}}",
        )
        .unwrap();
        let found = kept(&dir.join("routes")).unwrap();
        assert!(found.len() == 1 && found[0].revision == 3 && found[0].facts.is_none());
        fs::write(dir.join("certificates.json"), "ployz-certificates 1 x").unwrap();
        assert!(kept(&dir.join("routes")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
