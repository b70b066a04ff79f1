//! What may stand in one place of a path of the engine's API. bollard puts ids and names there as they are, and `..`, `/`
//! and `?` would lead to another call; so a text is checked here first, and [`super::engine`] takes nothing else.

use crate::error::{DockerError, Result};
use ployz_core::id::ImageId;
use ployz_core::wire::v1::manifest::ImageRef;

/// A text that cannot leave its place in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot<'a>(&'a str);

impl<'a> Slot<'a> {
    /// A container, a network or a command by Docker's id or name: `[A-Za-z0-9][A-Za-z0-9_.-]*`, Docker's own rule.
    pub(super) fn object(text: &'a str) -> Result<Self> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = first && text.len() <= LONGEST && text.bytes().all(word);
        if fits {
            Ok(Self(text))
        } else {
            Err(refused("name or id of a container, network or command", text))
        }
    }

    /// An image by reference or by id.
    pub(super) fn image(text: &'a str) -> Result<Self> {
        let fits = text.parse::<ImageRef>().is_ok() || text.parse::<ImageId>().is_ok();
        if fits { Ok(Self(text)) } else { Err(refused("reference or id of an image", text)) }
    }

    /// The text.
    pub(super) fn as_str(self) -> &'a str {
        self.0
    }
}

fn refused(what: &'static str, text: &str) -> DockerError {
    DockerError::Refused { what, text: text.chars().take(SHOWN).collect() }
}

/// Docker sets no limit; names of ours have at most 127.
const LONGEST: usize = 255;
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_could_leave_its_place_is_refused() {
        let id = "a".repeat(64);
        for good in ["prod.web-x7k2", &id, "A_b", "a..b", &"a".repeat(255)] {
            assert_eq!(Slot::object(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "a?b", "a#b", "a%2fb", "a b", "a\\b", "é", &"a".repeat(256)]
        {
            assert!(matches!(Slot::object(bad), Err(DockerError::Refused { .. })), "{bad}");
        }
        for good in ["web", "r.example:5000/a/b:1", &format!("sha256:{id}"), &format!("a@sha256:{id}")] {
            assert!(Slot::image(good).is_ok(), "{good}");
        }
        for bad in
            ["../containers/foreign/kill?x=", "a/../b", "a//b", "/a", "a/", "a?x=", "%2e%2e/a", "a/.", ""]
        {
            assert!(matches!(Slot::image(bad), Err(DockerError::Refused { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_slot_holds_no_way_out(text in "[a-z0-9./?#%\\\\:@ _-]{0,40}") {
            let out = |text: &str| text.contains(['?', '#', '%', '\\', ' ']) || text.split('/').any(|part| matches!(part, "" | "." | ".."));
            if Slot::image(&text).is_ok() {
                prop_assert!(!out(&text), "{}", text);
            }
            if Slot::object(&text).is_ok() {
                prop_assert!(!out(&text) && !text.contains('/'), "{}", text);
            }
        }
    }
}
