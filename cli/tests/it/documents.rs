//! Documents that repeat what the code knows are compared with it: error codes, the default configuration,
//! the example manifests, the list of commands.

use crate::stage::same_as;
use ployz_core::config::{Config, Layer, Origin};
use ployz_core::wire::v1::api::{Asked, ErrorCode};
use ployz_core::wire::v1::manifest::Manifest;
use std::path::{Path, PathBuf};

pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn every_error_code_is_in_the_table() {
    let path = project("docs/errors.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning is marked");
    let (_, after) = rest.split_once(END).expect("the table's end is marked");
    let mut table = String::from("\n| code | what to do |\n|---|---|\n");
    for code in ErrorCode::ALL {
        table += &format!("| `{code}` | {} |\n", code.hint().replace('|', "\\|"));
    }
    for (asked, title) in [(Asked::Join, "`mesh join`"), (Asked::Found, "`mesh create`, `mesh init`")] {
        table += &format!("\nAt {title}:\n\n| code | what to do |\n|---|---|\n");
        let own = |code: &&ErrorCode| code.hint_at(asked) != code.hint();
        for code in ErrorCode::ALL.iter().filter(own) {
            table += &format!("| `{code}` | {} |\n", code.hint_at(asked).replace('|', "\\|"));
        }
    }
    same_as(&path, &format!("{before}{BEGIN}{table}{END}{after}"));
}

#[test]
fn the_static_pair_of_the_gateway_is_named_where_an_operator_looks() {
    for path in ["packaging/config.toml", "docs/deploy.md"] {
        let text = std::fs::read_to_string(project(path)).unwrap();
        for variable in ["PLOYZ_GATEWAY_TLS_CERT_PATH", "PLOYZ_GATEWAY_TLS_KEY_PATH"] {
            assert!(text.contains(variable), "{path} does not mention {variable}");
        }
    }
}

/// The packaged file with every key switched on.
fn switched_on() -> String {
    let text = std::fs::read_to_string(project("packaging/config.toml")).unwrap();
    let switch = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with([' ', '#']) && !setting.is_empty() => setting.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(switch).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_packaged_configuration_names_every_key_and_its_default() {
    let layers = [Layer::from_toml("packaging/config.toml", &switched_on()).unwrap()];
    let config = Config::resolve(&layers).unwrap();
    let defaults = Config::resolve(&[]).unwrap().describe(&[]);
    for ((key, value, origin), (_, default, _)) in config.describe(&layers).into_iter().zip(defaults) {
        assert!(matches!(origin, Origin::File(_)), "packaging/config.toml does not mention {key}");
        if default != "(unset)" {
            let same = value == default || value.parse::<f64>().ok() == default.parse::<f64>().ok();
            assert!(same, "packaging/config.toml gives {key} = {value}, the default is {default}");
        }
    }
}

#[test]
fn the_packaged_configuration_changes_nothing_as_shipped() {
    let text = std::fs::read_to_string(project("packaging/config.toml")).unwrap();
    let layers = [Layer::from_toml("packaging/config.toml", &text).unwrap()];
    let shipped = Config::resolve(&layers).unwrap().describe(&layers);
    assert!(shipped.iter().all(|(_, _, origin)| *origin == Origin::Default), "{shipped:?}");
}

#[test]
fn the_example_manifests_are_good_and_mean_the_same() {
    let text = std::fs::read_to_string(project("docs/deploy.md")).unwrap();
    let example = |kind: &str| {
        let mark = format!("<!-- {kind}: read by cli/tests/it/documents.rs -->\n```{kind}\n");
        let (_, rest) = text.split_once(&mark).expect("the example is marked");
        let (example, _) = rest.split_once("\n```\n").expect("the example ends");
        Manifest::from_document(kind, example).unwrap()
    };
    assert_eq!(example("toml"), example("json"));
    assert!(!example("toml").uses_volumes(), "the example can be deployed");
}

#[test]
fn the_overview_names_every_command() {
    let text = std::fs::read_to_string(project("docs/cli.md")).unwrap();
    for screen in crate::help::SCREENS.iter().filter(|words| !words.contains(&"__generate")) {
        assert!(text.contains(&screen.join(" ")), "docs/cli.md does not mention {screen:?}");
    }
}

const BEGIN: &str = "<!-- codes: generated, see cli/tests/it/documents.rs -->";
const END: &str = "<!-- end of codes -->";
