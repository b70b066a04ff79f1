//! The page that operators read is the table that the code has.

#![allow(clippy::unwrap_used)]

use ployz_core::host::table::{Done, TABLE, markdown};
use std::path::{Path, PathBuf};

#[test]
fn the_page_for_operators_is_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    if std::env::var_os("PLOYZ_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{}{end}{after}", markdown())).unwrap();
        return;
    }
    assert_eq!(table, markdown(), "PLOYZ_BLESS=1 writes it");
}

#[test]
fn every_check_that_the_table_names_is_made_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = String::new();
    for part in std::fs::read_dir(&root).unwrap() {
        let source = part.unwrap().path().join("src");
        // Scenarios look for checks; they make none.
        if source.is_dir() && !source.ends_with("tests/src") {
            gather(&source, &mut code);
        }
    }
    let named = TABLE.iter().filter_map(|row| match row.done {
        Done::Reported(checks) => Some(checks),
        Done::Fixed(_) | Done::Followed(_) => None,
    });
    for check in named.flatten() {
        // As a whole, or with what it is about behind it.
        let made = code.contains(&format!("\"{check}\"")) || code.contains(&format!("\"{check} {{"));
        assert!(made, "{check} is in the table and made nowhere");
    }
}

/// The code of every file that makes checks, without its tests and without the table.
fn gather(dir: &Path, code: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, code);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("host/table.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            if text.contains("Check::") || text.contains("Check {") || text.contains("-> Check") {
                code.push_str(text);
            }
        }
    }
}
