//! A cursor over a tree that knows where it stands: every refusal carries file, line and path.
//!
//! It knows types, not meanings; those are the newtypes' (`value`) and the rules' (`service`).

use crate::wire::v1::manifest::foreign;
use crate::wire::v1::manifest::tree::{Node, Tree};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A manifest that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadManifest {
    /// File it was read from, or what it was called.
    pub file: String,
    /// Line, from 1, where there are lines.
    pub line: Option<usize>,
    /// Where in the document: `services[0].routes[1].host`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It cannot be parsed.
    #[error("{0}")]
    Syntax(String),
    /// Longer than anything a person writes, and than the store takes.
    #[error("has {0} bytes; at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// A key that means nothing.
    #[error("unknown key; {}", advice(near, known))]
    UnknownKey {
        /// The nearest known key, if one is near.
        near: Option<&'static str>,
        /// All known keys of this table.
        known: &'static [&'static str],
    },
    /// A key of another format, such as Compose's, that has another name here or none.
    #[error("unknown key; {advice}")]
    ForeignKey {
        /// What to write in its place, or why there is nothing.
        advice: &'static str,
    },
    /// A key that must be there.
    #[error("is missing")]
    Missing,
    /// A value of another type.
    #[error("must be {want}, not {have}{}", example(advice))]
    Type {
        /// The type wanted.
        want: &'static str,
        /// The type found.
        have: &'static str,
        /// How it is written here, where another format has that type.
        advice: Option<&'static str>,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
}

/// Where a document came from and how strictly it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub file: &'a str,
    /// Documents of people: an unknown key is a mistake. Records in the store: it is a newer version's, and passed over.
    pub strict: bool,
}

/// One value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    source: Source<'a>,
    line: Option<usize>,
    path: String,
    value: &'a Tree,
}

/// A table whose keys are all known.
#[derive(Debug)]
pub(super) struct Table<'a> {
    at: Item<'a>,
    entries: &'a BTreeMap<String, Node>,
}

impl<'a> Item<'a> {
    /// The document.
    pub(super) fn root(source: Source<'a>, node: &'a Node) -> Self {
        Self { source, line: node.line, path: String::new(), value: &node.value }
    }

    /// A refusal of this value.
    pub(super) fn bad(&self, problem: Problem) -> BadManifest {
        BadManifest { file: self.source.file.to_owned(), line: self.line, path: self.path.clone(), problem }
    }

    /// A refusal of this value for a reason in words.
    pub(super) fn refuse(&self, why: impl fmt::Display) -> BadManifest {
        self.bad(Problem::Value(why.to_string()))
    }

    fn wrong(&self, want: &'static str) -> BadManifest {
        let advice = foreign::shape(&self.path, self.value);
        self.bad(Problem::Type { want, have: self.value.kind(), advice })
    }

    fn child(&self, step: &str, node: &'a Node) -> Self {
        let path = match (self.path.is_empty(), step.starts_with('[')) {
            (true, _) => step.to_owned(),
            (false, true) => format!("{}{step}", self.path),
            (false, false) => format!("{}.{step}", self.path),
        };
        Self { source: self.source, line: node.line.or(self.line), path, value: &node.value }
    }

    /// The value itself, where more than one type will do.
    pub(super) fn tree(&self) -> &'a Tree {
        self.value
    }

    /// A string.
    pub(super) fn text(&self) -> Result<&'a str, BadManifest> {
        match self.value {
            Tree::Text(text) => Ok(text),
            _ => Err(self.wrong("a string")),
        }
    }

    /// A string that means something.
    pub(super) fn parse<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, BadManifest> {
        self.text()?.parse().map_err(|error| self.refuse(error))
    }

    /// A boolean.
    pub(super) fn bool(&self) -> Result<bool, BadManifest> {
        match self.value {
            Tree::Bool(yes) => Ok(*yes),
            _ => Err(self.wrong("a boolean")),
        }
    }

    /// An integer in a range, both ends included.
    pub(super) fn integer<T: TryFrom<i64>>(&self, from: i64, to: i64) -> Result<T, BadManifest> {
        let Tree::Integer(number) = self.value else { return Err(self.wrong("an integer")) };
        let fits = (from..=to).contains(number).then(|| T::try_from(*number).ok()).flatten();
        fits.ok_or_else(|| self.refuse(format!("{number} is not from {from} to {to}")))
    }

    /// The items of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, BadManifest> {
        match self.value {
            Tree::List(list) => {
                Ok(list.iter().enumerate().map(|(i, node)| self.child(&format!("[{i}]"), node)).collect())
            }
            _ => Err(self.wrong("a list")),
        }
    }

    /// The entries of a table whose keys are anybody's.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Self)>, BadManifest> {
        match self.value {
            Tree::Table(table) => {
                Ok(table.iter().map(|(key, node)| (key.as_str(), self.child(key, node))).collect())
            }
            _ => Err(self.wrong("a table")),
        }
    }

    /// A table with these keys and no others.
    pub(super) fn table(self, known: &'static [&'static str]) -> Result<Table<'a>, BadManifest> {
        let Tree::Table(entries) = self.value else { return Err(self.wrong("a table")) };
        let strange = entries.iter().find(|(key, _)| !known.contains(&key.as_str()));
        if let (Some((key, node)), true) = (strange, self.source.strict) {
            let problem = match foreign::advice(&self.path, key) {
                Some(advice) => Problem::ForeignKey { advice },
                None => Problem::UnknownKey { near: nearest(key, known), known },
            };
            return Err(self.child(key, node).bad(problem));
        }
        Ok(Table { at: self, entries })
    }
}

impl<'a> Table<'a> {
    /// The table as a value, to refuse it as a whole.
    pub(super) fn at(&self) -> &Item<'a> {
        &self.at
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        self.entries.get(key).map(|node| self.at.child(key, node))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &str) -> Result<Item<'a>, BadManifest> {
        self.get(key).ok_or_else(|| {
            let missing = Node { line: self.at.line, value: Tree::Other("nothing") };
            let path = self.at.child(key, &missing).path.clone();
            BadManifest { path, ..self.at.bad(Problem::Missing) }
        })
    }

    /// The value of a key, read; the default where it is not there.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Item<'a>) -> Result<T, BadManifest>,
    ) -> Result<T, BadManifest> {
        self.get(key).map_or(Ok(default), |item| read(&item))
    }

    /// The value of a key, read, if it is there.
    pub(super) fn maybe<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Item<'a>) -> Result<T, BadManifest>,
    ) -> Result<Option<T>, BadManifest> {
        self.get(key).map(|item| read(&item)).transpose()
    }

    /// The items of a list, each read; nothing where it is not there.
    pub(super) fn each<T>(
        &self,
        key: &str,
        read: impl FnMut(&Item<'a>) -> Result<T, BadManifest>,
    ) -> Result<Vec<T>, BadManifest> {
        self.get(key).map_or(Ok(Vec::new()), |item| item.list()?.iter().map(read).collect())
    }
}

impl fmt::Display for BadManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

fn nearest(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let word = foreign::plain(key);
    let far = |near: &str| match foreign::plain(near) == word {
        true => 0,
        false => strsim::damerau_levenshtein(near, key),
    };
    let (distance, near) = known.iter().map(|near| (far(near), *near)).min()?;
    (distance <= key.len().div_ceil(3).min(4)).then_some(near)
}

fn example(advice: &Option<&'static str>) -> String {
    advice.map(|advice| format!(": {advice}")).unwrap_or_default()
}

fn advice(near: &Option<&'static str>, known: &[&str]) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

/// A commit that holds everything a manifest of this size says stays below NATS's 1 MiB a message.
pub const MAX_BYTES: usize = 256 * 1024;
