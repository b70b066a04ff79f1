//! The certificates of the store: followed for as long as the gateway runs, kept on disk for a start without the store.
//!
//! What is served changes only by a whole picture: all there is at the beginning of a connection to the store, and each change
//! after that. A loss of the store changes nothing; nothing that cannot be read takes anything else away.

use crate::kept;
use crate::tls::{Certificates, Pair};
use ployz_core::id::{MachineId, NetworkId};
use ployz_core::wire::v1::certificate::{CertificateFacts, CertificateRecord};
use ployz_host::backoff::Backoff;
use ployz_nats::bucket::{self, Change};
use ployz_nats::certificates::{Lost, Session};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Where they come from and where they go.
pub struct Following {
    /// Client address of this machine's NATS server.
    pub server: SocketAddr,
    /// Seed of the gateway's NATS user.
    pub seed: Zeroizing<String>,
    /// The network.
    pub network: NetworkId,
    /// This machine.
    pub machine: MachineId,
    /// Where they are kept on disk; holds private keys.
    pub path: Option<PathBuf>,
    /// Where they are served from.
    pub certificates: Arc<Certificates>,
}

/// The certificates of the store: those on disk are served, the store is followed from [`Self::follow`] on.
pub struct Stored {
    following: Following,
    held: Held,
}

/// What the bucket holds, by key, with the revision of each.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Held(BTreeMap<String, (u64, CertificateRecord)>);

type Revised = bucket::Stored<CertificateRecord>;

/// Takes the keys that an earlier gateway kept here off the disk: nobody can ask for HTTPS any more.
pub fn forget(path: &std::path::Path) {
    kept::remove(path);
}

impl Stored {
    /// Serves what is on disk. To be called before connections are taken: whoever comes between one gateway and the next
    /// would be told that there is no certificate.
    pub fn from_disk(following: Following) -> Self {
        let mut held = Held::default();
        if let Some(path) = &following.path {
            match kept::load(path, &following.network) {
                Ok(found) => held = found.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "cannot use the certificates on disk")
                }
            }
        }
        following.serve(&held);
        Self { following, held }
    }

    /// Follows the store for ever.
    pub async fn follow(self) {
        let Self { following, mut held } = self;
        let (mut said, mut backoff) = (String::new(), Backoff::new(RETRY_DELAY, RETRY_DELAY_MAX));
        loop {
            let begun = tokio::time::Instant::now();
            let Err(lost) = Box::pin(following.session(&mut held)).await;
            following.certificates.set_live(false);
            let text = ployz_core::text::chain(lost.as_ref());
            if text != said {
                tracing::warn!(
                    error = text,
                    "cannot follow the certificates in the store; still serving the known ones"
                );
                said = text;
            }
            if begun.elapsed() > STEADY_AFTER {
                backoff.reset();
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }
}

impl Following {
    async fn session(&self, held: &mut Held) -> Result<std::convert::Infallible, Lost> {
        let mut session = Session::open(self.server, &self.seed, &self.machine).await?;
        let (mut whole, mut caught) = (Held::default(), false);
        loop {
            let change = session.next().await?;
            caught |= matches!(change, Change::Caught);
            whole.apply(change, held);
            if caught {
                self.take(held, &whole).await;
            }
        }
    }

    /// A whole picture: served, and on disk.
    async fn take(&self, held: &mut Held, whole: &Held) {
        self.certificates.set_live(true);
        if held.revisions().eq(whole.revisions()) {
            return;
        }
        *held = whole.clone();
        self.serve(held);
        tracing::info!(certificates = %self.certificates, "certificates taken from the store");
        let Some(path) = self.path.clone() else { return };
        let (network, copy) = (self.network.clone(), held.clone());
        let saved = tokio::task::spawn_blocking(move || kept::save(&path, &network, &copy)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "cannot write the certificates to disk");
        }
    }

    fn serve(&self, held: &Held) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.certificates.set_stored(held.named(now));
    }
}

impl Held {
    fn revisions(&self) -> impl Iterator<Item = (&String, u64)> {
        self.0.iter().map(|(key, (revision, _))| (key, *revision))
    }

    fn apply(&mut self, change: Change<Revised>, before: &Self) {
        match change {
            Change::Put(key, revised) => {
                self.0.insert(key, (revised.revision, revised.value));
            }
            Change::Gone(key) => {
                self.0.remove(&key);
            }
            Change::Unreadable(key) => {
                tracing::warn!(key, "a certificate in the store cannot be read");
                if let (None, Some(known)) = (self.0.get(&key), before.0.get(&key)) {
                    self.0.insert(key, known.clone());
                }
            }
            Change::Caught | Change::Hiccup(_) => {}
        }
    }

    /// Every name with its certificate. Where several are for one name it is one that is valid now, and of those the one
    /// that was imported last.
    fn named(&self, now: u64) -> Vec<(String, Pair)> {
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter_map(|(key, (revision, record))| {
                let facts = CertificateFacts::of_pem(&record.chain);
                let pair = Pair::from_pem(record.chain.as_bytes(), record.key.expose().as_bytes());
                match (facts, pair) {
                    (Ok(facts), Ok(pair)) => Some((facts.check(now).is_ok(), *revision, facts.names, pair)),
                    _ => {
                        tracing::error!(key, "a certificate in the store cannot be used: it is skipped");
                        None
                    }
                }
            })
            .collect();
        // Of one name the last is taken.
        found.sort_by_key(|(valid, revision, ..)| (*valid, *revision));
        let named = |(_, _, names, pair): (bool, u64, Vec<String>, Pair)| {
            names.into_iter().map(move |name| (name, pair.clone()))
        };
        found.into_iter().flat_map(named).collect()
    }
}

const RETRY_DELAY: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// A connection that held for as long was a good one.
const STEADY_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str], until: i32) -> CertificateRecord {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        CertificateRecord {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem().into(),
            machine: "n1".parse().unwrap(),
            imported_at: 0,
        }
    }

    fn put_at(key: &str, revision: u64, value: CertificateRecord) -> Change<Revised> {
        Change::Put(key.into(), Revised { value, revision })
    }

    fn until(held: &Held, name: &str) -> Option<u64> {
        let certificates = held.named(1_700_000_000);
        certificates.iter().rev().find(|(found, _)| found == name).map(|(_, pair)| pair.not_after())
    }

    #[test]
    fn of_several_for_one_name_the_valid_one_that_came_last_is_served() {
        let (mut held, none) = (Held::default(), Held::default());
        let put = |held: &mut Held, key: &str, revision, record| {
            held.apply(put_at(key, revision, record), &none);
        };
        put(&mut held, "a.org", 5, record(&["a.org"], 2050));
        put(&mut held, "b.org", 3, record(&["b.org", "a.org"], 2060));
        put(&mut held, "c.org", 9, record(&["c.org", "a.org"], 2021));
        assert_eq!(until(&held, "a.org"), Some(2_524_608_000), "2050");
        assert!(until(&held, "c.org").is_some(), "one that has expired says so itself");
        held.apply(Change::Gone("a.org".into()), &none);
        assert_eq!(until(&held, "a.org"), Some(2_840_140_800), "2060");
    }

    #[test]
    fn what_cannot_be_read_takes_nothing_away() {
        let mut before = Held::default();
        before.0.insert("a.org".into(), (1, record(&["a.org"], 2050)));
        let mut whole = Held::default();
        whole.apply(Change::Unreadable("a.org".into()), &before);
        whole.apply(Change::Unreadable("b.org".into()), &before);
        assert_eq!(whole.named(0).len(), 1);
        let mut damaged = record(&["b.org"], 2050);
        damaged.key = "junk".to_owned().into();
        whole.apply(put_at("b.org", 2, damaged), &before);
        assert_eq!(whole.named(0).len(), 1);
    }

    #[test]
    fn what_is_kept_is_the_gateways_alone_and_read_back_whole_or_not_at_all() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("ployz-gateway-kept-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("certificates.json");
        let network = NetworkId::from_bytes([7; 16]);
        assert!(kept::load(&path, &network).unwrap().is_none());
        let mut held = Held::default();
        held.0.insert("a.org".into(), (4, record(&["a.org"], 2050)));
        kept::save(&path, &network, &held).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = kept::load(&path, &network).unwrap().unwrap();
        assert!(found.revisions().eq(held.revisions()) && found.named(0).len() == 1);
        assert!(kept::load(&path, &NetworkId::from_bytes([8; 16])).is_err());
        let mut text = std::fs::read(&path).unwrap();
        *text.last_mut().unwrap() ^= 1;
        std::fs::write(&path, text).unwrap();
        assert!(kept::load(&path, &network).is_err());
        kept::remove(&path);
        assert!(!path.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
