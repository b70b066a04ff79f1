//! What must hold of the packaged units and scripts whatever else changes in them.

use crate::documents::project;
use std::collections::BTreeSet;

fn text(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The settings of a unit file, without comments.
fn settings(path: &str) -> Vec<(String, String)> {
    let text = text(path);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn the_daemon_shares_the_hosts_mounts() {
    const PRIVATE: [&str; 22] = [
        "BindPaths",
        "BindReadOnlyPaths",
        "ExecPaths",
        "InaccessiblePaths",
        "MountAPIVFS",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "TemporaryFileSystem",
    ];
    for (key, _) in settings("packaging/systemd/ployzd.service") {
        assert!(!PRIVATE.contains(&key.as_str()), "{key}= hides /run/netns/ployz from the host");
    }
}

#[test]
fn the_daemon_takes_nothing_down_with_it() {
    let settings = settings("packaging/systemd/ployzd.service");
    for (key, value) in [
        ("KillMode", "process"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("Type", "notify"),
    ] {
        assert!(settings.contains(&(key.into(), value.into())), "{key}={value} is missing");
    }
    assert!(!settings.iter().any(|(key, _)| ["BindsTo", "PartOf", "Requires"].contains(&key.as_str())));
}

#[test]
fn directories_have_one_owner_and_mode_in_both_places() {
    let unit = settings("packaging/systemd/ployzd.service");
    let value =
        |key: &str| unit.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap();
    let rows: BTreeSet<String> = text("packaging/tmpfiles.d/ployz.conf")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let group = value("Group");
    for (path, mode) in [("/run/ployz", "RuntimeDirectoryMode"), ("/var/lib/ployz", "StateDirectoryMode")] {
        let row = format!("d {path} {} root {group} -", value(mode));
        assert!(rows.contains(&row), "tmpfiles.d lacks {row:?}");
    }
}

#[test]
fn only_a_purge_touches_the_data_plane() {
    for script in ["postinst", "prerm"] {
        let text = text(&format!("packaging/deb/{script}"));
        let commands = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        for line in commands.filter(|line| line.contains("systemctl") || line.contains("deb-systemd-invoke"))
        {
            assert!(!line.contains("ployz-") && !line.contains("ployz.slice"), "{script}: {line}");
        }
    }
    let postrm = text("packaging/deb/postrm");
    let remove = postrm.split("\nremove)").nth(1).and_then(|rest| rest.split(";;").next()).unwrap();
    assert!(!remove.contains("stop"), "{remove}");
}

#[test]
fn every_packaged_file_is_in_both_packages() {
    let manifest = text("cli/Cargo.toml");
    let (_, deb) = manifest.split_once("[package.metadata.deb]").unwrap();
    let (deb, rpm) = deb.split_once("[package.metadata.generate-rpm]").unwrap();
    for directory in ["packaging/systemd", "packaging/sysusers.d", "packaging/tmpfiles.d"] {
        for file in walk(directory) {
            assert!(deb.contains(&format!("../{file}")), "the deb lacks {file}");
            assert!(rpm.contains(&file), "the rpm lacks {file}");
        }
    }
}

fn walk(directory: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(project(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
