//! Our nftables tables as found.

use crate::spec::firewall::Chain;

/// The table of each side; `None` = proven absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirewallLive {
    /// In the host namespace.
    pub host: Option<TableLive>,
    /// In the namespace `ployz`.
    pub netns: Option<TableLive>,
}

/// A table as `nft list table` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableLive {
    /// Its chains in the order listed.
    pub chains: Vec<Chain>,
}

impl TableLive {
    /// Reads the text of `nft --stateless list table inet ployz`.
    ///
    /// Lines that are neither a chain, its hook nor a rule are kept as rules, so that anything added by hand
    /// shows as drift.
    pub fn parse(listing: &str) -> Self {
        let mut chains: Vec<Chain> = Vec::new();
        for line in listing.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
                chains.push(Chain { name: name.to_owned(), hook: String::new(), rules: Vec::new() });
            } else if line.starts_with("table ") || line == "}" || line.is_empty() {
                continue;
            } else if let Some(chain) = chains.last_mut() {
                if line.starts_with("type ") && chain.hook.is_empty() && chain.rules.is_empty() {
                    chain.hook = line.to_owned();
                } else {
                    chain.rules.push(line.to_owned());
                }
            } else {
                chains.push(Chain { name: "-".into(), hook: String::new(), rules: vec![line.to_owned()] });
            }
        }
        Self { chains }
    }
}
