//! The server's configuration: readable text, its own user a machine, nothing that the next start could not know.
//!
//! What can be reloaded (users and their rights) is covered by a revision that the server reports back as metadata;
//! what cannot is named in the unit's environment, so that drift is named field by field.

use crate::state::{DiskError, make_dir, replace_for};
use nix::unistd::{User, chown};
use nkeys::KeyPair;
use ployz_core::id::{NetworkId, hex};
use ployz_core::spec::{NatsRole, NatsSpec, UnitName, UnitSpec};
use ployz_core::wire::v1::subject::{CLIENT_PORT, DOMAIN};
use ployz_core::wire::v1::{record::MachineMembership, subject};
use ployz_nats::permissions::{self, Rights};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the configuration is made from.
pub struct Settings<'a> {
    /// The network.
    pub network: &'a NetworkId,
    /// This machine.
    pub machine: &'a MachineMembership,
    /// Its part.
    pub role: NatsRole,
    /// All members, for the founder's users.
    pub machines: &'a [MachineMembership],
    /// The store's directory.
    pub dir: PathBuf,
    /// The server program.
    pub program: PathBuf,
    /// The namespace file.
    pub netns: PathBuf,
    /// The system user it runs as.
    pub user: Option<String>,
    /// Seed for the leaf connection; kept in a file of its own.
    pub seed: &'a str,
    /// Keys of this machine's sidecars, by name.
    pub sidecars: Vec<(&'static str, String)>,
}

impl Settings<'_> {
    /// The wanted store.
    pub fn spec(&self) -> NatsSpec {
        let body = self.body();
        let revision = hex(&Sha256::digest(body.as_bytes()))[..12].to_owned();
        let config = format!("{HEADER}\nserver_metadata: {{ {REVISION_KEY}: \"{revision}\" }}\n\n{body}");
        let config_path = self.dir.join("nats.conf");
        let overlay = self.machine.overlay_ip;
        let mut environment = BTreeMap::from([
            ("GOGC".to_owned(), GARBAGE_PERCENT.to_owned()),
            ("PLOYZ_NATS_CLIENT".to_owned(), socket(overlay, CLIENT_PORT)),
            ("PLOYZ_NATS_NETWORK".to_owned(), self.network.to_string()),
            ("PLOYZ_NATS_STORE".to_owned(), self.dir.join(DATA).display().to_string()),
        ]);
        let role = match &self.role {
            NatsRole::Founder => "standalone".to_owned(),
            NatsRole::Leaf { founder } => format!("leaf of {}", socket(*founder, LEAF_PORT)),
        };
        environment.insert("PLOYZ_NATS_ROLE".to_owned(), role);
        let unit = UnitSpec {
            name: UnitName::NATS,
            description: "Ployz store (NATS)".into(),
            exec: vec![self.program.display().to_string(), "-c".into(), config_path.display().to_string()],
            environment,
            user: self.user.clone(),
            netns: Some(self.netns.clone()),
            writable: vec![self.dir.join(DATA)],
            notifies: false,
            reload_signal: Some(nix::libc::SIGHUP),
            capabilities: Vec::new(),
            stop_seconds: 30,
        };
        NatsSpec { unit, config_path, config, revision }
    }

    fn body(&self) -> String {
        let overlay = self.machine.overlay_ip;
        let mut text = format!(
            "server_name: \"ployz-{}\"\nlisten: \"{}\"\nhttp: \"127.0.0.1:{MONITOR_PORT}\"\nlogtime: false\n\
             ping_interval: \"5s\"\nping_max: 2\nmax_payload: 8388608\n\n",
            self.machine.id,
            socket(overlay, CLIENT_PORT)
        );
        match &self.role {
            NatsRole::Founder => self.founder(&mut text, overlay),
            NatsRole::Leaf { founder } => self.leaf(&mut text, *founder),
        }
        text
    }

    fn founder(&self, text: &mut String, overlay: Ipv6Addr) {
        let _ = write!(
            text,
            "jetstream: {{\n  store_dir: \"{}\"\n  domain: \"{DOMAIN}\"\n  max_memory_store: 67108864\n  \
             max_file_store: 10737418240\n  # Acknowledged means on disk: the default would lose two minutes in a power cut.\n  \
             sync_interval: \"always\"\n}}\n\nleafnodes: {{\n  listen: \"{}\"\n  no_advertise: true\n}}\n\n\
             authorization: {{\n  users: [\n",
            self.dir.join(DATA).display(),
            socket(overlay, LEAF_PORT)
        );
        let mut members: Vec<&MachineMembership> = self.machines.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        let _ = writeln!(
            text,
            "    # {} (founder)\n    {{ nkey: \"{}\" }}",
            self.machine.id, self.machine.nats_key
        );
        let others = members.into_iter().filter(|member| member.id != self.machine.id);
        // Checked when a machine is let in; once more here, because it is written into a file that is parsed.
        for member in others.filter(|member| is_user_key(&member.nats_key)) {
            permitted(
                text,
                member.id.as_str(),
                &member.nats_key,
                &permissions::member(self.network, &member.id),
            );
        }
        self.followers(text);
        text.push_str("  ]\n}\n");
    }

    fn leaf(&self, text: &mut String, founder: Ipv6Addr) {
        let _ = write!(
            text,
            "leafnodes: {{\n  reconnect: \"500ms\"\n  remotes: [\n    {{\n      url: \"nats-leaf://{}\"\n      \
             include \"{SEED_FILE}\"\n    }}\n  ]\n}}\n\nauthorization: {{\n  users: [\n",
            socket(founder, LEAF_PORT)
        );
        let own = &self.machine.id;
        permitted(text, own.as_str(), &self.machine.nats_key, &permissions::member(self.network, own));
        self.followers(text);
        text.push_str("  ]\n}\n");
    }

    /// This machine's own sidecars, known to no other server.
    fn followers(&self, text: &mut String) {
        for (name, key) in self.sidecars.iter().filter(|(_, key)| is_user_key(key)) {
            let mut rights = permissions::follower(&self.machine.id, name);
            if *name == CERTIFIED {
                rights = rights.and(permissions::bucket_reader(subject::CERTIFICATES));
            }
            if matches!(self.role, NatsRole::Founder) {
                // The domain's own server takes the domain off before it looks at rights (nats-server 2.15.1).
                let bare = |subject: &String| subject.replacen(&format!("$JS.{DOMAIN}.API."), "$JS.API.", 1);
                let bare: Vec<String> = rights.publish.iter().map(bare).collect();
                rights.publish.extend(bare);
                rights.publish.sort_unstable();
                rights.publish.dedup();
            }
            permitted(text, &format!("{name} of {}", self.machine.id), key, &rights);
        }
    }

    /// Writes the seed of the leaf connection unless it is there: it never changes.
    pub fn install_seed(&self) -> Result<(), DiskError> {
        let (path, text) = (self.dir.join(SEED_FILE), format!("nkey: {}\n", self.seed));
        if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        prepare(&self.dir, self.user.as_deref())?;
        put(&path, &text, self.user.as_deref())
    }
}

/// Whether a text is the public half of a NATS user's key.
pub fn is_user_key(text: &str) -> bool {
    text.starts_with('U')
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
        && KeyPair::from_public_key(text).is_ok()
}

/// Writes the configuration file.
pub fn install(spec: &NatsSpec) -> Result<(), DiskError> {
    let user = spec.unit.user.as_deref();
    if let Some(dir) = spec.config_path.parent() {
        prepare(dir, user)?;
    }
    put(&spec.config_path, &spec.config, user)
}

fn permitted(text: &mut String, who: &str, key: &str, rights: &Rights) {
    let _ = writeln!(text, "    # {who}\n    {{\n      nkey: \"{key}\"\n      permissions: {{");
    for (what, subjects) in [("publish", &rights.publish), ("subscribe", &rights.subscribe)] {
        let _ = writeln!(text, "        {what}: {{ allow: [");
        for subject in subjects {
            let _ = writeln!(text, "          \"{subject}\"");
        }
        text.push_str("        ] }\n");
    }
    text.push_str("      }\n    }\n");
}

/// The directory is root's, so that nobody can put something else in the place of what root writes there; the
/// server may pass and read. Only `data` is the server's own.
pub fn prepare(dir: &Path, user: Option<&str>) -> Result<(), DiskError> {
    make_dir(dir, 0o711)?;
    let data = dir.join(DATA);
    make_dir(&data, 0o700)?;
    let Some(user) = user.map(|name| account(name, dir)).transpose()? else { return Ok(()) };
    let fail = |source: std::io::Error| DiskError::Io { operation: "give", path: data.clone(), source };
    let owner = std::fs::symlink_metadata(&data).map_err(fail)?.uid();
    if owner != user.uid.as_raw() {
        chown(&data, Some(user.uid), Some(user.gid)).map_err(|errno| fail(errno.into()))?;
    }
    Ok(())
}

/// Replaces a file that the user may read and root alone may write.
pub fn put(path: &Path, text: &str, user: Option<&str>) -> Result<(), DiskError> {
    let group = user.map(|name| account(name, path)).transpose()?.map(|user| user.gid);
    replace_for(path, text.as_bytes(), 0o640, group)
}

fn account(name: &str, path: &Path) -> Result<User, DiskError> {
    let fail = |source: std::io::Error| DiskError::Io { operation: "give", path: path.to_owned(), source };
    let found = User::from_name(name).map_err(|errno| fail(errno.into()))?;
    found.ok_or_else(|| fail(std::io::Error::other(format!("there is no system user {name}"))))
}

fn socket(address: Ipv6Addr, port: u16) -> String {
    SocketAddrV6::new(address, port, 0, 0).to_string()
}

/// Leaf port on the founder's overlay address.
pub const LEAF_PORT: u16 = 7422;
/// Monitoring port on the namespace's loopback.
pub const MONITOR_PORT: u16 = 8222;
/// Metadata key under which the server reports the revision it runs with.
pub const REVISION_KEY: &str = "ployz_config";
/// A user's own directory.
pub const DATA: &str = "data";
/// The sidecar that reads certificates with their private keys; the DNS server's user cannot.
const CERTIFIED: &str = "gateway";
const SEED_FILE: &str = "leaf-seed.conf";
/// How much garbage may gather beside what lives, in percent: half of what a Go program lets gather by itself. The store's records
/// are small and few, so collecting twice as often costs little; it is a tenth of the memory of a whole founder's node.
const GARBAGE_PERCENT: &str = "50";
const HEADER: &str = "# Written by ployzd from this machine's network.json and the members it knows.\n\
                      # Changes made here are lost; `ployzctl explain nats` shows what is wanted and why.\n";

#[cfg(test)]
mod tests {
    use super::*;
    use ployz_core::address::{AddressPlan, OverlayPrefix};
    use ployz_core::key::PublicKey;
    use ployz_core::wire::v1::record::{Lifecycle, RegionRole, StorageParticipation};

    const USERS: [&str; 3] = [
        "UBTDOZWM3DZ7PJ2PHGTHPGBY3YUGVJHOLV4O2TCFEWJK3AALZF2XF3QF",
        "UBBKPNDZVDSMQMN7Q75QSFE5Y2NAW6MK6ZIYRSOJ3237BMHDHAFIYGYF",
        "UDC7HMBBRBGW7JKBUVY4EBU6WVN3CV7X2SHXCT2OUJ4UBDBJ5K5SXMTW",
    ];

    const SIDECARS: [&str; 2] = [
        "UCLRMU3PMLEB7YJ6PQQ4RAD27FX5SP3HP2IF4U4BPIGSW4VJLPGSWPFV",
        "UDOXLKOW7MYJYQ4Z7ZBFZVPZB74V5OQTLVUSJ64ROZXOLU3SNMLIUER5",
    ];

    fn machine(n: u8) -> MachineMembership {
        let key = PublicKey::from_bytes([n; 32]);
        let plan = AddressPlan::new("10.101.0.0/16".parse().unwrap(), 24).unwrap();
        MachineMembership {
            id: format!("n{n}").parse().unwrap(),
            public_key: key,
            overlay_ip: OverlayPrefix::of(&NetworkId::from_bytes([7; 16])).address(&key),
            subnet: plan.slice(usize::from(n)).unwrap(),
            endpoints: Vec::new(),
            nats_key: USERS[usize::from(n) - 1].into(),
            verify_key: String::new(),
            lifecycle: Lifecycle::Active,
            storage: StorageParticipation::Candidate,
            region_role: RegionRole::Compute,
            protocol: 0,
            topology: Default::default(),
            labels: Default::default(),
            created_at: 0,
            updated_at: 0,
        }
    }

    fn spec(role: NatsRole, machines: &[MachineMembership]) -> NatsSpec {
        let network = NetworkId::from_bytes([7; 16]);
        let settings = Settings {
            network: &network,
            machine: &machines[0],
            role,
            machines,
            dir: "/var/lib/ployz/networks/prod/nats".into(),
            program: "/usr/lib/ployz/nats-server".into(),
            netns: "/run/netns/ployz".into(),
            user: Some("ployz-nats".into()),
            seed: "SUSECRET",
            sidecars: vec![("gateway", SIDECARS[0].into()), ("dns", SIDECARS[1].into())],
        };
        settings.spec()
    }

    fn golden(name: &str, got: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        if std::env::var_os("PLOYZ_BLESS").is_some() {
            std::fs::write(&path, got).unwrap();
        }
        assert_eq!(
            got,
            std::fs::read_to_string(&path).unwrap_or_default(),
            "PLOYZ_BLESS=1 writes {name} anew"
        );
    }

    #[test]
    fn founder_and_leaf_texts() {
        let machines = [machine(1), machine(2)];
        golden("nats-founder.conf", &spec(NatsRole::Founder, &machines).config);
        let founder = machines[0].overlay_ip;
        golden("nats-leaf.conf", &spec(NatsRole::Leaf { founder }, &machines[1..]).config);
    }

    #[test]
    fn members_change_the_revision_but_not_the_identity() {
        let machines = [machine(1), machine(2), machine(3)];
        let (two, three) = (spec(NatsRole::Founder, &machines[..2]), spec(NatsRole::Founder, &machines));
        assert_ne!(two.revision, three.revision);
        assert_eq!(two.unit.identity(), three.unit.identity());
        let reordered = [machine(1), machine(3), machine(2)];
        assert_eq!(three.config, spec(NatsRole::Founder, &reordered).config, "order is not a change");
    }

    #[test]
    fn a_key_that_is_no_key_does_not_reach_the_file() {
        let mut bad = machine(2);
        bad.nats_key = "U\" } ] } # ".into();
        let config = spec(NatsRole::Founder, &[machine(1), bad]).config;
        assert_eq!(config, spec(NatsRole::Founder, &[machine(1)]).config);
    }

    #[test]
    fn of_the_sidecars_only_the_gateway_may_read_certificates() {
        let machines = [machine(1), machine(2)];
        let founder = machines[0].overlay_ip;
        for spec in [spec(NatsRole::Founder, &machines), spec(NatsRole::Leaf { founder }, &machines[1..])] {
            let of = |who: &str| {
                let from = spec.config.find(&format!("# {who} of ")).unwrap();
                let user = &spec.config[from..];
                user[..user[1..].find('#').map_or(user.len(), |end| end + 1)].to_owned()
            };
            assert!(of("gateway").contains("KV_certificates") && !of("gateway").contains("$KV.certificates"));
            assert!(!of("dns").contains("certificates"));
        }
    }

    #[test]
    fn no_seed_is_in_the_configuration() {
        let machines = [machine(1)];
        for role in [NatsRole::Founder, NatsRole::Leaf { founder: machines[0].overlay_ip }] {
            let spec = spec(role, &machines);
            assert!(!spec.config.contains("SUSECRET"));
            assert!(!spec.unit.environment.values().any(|value| value.contains("SUSECRET")));
        }
    }
}
