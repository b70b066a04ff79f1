//! What an image holds, said so that two engines agree.
//!
//! An engine's image id will not do: classic stores and containerd stores name one image by different hashes. Layers and
//! configuration are the same in both, so a tag that was rebuilt is noticed, and one that was only copied is not.

use crate::adopt::identity::Identity;
use crate::id::MachineId;
use crate::wire::v1::deploy::ImageContent;
use std::collections::BTreeMap;

/// The parts of an image's inspection that make a container of it behave as it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageParts {
    /// `RootFS.Layers`, in order.
    pub layers: Vec<String>,
    /// `Config.Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Config.Cmd`.
    pub command: Vec<String>,
    /// `Config.Env`.
    pub env: Vec<String>,
    /// `Config.WorkingDir`.
    pub directory: String,
    /// `Config.User`.
    pub user: String,
    /// `Os` and `Architecture`, as `linux/amd64`.
    pub platform: String,
}

/// Whether machines have the same image under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// They do.
    Same(ImageContent),
    /// They do not (another architecture, or rebuilt on some): who has what.
    Differs(BTreeMap<ImageContent, Vec<MachineId>>),
    /// No machine has it.
    Nowhere,
    /// No machine has it, and it is fetched from its registry if something is to be started from it.
    Absent,
    /// The registry has another one under its name, which is fetched before anything is started.
    Awaited,
}

/// The fingerprint of these parts. Only the hash is committed, not the parts, so its version is its own: with another one
/// every image would be another, and every instance replaced.
pub fn content(parts: &ImageParts) -> ImageContent {
    let list = |items: &[String]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" ");
    let fields = [
        ("layers", parts.layers.join(" ")),
        ("entrypoint", list(&parts.entrypoint)),
        ("command", list(&parts.command)),
        ("env", list(&parts.env)),
        ("directory", parts.directory.clone()),
        ("user", parts.user.clone()),
        ("platform", parts.platform.clone()),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    ImageContent(Identity::new(fields).labelled(VERSION))
}

/// What the machines that have an image make of its name.
pub fn agree<'a>(seen: impl IntoIterator<Item = (&'a MachineId, &'a ImageContent)>) -> Agreement {
    let mut by_content: BTreeMap<ImageContent, Vec<MachineId>> = BTreeMap::new();
    for (machine, content) in seen {
        by_content.entry(content.clone()).or_default().push(machine.clone());
    }
    match by_content.len() {
        0 => Agreement::Nowhere,
        1 => by_content.into_keys().next().map_or(Agreement::Nowhere, Agreement::Same),
        _ => Agreement::Differs(by_content),
    }
}

/// Of the list of parts in [`content`].
const VERSION: &str = "v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_content_is_agreement_two_are_named() {
        let (a, b): (MachineId, MachineId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let one = content(&ImageParts { layers: vec!["sha256:1".into()], ..Default::default() });
        let two = content(&ImageParts { layers: vec!["sha256:2".into()], ..Default::default() });
        assert_eq!(agree([(&a, &one), (&b, &one)]), Agreement::Same(one.clone()));
        assert_eq!(agree([]), Agreement::Nowhere);
        let Agreement::Differs(who) = agree([(&a, &one), (&b, &two)]) else { panic!("they differ") };
        assert_eq!(who[&two], std::slice::from_ref(&b));
    }

    #[test]
    fn every_part_counts() {
        let base = ImageParts::default();
        let text = || vec!["x".to_owned()];
        let others = [
            ImageParts { layers: text(), ..base.clone() },
            ImageParts { entrypoint: text(), ..base.clone() },
            ImageParts { command: text(), ..base.clone() },
            ImageParts { env: text(), ..base.clone() },
            ImageParts { directory: "x".into(), ..base.clone() },
            ImageParts { user: "x".into(), ..base.clone() },
            ImageParts { platform: "x".into(), ..base.clone() },
        ];
        let mut all: Vec<ImageContent> = others.iter().map(content).collect();
        all.push(content(&base));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
    }
}
