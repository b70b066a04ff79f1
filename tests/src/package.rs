//! Our package in a node: taking it away, and what it must not leave.

use anyhow::{Result, bail};

use crate::lab::Node;

/// Purges every package of ours that is installed, and fails when anything of it stays.
pub fn purge(node: &Node) -> Result<()> {
    node.sh(PURGE)?;
    match node.sh(LEFT)? {
        left if left.is_empty() => Ok(()),
        left => bail!("left after the purge:\n{left}"),
    }
}

const PURGE: &str =
    "p=$(dpkg-query -W -f '${Package}\\n' 'ployz*' 2>/dev/null); [ -z \"$p\" ] || dpkg --purge $p";

/// Prints whatever a purge should not have left.
const LEFT: &str = "systemctl daemon-reload
ls -d /etc/ployz /etc/systemd/system/ployz* /var/lib/ployz /run/ployz* 2>/dev/null
ip netns list | sed 's/^/netns /'
systemctl list-units --all --plain --no-legend 'ployz*' | sed 's/^/unit /'
nft list tables | grep ployz
ip -br link | grep -vE '^(lo|eth[0-9]|docker0)' | sed 's/^/link /'
ps -eo pid,comm,args | awk '$2 ~ /^ployz|^nats-server/ { print \"process\", $0 }'
true";
