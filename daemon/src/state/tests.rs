//! The daemon's files over removals, half-written files and cut-off joins.

use super::*;

fn disk(name: &str) -> (Disk, PathBuf) {
    let root = std::env::temp_dir().join(format!("ployz-disk-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    (Disk::open(&root).unwrap(), root)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn keys_are_readable_by_nobody_else_and_read_back() {
    let (disk, root) = disk("keys");
    let name: NetworkName = "prod".parse().unwrap();
    let keys = crate::keys::fresh(None);
    disk.put_keys(&name, &keys).unwrap();
    assert_eq!(mode(&root.join("networks/prod/keys.json")), 0o600);
    assert_eq!(mode(&root.join("networks/prod")), 0o711);
    let back = disk.keys(&name).unwrap().unwrap();
    assert!(back.wireguard.as_bytes() == keys.wireguard.as_bytes());
    assert_eq!(back.nats_seed.expose(), keys.nats_seed.expose());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_directory_without_a_record_is_no_network() {
    let (disk, root) = disk("record");
    disk.put_keys(&"half".parse().unwrap(), &crate::keys::fresh(None)).unwrap();
    std::fs::create_dir(root.join("networks/Not_A_Name")).unwrap();
    assert_eq!(disk.networks().unwrap(), []);
    assert_eq!(disk.network(&"half".parse().unwrap()).unwrap(), None);
    std::fs::remove_dir_all(root).unwrap();
}

fn network(name: &str) -> NetworkFile {
    let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
    let id = NetworkId::from_bytes([7; 16]);
    let (prefix, subnet) = (OverlayPrefix::of(&id), plan.slice(0).unwrap());
    let keys = crate::keys::fresh(None);
    let machine =
        crate::membership::record::membership(MachineId::from_hostname("db-1"), &keys, prefix, subnet)
            .unwrap();
    let founder = Founder { id: machine.id.clone(), overlay_ip: machine.overlay_ip };
    let name = name.parse().unwrap();
    NetworkFile { version: 1, id, name, plan, lifecycle: Stored::Stopped, machine, founder, backend: None }
}

#[test]
fn a_new_network_is_none_before_it_knows_its_peers() {
    let (disk, root) = disk("order");
    let file = network("prod");
    // A directory in the way of the second file is as good as death before it.
    let in_the_way = root.join("networks/prod").join(PEERS);
    std::fs::create_dir_all(&in_the_way).unwrap();
    disk.put_new(&file, &PeersFile::default()).unwrap_err();
    assert_eq!(disk.networks().unwrap(), []);
    std::fs::remove_dir(&in_the_way).unwrap();
    disk.put_new(&file, &PeersFile::default()).unwrap();
    assert_eq!(disk.networks().unwrap(), [file.name]);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn of_a_join_that_was_cut_short_only_keys_stay() {
    let (disk, root) = disk("sweep");
    let (whole, half) = (network("whole"), "half".parse().unwrap());
    disk.put_new(&whole, &PeersFile::default()).unwrap();
    disk.put_keys(&half, &crate::keys::fresh(None)).unwrap();
    disk.put_peers(&half, &PeersFile::default()).unwrap();
    let begun = root.join("networks/begun");
    make_dir(&begun, 0o711).unwrap();
    for file in ["half/peers.tmp", "half/network.tmp", "begun/keys.tmp"] {
        std::fs::write(root.join("networks").join(file), "{").unwrap();
    }
    disk.sweep().unwrap();
    assert!(root.join("networks/whole/peers.json").exists());
    let left: Vec<_> = std::fs::read_dir(root.join("networks/half"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["keys.json"]);
    assert!(!begun.exists());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_removal_that_was_cut_short_is_finished_and_never_taken_over() {
    let (disk, root) = disk("removal");
    let file = network("prod");
    disk.put_new(&file, &PeersFile::default()).unwrap();
    // Dead before the store was unlinked, twice.
    let removed = root.join("networks/.prod.removed");
    make_dir(&disk.nats_dir(&file.name), 0o700).unwrap();
    std::fs::rename(disk.network_dir(&file.name), &removed).unwrap();
    assert_eq!((disk.networks().unwrap(), disk.orphaned_store(&file.name)), (Vec::new(), None));
    disk.put_new(&file, &PeersFile::default()).unwrap();
    assert!(!disk.nats_dir(&file.name).exists());
    disk.remove_network(&file.name).unwrap();
    assert!(!removed.exists() && !disk.network_dir(&file.name).exists());
    disk.remove_network(&file.name).unwrap();
    make_dir(&removed.join("nats"), 0o700).unwrap();
    disk.sweep().unwrap();
    assert!(!removed.exists());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_store_without_a_record_is_nobodys() {
    let (disk, root) = disk("orphan");
    let file = network("prod");
    assert_eq!(disk.orphaned_store(&file.name), None);
    make_dir(&disk.nats_dir(&file.name), 0o700).unwrap();
    disk.sweep().unwrap();
    assert_eq!(disk.orphaned_store(&file.name), Some(root.join("networks/prod/nats")));
    disk.put_network(&file).unwrap();
    assert_eq!(disk.orphaned_store(&file.name), None);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn damage_names_the_file() {
    let (disk, root) = disk("damage");
    let name: NetworkName = "prod".parse().unwrap();
    make_dir(&root.join("networks/prod"), 0o711).unwrap();
    disk.put_peers(&name, &PeersFile::default()).unwrap();
    let path = root.join("networks/prod/peers.json");
    std::fs::write(&path, "{\"machines\": [").unwrap();
    let error = disk.peers(&name).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is damaged", path.display()));
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_leftover_temporary_file_does_not_matter() {
    let (disk, root) = disk("temporary");
    std::fs::write(root.join("active_network.tmp"), "garbage").unwrap();
    assert_eq!(disk.active().unwrap(), None);
    disk.set_active(Some(&"prod".parse().unwrap())).unwrap();
    assert_eq!(disk.active().unwrap().unwrap().as_str(), "prod");
    disk.set_active(None).unwrap();
    disk.set_active(None).unwrap();
    assert_eq!(disk.active().unwrap(), None);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_new_network_replaces_no_other() {
    let (disk, root) = disk("create-only");
    let (file, peers) = (network("prod"), PeersFile::default());
    disk.put_new(&file, &peers).unwrap();
    let other = NetworkFile { id: NetworkId::from_bytes([8; 16]), ..network("prod") };
    let known = PeersFile { machines: vec![other.machine.clone()], ..Default::default() };
    assert!(matches!(disk.put_new(&other, &known), Err(DiskError::Exists { .. })));
    assert_eq!((disk.network(&file.name).unwrap().unwrap(), disk.peers(&file.name).unwrap()), (file, peers));
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_held_state_stays_held_until_it_is_not() {
    let (disk, root) = disk("held");
    let name: NetworkName = "prod".parse().unwrap();
    disk.put_keys(&name, &crate::keys::fresh(None)).unwrap();
    assert_eq!((disk.held(&name).unwrap(), disk.host_mark(&name).unwrap()), (None, None));
    let held = HeldFile { since: 7, why: "two machines".into() };
    disk.set_held(&name, Some(&held)).unwrap();
    let mark = HostMark::new(Some("a"), None);
    disk.put_host_mark(&name, &mark).unwrap();
    assert_eq!((disk.held(&name).unwrap(), disk.host_mark(&name).unwrap()), (Some(held), Some(mark)));
    disk.set_held(&name, None).unwrap();
    assert_eq!(disk.held(&name).unwrap(), None);
    std::fs::remove_dir_all(root).unwrap();
}
