//! Images from one machine's engine to another's: what is asked of a machine over the store (`...rpc.<machine>.image.*`),
//! the words on a transfer connection, and the operator API's part (`image-push`, `image-push-preview`).
//!
//! The machine that gets an image opens the connection to the one that has it and shows a ticket, which says at the
//! other end what is to be sent. So the opening names no kind of transfer: whatever else is sent later needs no other.

use crate::id::{ImageId, MachineId, NetworkId};
use crate::wire::v1::deploy::{DeployFailure, ImageContent};
use crate::wire::v1::manifest::ImageRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What makes an image that one and no other.
///
/// Engines that store images in different ways (Docker's own store, containerd's) call the same image by different ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The engine's id of it.
    pub id: ImageId,
    /// Fingerprint of layers and configuration, the same on every engine.
    pub content: ImageContent,
    /// When it was built, as the image itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// A command to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command")]
pub enum ImageCommand {
    /// What have you of it? Changes nothing.
    #[serde(rename = "image.look")]
    Look(ImageWanted),
    /// Give the name to the image that you have under another.
    #[serde(rename = "image.name")]
    Name(ImageWanted),
    /// Fetch it from another machine. Answered when the connection stands; how it ends is said on the connection.
    #[serde(rename = "image.fetch")]
    Fetch(ImageFetch),
}

/// An image and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageWanted {
    /// The network: a machine that is in another one refuses.
    pub network: NetworkId,
    /// The name, with a tag.
    pub image: ImageRef,
    /// The image.
    pub facts: ImageFacts,
}

/// From whom to fetch an image.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFetch {
    /// What.
    #[serde(flatten)]
    pub wanted: ImageWanted,
    /// The machine that has it.
    pub from: MachineId,
    /// Its transfer port.
    pub port: u16,
    /// What to show there: 64 hexadecimal digits, a secret that is good once and for this machine.
    pub ticket: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum ImageAnswer {
    /// Of a look.
    Looked(ImageLook),
    /// Of a naming; on a transfer connection: the image is there, under its name.
    Done,
    /// Of a fetch: the connection stands.
    Fetching,
    /// Not done, and why.
    Failed(DeployFailure),
}

/// What a machine has of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLook {
    /// What the name leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<ImageFacts>,
    /// Whether the image itself is there, under whatever name.
    pub there: bool,
}

/// The first word on a transfer connection, from the machine that opened it.
#[derive(Serialize, Deserialize)]
pub struct Opening {
    /// [`TRANSFER_VERSION`].
    pub version: u32,
    /// The ticket.
    pub ticket: String,
}

/// `image-push`, `image-push-preview`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePushRequest {
    /// The image, by a name of this machine's engine.
    pub image: ImageRef,
    /// To which machines; none = to all members.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub to: BTreeSet<MachineId>,
}

/// `image-push`: how it went, also when it failed for some. `image-push-preview`: what it would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePushReport {
    /// The image's name, with a tag.
    pub image: ImageRef,
    /// This machine's engine's id of it.
    pub id: ImageId,
    /// Bytes it takes here.
    pub size: u64,
    /// By name.
    pub machines: Vec<ImagePushRow>,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePushRow {
    /// Which.
    pub machine: MachineId,
    /// How it stands there.
    pub state: ImageState,
    /// Bytes sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long that took, the engine's part too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<DeployFailure>,
}

/// How an image stands on a machine.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ImageState {
    /// It is there under its name: nothing to do.
    Present,
    /// Preview: it is there under another name, and would get this one.
    Unnamed,
    /// Preview: it is not there, and would be sent.
    Missing,
    /// Preview: the name leads to another image there, and would lead to this one.
    Differs,
    /// It was there and got its name.
    Named,
    /// It was sent.
    Sent,
    /// It is not there.
    Failed,
}

impl ImageFacts {
    /// Whether both are the same image. Ids decide where they are equal; where they are not, two stores may have named
    /// one image: then what it holds and when it was built decide.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
            || (self.content == other.content && self.created.is_some() && self.created == other.created)
    }
}

impl ImageLook {
    /// What that means for a machine that is to have this image.
    pub fn state(&self, wanted: &ImageFacts) -> ImageState {
        match &self.named {
            Some(named) if named.is(wanted) => ImageState::Present,
            _ if self.there => ImageState::Unnamed,
            Some(_) => ImageState::Differs,
            None => ImageState::Missing,
        }
    }
}

impl ImageCommand {
    /// Its subject's end.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Look(_) => "image.look",
            Self::Name(_) => "image.name",
            Self::Fetch(_) => "image.fetch",
        }
    }

    /// The image it is about.
    pub fn wanted(&self) -> &ImageWanted {
        match self {
            Self::Look(wanted) | Self::Name(wanted) => wanted,
            Self::Fetch(fetch) => &fetch.wanted,
        }
    }
}

impl ImageState {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl fmt::Debug for ImageFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, from, port, .. } = self;
        f.debug_struct("ImageFetch").field("wanted", wanted).field("from", from).field("port", port).finish()
    }
}

/// A reference with its tag, as engines complete one that has none; `None` for one with a digest, which names no tag.
pub fn tagged(image: &ImageRef) -> Option<ImageRef> {
    let text = image.as_str();
    if text.contains('@') {
        return None;
    }
    // A colon before the last slash is the registry's port.
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains(':') { Some(image.clone()) } else { format!("{text}:latest").parse().ok() }
}

/// Of the words on a transfer connection.
pub const TRANSFER_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// An id that ends as said.
    fn image_id(end: &str) -> ImageId {
        format!("sha256:{end:0>64}").parse().unwrap()
    }

    fn facts(id: &str, content: &str, created: Option<&str>) -> ImageFacts {
        ImageFacts {
            id: image_id(id),
            content: ImageContent(content.into()),
            created: created.map(str::to_owned),
        }
    }

    #[test]
    fn two_stores_may_name_one_image_but_a_rebuilt_one_is_another() {
        let here = facts("1", "v1:a", Some("2026-01-01T00:00:00Z"));
        assert!(here.is(&facts("1", "v1:a", Some("2026-01-01T00:00:00Z"))));
        assert!(here.is(&facts("2", "v1:a", Some("2026-01-01T00:00:00Z"))), "another store");
        assert!(!here.is(&facts("2", "v1:a", Some("2026-01-02T00:00:00Z"))), "labels may differ");
        assert!(!here.is(&facts("2", "v1:b", Some("2026-01-01T00:00:00Z"))));
        assert!(!facts("1", "v1:a", None).is(&facts("2", "v1:a", None)), "unknown is not equal");
    }

    #[test]
    fn a_look_says_what_is_to_be_done() {
        let wanted = facts("1", "v1:a", None);
        let look =
            |named: Option<&str>, there| ImageLook { named: named.map(|id| facts(id, id, None)), there };
        assert_eq!(look(Some("1"), true).state(&wanted), ImageState::Present);
        assert_eq!(look(Some("2"), true).state(&wanted), ImageState::Unnamed);
        assert_eq!(look(None, true).state(&wanted), ImageState::Unnamed);
        assert_eq!(look(Some("2"), false).state(&wanted), ImageState::Differs);
        assert_eq!(look(None, false).state(&wanted), ImageState::Missing);
    }

    #[test]
    fn a_reference_gets_the_tag_that_engines_give_it() {
        let of = |text: &str| tagged(&text.parse().unwrap()).map(|image| image.to_string());
        assert_eq!(of("web").as_deref(), Some("web:latest"));
        assert_eq!(of("web:2").as_deref(), Some("web:2"));
        assert_eq!(
            of("registry.example.org:5000/web").as_deref(),
            Some("registry.example.org:5000/web:latest")
        );
        assert_eq!(of(&format!("web@sha256:{}", "0".repeat(64))), None);
    }

    #[test]
    fn an_id_that_could_leave_its_place_in_a_path_is_no_id() {
        let good = serde_json::json!({"id": image_id("a"), "content": "v1:a"});
        let of = |id: &str| {
            let mut facts = good.clone();
            facts["id"] = id.into();
            serde_json::from_value::<ImageFacts>(facts)
        };
        assert!(of(image_id("a").as_str()).is_ok());
        for bad in [
            "",
            "sha256:1",
            "../containers/foreign/kill?x=",
            "../volumes/prune?x=",
            &format!("{}/../../containers/prune", image_id("a")),
            &format!("{}?x=", image_id("a")),
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha256:{}", "%".repeat(64)),
            &format!("sha512:{}", "a".repeat(64)),
            &"a".repeat(64),
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ticket_is_not_shown() {
        let fetch = ImageFetch {
            wanted: ImageWanted {
                network: "0".repeat(32).parse().unwrap(),
                image: "web:2".parse().unwrap(),
                facts: facts("1", "v1:a", None),
            },
            from: "n1".parse().unwrap(),
            port: 4319,
            ticket: "secret".into(),
        };
        assert!(!format!("{fetch:?}").contains("secret"));
        let command = ImageCommand::Fetch(fetch);
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<ImageCommand>(&text).unwrap(), command);
    }
}
