//! What a failed scenario leaves behind: the journals and network state of every node, in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Lab, Node};

impl Lab {
    /// Writes journals, unit states, addresses, WireGuard, nftables and the console of every node below `dir`, and returns
    /// the last lines of the daemon's journal of each node. A node that cannot answer leaves a file that says so.
    pub fn collect(&self, dir: &Path) -> Result<Vec<(String, String)>> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        self.set_deadline(None);
        self.each(|node| {
            if node.is_up() {
                node.thaw()?;
            }
            for (name, cmd) in FILES {
                let text = ask(node, cmd);
                fs::write(dir.join(format!("{}-{name}.txt", node.name())), text)?;
            }
            if node.console().exists() {
                fs::copy(node.console(), dir.join(format!("{}-console.log", node.name())))?;
            }
            Ok((node.name(), ask(node, TAIL)))
        })
    }
}

/// `target/lab-artifacts/NAME` of the checkout that this was built from.
pub fn artifact_dir(name: &str) -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(checkout, PathBuf::from);
    target.join("lab-artifacts").join(name)
}

fn ask(node: &Node, cmd: &str) -> String {
    match node.run_for(Duration::from_secs(30), cmd) {
        Ok(output) => output.stdout + &output.stderr,
        Err(error) => format!("{error:#}\n"),
    }
}

const FILES: &[(&str, &str)] = &[
    ("journal", "journalctl -b --no-pager -o short-precise"),
    ("journal-before", "journalctl -b -1 --no-pager -o short-precise"),
    ("units", "systemctl status 'ployz*' --no-pager -l; echo; systemctl --failed --no-pager"),
    (
        "network",
        "for n in '' $(ip netns list | cut -d' ' -f1); do echo \"=== netns ${n:-of the machine}\"; \
         i() { ip ${n:+-n $n} \"$@\"; }; i -d addr; i route show table all; i -6 route; i rule; i neigh; \
         w() { if [ -n \"$n\" ]; then ip netns exec $n \"$@\"; else \"$@\"; fi; }; \
         echo '--- wg'; w wg show; echo '--- nft'; w nft list ruleset; echo '--- sockets'; w ss -tulpn; done",
    ),
    ("processes", "ps -eo pid,ppid,user,stat,etime,rss,cgroup:60,args; df -h / /run; free -m"),
];

const TAIL: &str = "journalctl -b -u ployzd -n 60 --no-pager -o short-precise";
