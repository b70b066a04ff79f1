//! `ployz-core` decides and does nothing else: no runtime, no system calls, no files. Read from its manifest and its
//! sources, so that the rule fails where somebody breaks it.

#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn no_io_in_core() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    for forbidden in ["tokio", "nix", "async-nats", "rtnetlink", "zbus", "hyper", "getrandom", "rand"] {
        let named = dependencies.lines().any(|line| {
            line.starts_with(&format!("{forbidden}.")) || line.starts_with(&format!("{forbidden} "))
        });
        assert!(!named, "core must not depend on {forbidden}");
    }
    let mut seen = 0;
    visit(&root.join("src"), &mut |path, text| {
        seen += 1;
        for forbidden in
            ["std::fs", "std::process", "std::thread", "SystemTime::now", "Instant::now", "std::env"]
        {
            assert!(!text.contains(forbidden), "{} uses {forbidden}", path.display());
        }
    });
    assert!(seen > 20, "only {seen} source files were looked at");
}

fn visit(dir: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
