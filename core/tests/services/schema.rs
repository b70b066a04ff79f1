//! `docs/manifest.schema.json` and the parser agree on a table of documents: `golden/manifests.json`. Of some, which break
//! rules between values, only the parser can know; those say so in the table.

use crate::golden;
use ployz_core::wire::v1::manifest::Manifest;
use regex_lite::Regex;
use serde_json::{Map, Value};
use std::path::Path;

struct Row {
    what: String,
    schema: bool,
    parser: bool,
    error: String,
    document: Value,
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(golden("manifests.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(rows.len() > 50);
    rows.into_iter()
        .map(|row| Row {
            what: row["what"].as_str().unwrap().to_owned(),
            schema: row["schema"].as_bool().unwrap(),
            parser: row["parser"].as_bool().unwrap(),
            error: row["error"].as_str().unwrap_or_default().to_owned(),
            document: row["document"].clone(),
        })
        .collect()
}

#[test]
fn the_parser_judges_every_document_of_the_table() {
    for row in rows() {
        let json = serde_json::to_string(&row.document).unwrap();
        let read = Manifest::from_json("m.json", &json);
        let told = read.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let wanted = if row.parser { String::new() } else { format!("m.json:1: {}", row.error) };
        assert_eq!(told, wanted, "{}", row.what);
        // TOML has no null; else both languages mean the same.
        let Ok(toml) = toml::to_string(&row.document) else { continue };
        match (read, Manifest::from_toml("m.toml", &toml)) {
            (Ok(json), Ok(toml)) => assert_eq!(json, toml, "{}", row.what),
            (Err(json), Err(toml)) => {
                assert_eq!((json.path, json.problem), (toml.path, toml.problem), "{}", row.what);
            }
            (json, toml) => panic!("{}: {json:?} is not {toml:?}", row.what),
        }
    }
}

#[test]
fn the_schema_judges_every_document_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for row in rows() {
        assert_eq!(valid(&schema, &schema, &row.document), row.schema, "{}", row.what);
        assert!(row.schema || !row.parser, "{}: the schema must not be stricter than the parser", row.what);
    }
}

#[test]
fn what_the_parser_writes_is_valid_by_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for row in rows().into_iter().filter(|row| row.parser) {
        let manifest: Manifest = serde_json::from_value(row.document).unwrap();
        let written = serde_json::to_value(&manifest).unwrap();
        assert!(valid(&schema, &schema, &written), "{}: {written}", row.what);
        assert_eq!(serde_json::from_value::<Manifest>(written).unwrap(), manifest, "{}", row.what);
    }
}

/// The part of JSON Schema 2020-12 that our schema uses; a keyword beyond it fails the test rather than being passed over.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| holds(root, schema, keyword, rule, value))
}

fn holds(root: &Value, schema: &Value, keyword: &str, rule: &Value, value: &Value) -> bool {
    let each =
        |rules: &Value| rules.as_array().unwrap().iter().filter(|rule| valid(root, rule, value)).count();
    let number = |value: &Value| value.as_f64();
    match keyword {
        "$schema" | "$id" | "$defs" | "title" | "description" | "default" => true,
        "$ref" => valid(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "type" => match rule {
            Value::Array(types) => types.iter().any(|kind| is(kind, value)),
            kind => is(kind, value),
        },
        "const" => rule == value,
        "enum" => rule.as_array().unwrap().contains(value),
        "allOf" => each(rule) == rule.as_array().unwrap().len(),
        "anyOf" => each(rule) > 0,
        "oneOf" => each(rule) == 1,
        "not" => !valid(root, rule, value),
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            rule.as_object()
                .unwrap()
                .iter()
                .all(|(key, rule)| object.get(key).is_none_or(|value| valid(root, rule, value)))
        }),
        "additionalProperties" => {
            let none = Map::new();
            let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
            value.as_object().is_none_or(|object| {
                object.iter().filter(|(key, _)| !known.contains_key(*key)).all(|(_, value)| match rule {
                    Value::Bool(yes) => *yes,
                    rule => valid(root, rule, value),
                })
            })
        }
        "propertyNames" => value
            .as_object()
            .is_none_or(|object| object.keys().all(|key| valid(root, rule, &Value::String(key.clone())))),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(root, rule, item))),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
        "uniqueItems" => value
            .as_array()
            .is_none_or(|items| items.iter().enumerate().all(|(index, item)| !items[..index].contains(item))),
        "minimum" => number(value).is_none_or(|number| number >= rule.as_f64().unwrap()),
        "maximum" => number(value).is_none_or(|number| number <= rule.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|text| text.len() as u64 <= rule.as_u64().unwrap()),
        "pattern" => {
            value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
        }
        other => panic!("keyword {other} is not known to this test"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("type {other} is not known to this test"),
    }
}
