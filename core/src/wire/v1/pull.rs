//! Images from registries: what is asked of a machine over the store (`...rpc.<machine>.pull.*`).
//!
//! A machine asks and fetches only what a coordinator names, by a name of one grammar and, but for the question, a digest;
//! its registry is the name's own and its login there the machine's own. What takes long is *begun* by a command and
//! looked at by the same command again: a machine that is not looked at any more gives up.

use crate::id::{MachineId, NetworkId};
use crate::wire::v1::deploy::DeployFailure;
use crate::wire::v1::manifest::{ImageDigest, ImageRef};
use serde::{Deserialize, Serialize};

/// A command to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command")]
pub enum PullCommand {
    /// What has the registry under this name? Changes nothing.
    #[serde(rename = "pull.ask")]
    Ask(PullWanted),
    /// Fetch it from its registry, or say how far you are.
    #[serde(rename = "pull.fetch")]
    Fetch(PullWanted),
    /// Send it to a machine, or say how far you are.
    #[serde(rename = "pull.give")]
    Give(PullGive),
    /// Let the name lead to what you have of it.
    #[serde(rename = "pull.name")]
    Name(PullName),
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullWanted {
    /// The network: a machine that is in another one refuses.
    pub network: NetworkId,
    /// Its name, pinned by a digest but for the question.
    pub image: ImageRef,
}

/// An image and who is to get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullGive {
    /// What, pinned.
    #[serde(flatten)]
    pub wanted: PullWanted,
    /// Who.
    pub to: MachineId,
}

/// An image and the name it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullName {
    /// What, pinned.
    #[serde(flatten)]
    pub wanted: PullWanted,
    /// The name, with or without a tag.
    pub name: ImageRef,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum PullAnswer {
    /// Of a question.
    Found(PullFound),
    /// Of what takes long: not there yet.
    Working(PullProgress),
    /// It is there.
    Done,
    /// Not done, and why.
    Failed(DeployFailure),
}

/// What a registry has under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullFound {
    /// The digest of its manifest, or of the list of them.
    pub digest: ImageDigest,
    /// `linux/amd64`; none = not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// Layers that are there.
    pub layers: u32,
    /// Layers of the image, as far as they are known.
    pub of_layers: u32,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that come, as far as that is known.
    pub of_bytes: u64,
}

impl PullCommand {
    /// Its subject's end.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ask(_) => "pull.ask",
            Self::Fetch(_) => "pull.fetch",
            Self::Give(_) => "pull.give",
            Self::Name(_) => "pull.name",
        }
    }

    /// The image it is about.
    pub fn wanted(&self) -> &PullWanted {
        match self {
            Self::Ask(wanted) | Self::Fetch(wanted) => wanted,
            Self::Give(give) => &give.wanted,
            Self::Name(name) => &name.wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_back_and_its_image_is_a_name() {
        let image: ImageRef = format!("r.example.org/web:1@sha256:{}", "0".repeat(64)).parse().unwrap();
        let wanted = PullWanted { network: "0".repeat(32).parse().unwrap(), image: image.clone() };
        let to = "n2".parse().unwrap();
        for command in [
            PullCommand::Ask(wanted.clone()),
            PullCommand::Fetch(wanted.clone()),
            PullCommand::Give(PullGive { wanted: wanted.clone(), to }),
            PullCommand::Name(PullName {
                wanted: wanted.clone(),
                name: "r.example.org/web:1".parse().unwrap(),
            }),
        ] {
            let mut text = serde_json::to_value(&command).unwrap();
            assert_eq!(text["command"], command.name());
            assert_eq!(text["image"], image.as_str());
            assert_eq!(serde_json::from_value::<PullCommand>(text.clone()).unwrap(), command);
            text["image"] = "../../containers/x/json?".into();
            assert!(serde_json::from_value::<PullCommand>(text).is_err());
        }
    }
}
