//! Which images a deploy fetches from their registries, which one exactly, and onto which machines.
//!
//! A name is resolved to a digest once for a deploy; from then on the digest is what all machines get. What an engine has
//! by another way (built there, sent there) has no digest of a registry: it is the same image if it holds the same.

use crate::deploy::image::{Agreement, agree};
use crate::deploy::plan::{DeployPlan, Scope};
use crate::id::MachineId;
use crate::wire::v1::deploy::{Action, ImageContent, ImagePull, ImageSeen};
use crate::wire::v1::manifest::{ImageDigest, ImageRef, Manifest, Pull};
use std::collections::{BTreeMap, BTreeSet};

/// What the machines that answer have under one image's name.
pub type Seen = BTreeMap<MachineId, ImageSeen>;

/// What must be known before an image can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is what the engines hold.
    Nothing,
    /// What the registry has under its name.
    Ask,
    /// It is this one.
    Known(ImageDigest),
}

/// The images of the services that a deploy speaks for. One that two services fetch in two ways is fetched whenever either
/// would.
pub fn wishes(manifest: &Manifest, scope: &Scope) -> BTreeMap<ImageRef, Pull> {
    let mut wishes = BTreeMap::new();
    for service in manifest.services.iter().filter(|service| scope.covers(&service.name)) {
        let wish = wishes.entry(service.image.clone()).or_insert(service.pull);
        *wish = service.pull.max(*wish);
    }
    wishes
}

/// What must be known of one image.
pub fn need(pull: Pull, image: &ImageRef, seen: &Seen) -> Need {
    match (pull, image.digest()) {
        (Pull::Never, _) => Need::Nothing,
        (_, Some(digest)) => Need::Known(digest),
        (Pull::Always, None) => Need::Ask,
        (Pull::Missing, None) if seen.is_empty() => Need::Ask,
        (Pull::Missing, None) => common(seen).map_or(Need::Nothing, Need::Known),
    }
}

/// The digest of what the machines have, if it is one image and came from a registry. Machines of several platforms have
/// several contents under one digest, and a machine that was sent an image has it without one.
fn common(seen: &Seen) -> Option<ImageDigest> {
    let mut all = seen.values().map(|seen| &seen.digests);
    let first = all.next()?.clone();
    let shared = all.fold(first, |shared, digests| shared.intersection(digests).cloned().collect());
    let contents: BTreeSet<&ImageContent> = seen.values().map(|seen| &seen.content).collect();
    let any = || seen.values().flat_map(|seen| &seen.digests).min().filter(|_| contents.len() == 1).cloned();
    shared.into_iter().next().or_else(any)
}

/// What the machines have before anything is fetched.
pub fn before(need: &Need, image: &ImageRef, seen: &Seen) -> Agreement {
    match need {
        Need::Nothing => agreement(seen, |_| true),
        Need::Ask if seen.is_empty() => Agreement::Absent,
        Need::Ask => Agreement::Awaited,
        // Found by the digest, so it is what was asked for.
        Need::Known(_) if image.digest().is_some() && seen.is_empty() => Agreement::Absent,
        Need::Known(_) => agreement(seen, |_| true),
    }
}

/// What the machines have that have this one; whatever others have under the name does not count.
pub fn of_digest(digest: &ImageDigest, seen: &Seen) -> Agreement {
    let known = contents(digest, seen);
    agreement(seen, |seen| holds(digest, seen, &known))
}

fn agreement(seen: &Seen, counts: impl Fn(&ImageSeen) -> bool) -> Agreement {
    let counted = seen.iter().filter(|(_, seen)| counts(seen));
    agree(counted.map(|(machine, seen)| (machine, &seen.content)))
}

/// Which machines get an image before a plan can be carried out.
pub fn pull(
    plan: &DeployPlan,
    wish: Pull,
    image: &ImageRef,
    digest: &ImageDigest,
    seen: &Seen,
) -> Option<ImagePull> {
    let known = contents(digest, seen);
    let lacks = |machine: &MachineId| match seen.get(machine) {
        None => true,
        Some(_) if image.digest().is_some() => false,
        // What a machine has under the name is not taken from it unless that is asked for.
        Some(seen) => wish == Pull::Always && !holds(digest, seen, &known),
    };
    let on: BTreeSet<MachineId> = users(plan, image).into_iter().filter(lacks).collect();
    let pull = ImagePull { image: image.clone(), digest: digest.clone(), on };
    (!pull.on.is_empty()).then_some(pull)
}

/// Machines on which a plan starts something from an image.
pub fn users(plan: &DeployPlan, image: &ImageRef) -> BTreeSet<MachineId> {
    let of = |name| plan.services.get(name).is_some_and(|committed| committed.service.image == *image);
    let slots =
        plan.preview.services.iter().filter(|change| of(&change.service)).flat_map(|change| &change.slots);
    let starts = slots.filter(|slot| slot.action != Action::Unchanged);
    starts.filter_map(|slot| slot.next.as_ref()).map(|placed| placed.machine.clone()).collect()
}

fn holds(digest: &ImageDigest, seen: &ImageSeen, known: &BTreeSet<&ImageContent>) -> bool {
    seen.digests.contains(digest) || known.contains(&seen.content)
}

fn contents<'a>(digest: &ImageDigest, seen: &'a Seen) -> BTreeSet<&'a ImageContent> {
    seen.values().filter(|seen| seen.digests.contains(digest)).map(|seen| &seen.content).collect()
}

/// Whether an image for these platforms runs on this one, as far as both are known. Variants of a processor are left to
/// the engine, which knows what its own can do.
pub fn fits(platform: &str, offered: &[String]) -> bool {
    let plain = |text: &str| text.split('/').take(2).map(str::to_owned).collect::<Vec<_>>();
    // Some images do not say what they are for.
    let known = |parts: &[String]| parts.len() == 2;
    let wanted = plain(platform);
    offered.is_empty() || offered.iter().map(|one| plain(one)).any(|one| !known(&one) || one == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(letter: char) -> ImageDigest {
        format!("sha256:{}", letter.to_string().repeat(64)).parse().unwrap()
    }

    fn seen(rows: &[(&str, &str, &str)]) -> Seen {
        let row = |(machine, content, digests): &(&str, &str, &str)| {
            let seen = ImageSeen {
                id: format!("sha256:{:0>64}", 1).parse().unwrap(),
                content: ImageContent((*content).into()),
                digests: digests.chars().map(digest).collect(),
            };
            (machine.parse().unwrap(), seen)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn what_must_be_known_follows_from_policy_name_and_engines() {
        let tag: ImageRef = "nginx:alpine".parse().unwrap();
        let pinned = tag.pinned(&digest('a')).unwrap();
        let (nowhere, pulled) = (seen(&[]), seen(&[("n1", "x", "a")]));
        let local = seen(&[("n1", "x", "")]);
        let sent = seen(&[("n1", "x", "ab"), ("n2", "x", ""), ("n3", "x", "a")]);
        let many_platforms = seen(&[("n1", "x", "a"), ("n2", "y", "ab")]);
        let another = seen(&[("n1", "x", "a"), ("n2", "y", "b")]);
        let known = |letter| Need::Known(digest(letter));
        for (pull, image, seen, wanted) in [
            (Pull::Never, &tag, &nowhere, Need::Nothing),
            (Pull::Never, &pinned, &nowhere, Need::Nothing),
            (Pull::Missing, &tag, &nowhere, Need::Ask),
            (Pull::Missing, &tag, &pulled, known('a')),
            (Pull::Missing, &tag, &local, Need::Nothing),
            (Pull::Missing, &tag, &sent, known('a')),
            (Pull::Missing, &tag, &many_platforms, known('a')),
            (Pull::Missing, &tag, &another, Need::Nothing),
            (Pull::Missing, &pinned, &nowhere, known('a')),
            (Pull::Always, &tag, &pulled, Need::Ask),
            (Pull::Always, &tag, &nowhere, Need::Ask),
            (Pull::Always, &pinned, &pulled, known('a')),
        ] {
            assert_eq!(need(pull, image, seen), wanted, "{pull} {image} {seen:?}");
        }
    }

    #[test]
    fn only_machines_that_have_the_one_count_for_it() {
        let same = |content: &str| Agreement::Same(ImageContent(content.into()));
        assert_eq!(of_digest(&digest('a'), &seen(&[("n1", "x", "a"), ("n2", "old", "b")])), same("x"));
        assert_eq!(of_digest(&digest('a'), &seen(&[("n1", "x", "a"), ("n2", "x", "")])), same("x"));
        assert_eq!(of_digest(&digest('c'), &seen(&[("n1", "x", "a")])), Agreement::Nowhere);
    }

    #[test]
    fn a_platform_is_system_and_processor() {
        let offered = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(fits("linux/amd64", &offered(&["linux/arm64/v8", "linux/amd64"])));
        assert!(fits("linux/arm64", &offered(&["linux/arm64/v8"])));
        assert!(!fits("linux/amd64", &offered(&["linux/arm64/v8", "windows/amd64"])));
        assert!(fits("linux/amd64", &[]), "not known");
        assert!(fits("linux/amd64", &offered(&["linux"])), "not said");
    }
}
