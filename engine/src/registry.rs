//! Registries, as this machine's engine asks them and fetches from them, and what the engine holds of an image by any of
//! the ways in which it can have come.
//!
//! A login goes to the engine in a header of the one request that needs it, which nothing prints.

use crate::docker::{Docker, INSPECT_TIMEOUT, limited};
use crate::error::{DockerError, Result};
use crate::login::Login;
use crate::read;
use crate::slot::Slot;
use bollard::models::{CreateImageInfo, ImageInspect, OciPlatform};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use parking_lot::Mutex;
use ployz_core::deploy::image::content;
use ployz_core::wire::v1::image::ImageFacts;
use ployz_core::wire::v1::manifest::{ImageDigest, ImageRef};
use ployz_core::wire::v1::pull::{PullFound, PullProgress};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An image as this engine holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the engine knows it by: the name asked for, its id, or the tag that stands for its digest.
    pub name: String,
    /// What makes it that one.
    pub facts: ImageFacts,
    /// What the registry of the name calls it.
    pub digests: BTreeSet<ImageDigest>,
    /// `linux/amd64`.
    pub platform: String,
}

/// How far a pull or a transfer is.
#[derive(Default)]
pub struct Progress {
    layers: Mutex<BTreeMap<String, Layer>>,
    /// Bytes sent to another machine.
    pub sent: Arc<AtomicU64>,
    /// Bytes to be sent, about.
    pub size: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Layer {
    there: bool,
    bytes: u64,
    of: u64,
}

impl Docker {
    /// What this engine holds of an image. One that is pinned is looked for by the digest, as pulled; by its id, as built
    /// or loaded; and by the tag that it gets where it was sent.
    pub async fn held(&self, image: &ImageRef) -> Result<Option<Held>> {
        for name in names(image) {
            let work = self.api.inspect_image(Slot::image(&name)?);
            match limited("inspect image", &name, INSPECT_TIMEOUT, work).await {
                Ok(found) => return held(image, name, found).map(Some),
                Err(DockerError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What the registry has under a name.
    pub async fn ask_registry(&self, image: &ImageRef, login: Option<&Login>) -> Result<PullFound> {
        let (what, subject) = ("ask the registry for", image.as_str());
        let login = login.and_then(Login::header);
        let work = self.api.inspect_registry_image(Slot::image(subject)?, login);
        let found = limited(what, subject, MANIFEST_TIMEOUT, work).await?;
        let digest = found.descriptor.digest.unwrap_or_default();
        let digest = digest.parse().map_err(|error| DockerError::Odd {
            operation: what,
            subject: subject.to_owned(),
            detail: format!("{error}"),
        })?;
        Ok(PullFound { digest, platforms: found.platforms.iter().filter_map(platform).collect() })
    }

    /// Fetches an image that is pinned. The engine has it whole or not at all afterwards, without a tag. Dropped, the engine
    /// stops.
    pub async fn fetch(&self, image: &ImageRef, login: Option<&Login>, progress: &Progress) -> Result<()> {
        let subject = image.to_string();
        let Some(name) = image.by_digest() else { return Err(DockerError::missing(PULL, subject)) };
        let options = CreateImageOptionsBuilder::new().from_image(name.as_str()).build();
        let mut steps = pin!(self.api.create_image(options, login.and_then(Login::header)));
        loop {
            match tokio::time::timeout(STALL_TIMEOUT, steps.next()).await {
                Err(_) => return Err(DockerError::Late { operation: PULL, subject, limit: STALL_TIMEOUT }),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(info))) => progress.note(&info),
                Ok(Some(Err(error))) => return Err(DockerError::of(PULL, &subject, error)),
            }
        }
    }
}

impl Progress {
    /// Where it stands.
    pub fn now(&self) -> PullProgress {
        let layers = self.layers.lock();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let sum = |of: fn(&Layer) -> u64| layers.values().map(of).sum::<u64>();
        PullProgress {
            layers: count(layers.values().filter(|layer| layer.there).count()),
            of_layers: count(layers.len()),
            bytes: sum(|layer| layer.bytes) + self.sent.load(Ordering::Relaxed),
            of_bytes: sum(|layer| layer.of) + self.size.load(Ordering::Relaxed),
        }
    }

    /// For people: what an engine calls its steps decides nothing.
    fn note(&self, info: &CreateImageInfo) {
        let Some(id) = info.id.as_ref().filter(|id| is_layer(id)) else { return };
        let mut layers = self.layers.lock();
        let layer = layers.entry(id.clone()).or_default();
        layer.there |= matches!(info.status.as_deref(), Some("Pull complete" | "Already exists"));
        let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        if let Some(detail) = &info.progress_detail {
            layer.of = layer.of.max(number(detail.total));
            layer.bytes = layer.bytes.max(number(detail.current).min(layer.of));
        }
    }
}

fn names(image: &ImageRef) -> Vec<String> {
    let mut names = vec![image.to_string()];
    names.extend(image.digest().map(|digest| digest.to_string()));
    names.extend(image.digest_tag().map(|tag| tag.to_string()));
    names
}

fn held(image: &ImageRef, name: String, found: ImageInspect) -> Result<Held> {
    let digests = found.repo_digests.iter().flatten().filter_map(|text| {
        let (repository, digest) = text.split_once('@')?;
        image.is_of(repository).then(|| digest.parse().ok())?
    });
    let digests = digests.collect();
    let id = read::image_id(&found)?;
    let created = found.created.clone().filter(|text| !text.is_empty());
    let parts = read::image(found);
    let platform = parts.platform.clone();
    Ok(Held { name, facts: ImageFacts { id, content: content(&parts), created }, digests, platform })
}

fn platform(platform: &OciPlatform) -> Option<String> {
    let (system, processor) = (platform.os.as_ref()?, platform.architecture.as_ref()?);
    // Attestations stand in lists of manifests as "unknown/unknown".
    let known = !system.is_empty() && !processor.is_empty() && system != "unknown";
    known.then(|| format!("{system}/{processor}"))
}

/// Engines name layers by twelve digits; a tag stands beside them.
fn is_layer(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const PULL: &str = "pull";
/// A registry answers within a second; a network that swallows everything never does.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Engines tell of every step, and of bytes several times a second; unpacking a large layer is the longest silence.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use ployz_core::deploy::registry;
    use ployz_core::wire::v1::api::ErrorCode;
    use serde_json::json;

    #[tokio::test]
    async fn a_pinned_image_is_found_by_digest_id_or_the_tag_it_was_sent_under() {
        let (fake, digest) = (Fake::start("1.45"), format!("sha256:{}", "a".repeat(64)));
        let docker = fake.connect().await;
        let image: ImageRef = format!("r.example.org/web:1@{digest}").parse().unwrap();
        assert_eq!(docker.held(&image).await.unwrap(), None);
        for name in [format!("r.example.org/web:sha256-{}", "a".repeat(64)), digest, image.to_string()] {
            fake.state.lock().images.insert(name.clone(), format!("sha256:{}", "2".repeat(64)));
            assert_eq!(docker.held(&image).await.unwrap().unwrap().name, name);
        }
    }

    #[test]
    fn progress_counts_layers_and_bytes() {
        let progress = Progress::default();
        let layer = "0123456789ab";
        for line in [
            json!({"id": "1.27", "status": "Pulling from web"}),
            json!({"id": "aaaaaaaaaaaa", "status": "Already exists"}),
            json!({"id": layer, "status": "Pulling fs layer"}),
            json!({"id": layer, "status": "Downloading", "progressDetail": {"current": 10, "total": 100}}),
            json!({"id": layer, "status": "Downloading", "progressDetail": {"current": 100, "total": 100}}),
            json!({"id": layer, "status": "Extracting", "progressDetail": {"current": 5, "total": 100}}),
        ] {
            progress.note(&serde_json::from_value(line).unwrap());
        }
        assert_eq!(progress.now(), PullProgress { layers: 1, of_layers: 2, bytes: 100, of_bytes: 100 });
        progress.note(&serde_json::from_value(json!({"id": layer, "status": "Pull complete"})).unwrap());
        assert_eq!(progress.now().layers, 2);
    }

    #[test]
    fn digests_are_those_of_the_names_own_registry() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let found: ImageInspect = serde_json::from_value(json!({
            "Id": digest("1"),
            "RepoDigests": [format!("web@{}", digest("a")), format!("r.example.org/web@{}", digest("b"))],
        }))
        .unwrap();
        let of = |name: &str| held(&name.parse().unwrap(), String::new(), found.clone()).unwrap().digests;
        assert_eq!(of("docker.io/library/web:1"), [digest("a").parse().unwrap()].into());
        assert_eq!(of("r.example.org/web:1"), [digest("b").parse().unwrap()].into());
        assert_eq!(of("other"), BTreeSet::new());
    }

    #[tokio::test]
    async fn an_engine_asks_and_pulls_with_the_login_and_says_why_it_could_not() {
        let (fake, digest) = (Fake::start("1.45"), format!("sha256:{}", "a".repeat(64)));
        let docker = fake.connect().await;
        let (name, login) = ("r.example.org/web:1".parse::<ImageRef>().unwrap(), Login::sample());
        let image = name.pinned(&digest.parse().unwrap()).unwrap();
        let platforms =
            json!([{"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"}]);
        let body = json!({"Descriptor": {"digest": digest}, "Platforms": platforms});
        fake.state.lock().registry = Some((200, body));
        let found = docker.ask_registry(&name, Some(&login)).await.unwrap();
        assert_eq!(
            (found.digest.as_str(), found.platforms),
            (digest.as_str(), vec!["linux/amd64".to_owned()])
        );

        fake.state.lock().registry = Some((401, json!({"message": "unauthorized: authentication required"})));
        let error = docker.ask_registry(&name, None).await.unwrap_err();
        assert_eq!(error.status(), Some(401));

        let progress = Progress::default();
        let why = "toomanyrequests: You have reached your pull rate limit";
        fake.state.lock().pulls = vec![json!({"errorDetail": {"message": why}, "error": why})];
        let error = docker.fetch(&image, Some(&login), &progress).await.unwrap_err();
        let words = ployz_core::text::chain(&error);
        assert_eq!(registry::code(error.status(), &words), ErrorCode::RegistryRateLimited, "{words}");
        assert_eq!(docker.held(&image).await.unwrap(), None);

        fake.state.lock().pulls = vec![json!({"status": "Pull complete", "id": "0123456789ab"})];
        docker.fetch(&image, None, &progress).await.unwrap();
        assert_eq!(progress.now().layers, 1);
        let held = fake.state.lock();
        assert!(held.images.contains_key(&format!("r.example.org/web@{digest}")), "{:?}", held.images);
        assert_eq!(held.logins.len(), 2, "with a login, and none without");
        let secret = held.asked.iter().find(|line| line.contains(&held.logins[0]));
        assert_eq!(secret, None, "it is no part of what is asked for");
    }
}
