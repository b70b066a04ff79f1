//! The parts of an image's name, by the grammar of github.com/distribution/reference, and what engines make of them.

use crate::wire::v1::manifest::{ImageDigest, ImageRef};

impl ImageRef {
    /// The digest that pins it.
    pub fn digest(&self) -> Option<ImageDigest> {
        self.as_str().split_once('@').and_then(|(_, digest)| digest.parse().ok())
    }

    /// Registry and path, without tag and digest.
    pub fn repository(&self) -> &str {
        let name = self.name();
        match name.rsplit_once(':') {
            // A colon before the last slash is the registry's port.
            Some((path, tag)) if !tag.contains('/') => path,
            _ => name,
        }
    }

    /// Where it is asked for: the name's first part where that can be a host, else Docker's own.
    pub fn registry(&self) -> &str {
        match self.repository().split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => DOCKER_HUB,
        }
    }

    /// The same image and no other, whatever its tag leads to later; with the tag, for people. `None`: that is too long
    /// for a name.
    pub fn pinned(&self, digest: &ImageDigest) -> Option<Self> {
        format!("{}@{digest}", self.name()).parse().ok()
    }

    /// One that is pinned by its digest alone, as an engine pulls it.
    pub fn by_digest(&self) -> Option<Self> {
        format!("{}@{}", self.repository(), self.digest()?).parse().ok()
    }

    /// For one that is pinned, a tag that says which digest it stands for. An engine that got an image from another one
    /// has it under a tag alone: archives hold no digests of a registry.
    pub fn digest_tag(&self) -> Option<Self> {
        format!("{}:{}", self.repository(), self.digest()?.as_str().replace(':', "-")).parse().ok()
    }

    /// Whether an engine's `repository@digest` is of this one's repository, however short either is written.
    pub fn is_of(&self, repository: &str) -> bool {
        short(self.repository()) == short(repository)
    }

    fn name(&self) -> &str {
        self.as_str().split_once('@').map_or(self.as_str(), |(name, _)| name)
    }
}

/// Without what Docker leaves out of names of its own registry.
fn short(repository: &str) -> &str {
    let own = ["docker.io/", "index.docker.io/"].iter().find_map(|host| repository.strip_prefix(host));
    let path = own.unwrap_or(repository);
    path.strip_prefix("library/").unwrap_or(path)
}

/// The registry of names without a host.
pub const DOCKER_HUB: &str = "docker.io";

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_falls_into_its_parts() {
        let hex = "0a".repeat(32);
        for (text, registry, repository) in [
            ("nginx", "docker.io", "nginx"),
            ("nginx:alpine", "docker.io", "nginx"),
            ("team/app:1", "docker.io", "team/app"),
            ("localhost/app", "localhost", "localhost/app"),
            (
                "registry.example.org:5000/team/app:1",
                "registry.example.org:5000",
                "registry.example.org:5000/team/app",
            ),
            ("10.0.0.1:5000/app", "10.0.0.1:5000", "10.0.0.1:5000/app"),
        ] {
            for text in [text.to_owned(), format!("{text}@sha256:{hex}")] {
                assert_eq!(
                    (image(&text).registry(), image(&text).repository()),
                    (registry, repository),
                    "{text}"
                );
            }
        }
        assert_eq!(image("nginx:1").digest(), None);
        let digest: ImageDigest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(image(&format!("nginx:1@sha256:{hex}")).digest(), Some(digest.clone()));
        let pinned = image("r:1/nginx:1").pinned(&digest).unwrap();
        assert_eq!(pinned.to_string(), format!("r:1/nginx:1@sha256:{hex}"));
        assert_eq!(pinned.by_digest().unwrap().to_string(), format!("r:1/nginx@sha256:{hex}"));
        assert_eq!(pinned.digest_tag().unwrap().to_string(), format!("r:1/nginx:sha256-{hex}"));
        assert_eq!((image("nginx").by_digest(), image("nginx").digest_tag()), (None, None));
        assert_eq!(image(&"a".repeat(500)).pinned(&digest), None);
    }

    #[test]
    fn docker_leaves_its_own_registry_out_of_names() {
        for (text, repository) in [
            ("nginx:1", "nginx"),
            ("docker.io/library/nginx", "nginx"),
            ("nginx", "docker.io/library/nginx"),
            ("index.docker.io/team/app", "team/app"),
        ] {
            assert!(image(text).is_of(repository), "{text} {repository}");
        }
        assert!(!image("nginx").is_of("registry.example.org/nginx"));
        assert!(!image("team/nginx").is_of("nginx"));
    }

    #[test]
    fn a_digest_is_64_digits_and_nothing_else() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert!(good.parse::<ImageDigest>().is_ok());
        for bad in ["", "sha256:", "sha512:00", "sha256:../../containers", &good[..70], &good.to_uppercase()]
        {
            assert!(bad.parse::<ImageDigest>().is_err(), "{bad}");
        }
        assert!(format!("{good}0").parse::<ImageDigest>().is_err());
    }
}
