//! Services as a whole: manifests, containers, plans, records. Everything here is pure, so it needs no Docker, no store
//! and no root. Golden texts are written anew with `PLOYZ_BLESS=1 cargo test -p ployz-core`.

#![allow(clippy::unwrap_used)]

mod container;
mod crash;
mod debt;
mod manifest;
mod operations;
mod plan;
mod schema;
mod wire;

use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn same_as(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("PLOYZ_BLESS").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "{} differs; if the change is meant: PLOYZ_BLESS=1", path.display());
}
