//! A document as a tree with line numbers, whatever it was written in: TOML, JSON, or a value that is already parsed.
//!
//! It judges nothing but syntax; `read` does. Lines come from the parsers themselves: spans of TOML, and for JSON a
//! reader that counts line breaks as the parser takes the bytes one at a time.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use toml::de::{DeTable, DeValue};

/// One value and the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// From 1; `None` where there are no lines.
    pub line: Option<usize>,
    /// The value.
    pub value: Tree,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Table(BTreeMap<String, Node>),
    List(Vec<Node>),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// A value no manifest can have, by its name: a date, JSON's null, an integer past 64 bits.
    Other(&'static str),
}

/// A text that cannot be parsed: where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadSyntax {
    pub line: Option<usize>,
    pub what: String,
}

impl Node {
    /// The tree of a TOML text.
    pub(super) fn from_toml(text: &str) -> Result<Self, BadSyntax> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Self { line: Some(1), value: toml_table(text, table.get_ref()) }),
            Err(error) => Err(BadSyntax {
                line: error.span().map(|span| line_of(text, span.start)),
                what: error.message().to_owned(),
            }),
        }
    }

    /// The tree of a JSON text.
    pub(super) fn from_json(text: &str) -> Result<Self, BadSyntax> {
        let line = Cell::new(1);
        let mut parser =
            serde_json::Deserializer::from_reader(Counting { rest: text.as_bytes(), line: &line });
        let node = Seed(&line).deserialize(&mut parser);
        node.and_then(|node| parser.end().map(|()| node)).map_err(|error| {
            // Its own place is cut off: the line is a field here.
            let what = error.to_string();
            let cut = what.rfind(" at line ").unwrap_or(what.len());
            BadSyntax { line: Some(error.line().max(1)), what: what[..cut].to_owned() }
        })
    }

    /// The tree of a parsed value; it has no lines.
    pub(super) fn from_value(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let value = match value {
            Value::Null => Tree::Other("null"),
            Value::Bool(yes) => Tree::Bool(*yes),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Tree::Integer(integer),
                (None, Some(float)) => Tree::Float(float),
                (None, None) => Tree::Other("a number past 64 bits"),
            },
            Value::String(text) => Tree::Text(text.clone()),
            Value::Array(list) => Tree::List(list.iter().map(Self::from_value).collect()),
            Value::Object(map) => {
                Tree::Table(map.iter().map(|(k, v)| (k.clone(), Self::from_value(v))).collect())
            }
        };
        Self { line: None, value }
    }

    /// A text without a line.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { line: None, value: Tree::Text(text.into()) }
    }

    /// A list without lines.
    pub(super) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self { line: None, value: Tree::List(items.into_iter().collect()) }
    }

    /// A table without lines.
    pub(super) fn table<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        let entries = entries.into_iter().map(|(key, node)| (key.into(), node)).collect();
        Self { line: None, value: Tree::Table(entries) }
    }
}

impl Tree {
    /// What it is, as an error says it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Other(what) => what,
        }
    }
}

fn toml_table(text: &str, table: &DeTable<'_>) -> Tree {
    let node = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| Node {
        line: Some(line_of(text, key.span().start)),
        value: toml_value(text, value.get_ref()),
    };
    Tree::Table(table.iter().map(|(key, value)| (key.get_ref().to_string(), node((key, value)))).collect())
}

fn toml_value(text: &str, value: &DeValue<'_>) -> Tree {
    match value {
        DeValue::String(string) => Tree::Text(string.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Tree::Integer(number),
            Err(_) => Tree::Other("an integer past 64 bits"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Tree::Other("a number"), Tree::Float),
        DeValue::Boolean(yes) => Tree::Bool(*yes),
        DeValue::Datetime(_) => Tree::Other("a date"),
        DeValue::Array(list) => Tree::List(
            list.iter()
                .map(|item| Node {
                    line: Some(line_of(text, item.span().start)),
                    value: toml_value(text, item.get_ref()),
                })
                .collect(),
        ),
        DeValue::Table(table) => toml_table(text, table),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Hands out a text byte by byte and counts the lines it has handed out.
struct Counting<'a> {
    rest: &'a [u8],
    line: &'a Cell<usize>,
}

impl std::io::Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (Some((first, rest)), Some(slot)) = (self.rest.split_first(), buffer.first_mut()) else {
            return Ok(0);
        };
        *slot = *first;
        self.rest = rest;
        self.line.set(self.line.get() + usize::from(*first == b'\n'));
        Ok(1)
    }
}

/// Reads one value; the line is taken when it begins, because the parser looks one byte past a number's end.
struct Seed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let line = Some(self.0.get());
        Ok(Node { line, value: deserializer.deserialize_any(self)? })
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(i64::try_from(number).map_or(Tree::Other("an integer past 64 bits"), Tree::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree, E> {
        Ok(Tree::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut table = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            let line = Some(self.0.get());
            let node = entries.next_value_seed(Seed(self.0))?;
            if table.insert(key.clone(), Node { line, ..node }).is_some() {
                return Err(A::Error::custom(format!("duplicate key {key}")));
            }
        }
        Ok(Tree::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(node: &Node, path: &str, out: &mut Vec<(String, usize)>) {
        out.push((path.to_owned(), node.line.unwrap()));
        match &node.value {
            Tree::Table(table) => {
                table.iter().for_each(|(key, node)| lines(node, &format!("{path}.{key}"), out));
            }
            Tree::List(list) => {
                list.iter().enumerate().for_each(|(i, node)| lines(node, &format!("{path}[{i}]"), out));
            }
            _ => {}
        }
    }

    fn found(node: Node) -> Vec<String> {
        let mut out = Vec::new();
        lines(&node, "", &mut out);
        out.into_iter().map(|(path, line)| format!("{path}:{line}")).collect()
    }

    #[test]
    fn json_values_stand_on_the_line_they_begin_on() {
        let text = "{\n  \"a\": 1\n  ,\n  \"b\": [\n    10\n    ,\n    {\"c\": true}\n  ]\n}\n";
        assert_eq!(
            found(Node::from_json(text).unwrap()),
            [":1", ".a:2", ".b:4", ".b[0]:5", ".b[1]:7", ".b[1].c:7"]
        );
    }

    #[test]
    fn toml_values_stand_on_the_line_of_their_key() {
        let text = "a = 1\n\n[[s]]\nb = [\n  1,\n  2,\n]\n[[s]]\nb.c = 0x10\n";
        assert_eq!(
            found(Node::from_toml(text).unwrap()),
            [
                ":1",
                ".a:1",
                ".s:3",
                ".s[0]:3",
                ".s[0].b:4",
                ".s[0].b[0]:5",
                ".s[0].b[1]:6",
                ".s[1]:8",
                ".s[1].b:9",
                ".s[1].b.c:9"
            ]
        );
    }

    #[test]
    fn bad_syntax_names_the_line() {
        assert_eq!(Node::from_toml("a = 1\nb = ").unwrap_err().line, Some(2));
        let error = Node::from_json("{\n\"a\": 1,\n\"a\": 2}").unwrap_err();
        assert_eq!((error.line, error.what.as_str()), (Some(3), "duplicate key a"));
        assert_eq!(Node::from_json("{}\n{}").unwrap_err().line, Some(2));
        assert!(Node::from_json(&"[".repeat(100_000)).is_err());
        assert!(Node::from_toml(&format!("a = {}", "[".repeat(100_000))).is_err());
    }
}
