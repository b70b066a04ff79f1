//! Texts: the byte order mark that some editors put first, types whose text is checked once, when it is parsed, and the one
//! printer of errors with their causes.

use std::error::Error;

/// The text without a byte order mark at its beginning (RFC 3629 section 6). Editors on Windows write one, and no parser of
/// ours knows it.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// PEM without byte order marks: files that each have one are joined with `cat`, so it can stand before any of the blocks.
pub fn pem(text: &str) -> String {
    text.replace(MARK, "")
}

/// What these bytes are in, if it is UTF-16 with a byte order mark: what `>` of a Windows shell writes.
pub fn utf16(bytes: &[u8]) -> Option<&'static str> {
    let marked = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    marked.then_some("is UTF-16: save it as UTF-8")
}

/// The error and its causes, outermost first.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error with its causes in one line, joined by `: `. Messages of ours do not repeat their cause.
pub fn chain(error: &dyn Error) -> String {
    let causes = error.source().into_iter().flat_map(causes);
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Declares a type around a text, with what every such type has. `$parse` gives the text as it is kept, or the error.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $error:ty, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                let parse: fn(&str) -> Result<String, $error> = $parse;
                parse(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

pub(crate) use checked_text;

const MARK: char = '\u{feff}';
