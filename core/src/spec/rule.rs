//! Routing policy rules of the host: two a range of ours, and what is known of everybody else's.
//!
//! The kernel asks the rules in the order of their priorities, and the first table that has a route decides. Another VPN
//! puts a rule before `main` (Tailscale at 5210 to 5270, NetBird at 105 and 110), and its default route takes the overlay
//! too. Ours come first: the machine's own addresses, then the routes that carry our protocol number.

use ipnet::IpNet;
use std::fmt;

/// One rule, ours as wanted or anybody's as found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Smaller ones are asked first.
    pub priority: u32,
    /// Whether it is a rule of IPv6.
    pub v6: bool,
    /// Destinations it is for (`None` = all).
    pub to: Option<IpNet>,
    /// Whatever else narrows it, in the words of ip-rule(8): `from 10.9.0.0/16`, `not`, `iif tun0`.
    pub only: Vec<String>,
    /// Whether it is for marked packets alone. Ours carry no mark.
    pub marked: bool,
    /// What it does with a packet.
    pub action: Action,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Looks the destination up in this table.
    Lookup(u32),
    /// Anything else, in the words of ip-rule(8).
    Other(String),
}

impl Rule {
    /// The rules that lead a range of the overlay to our routes.
    pub fn ours(to: IpNet) -> [Self; 2] {
        let rule = |priority, table| Self {
            priority,
            v6: matches!(to, IpNet::V6(_)),
            to: Some(to),
            only: Vec::new(),
            marked: false,
            action: Action::Lookup(table),
        };
        [rule(LOCAL_PRIORITY, LOCAL_TABLE), rule(MAIN_PRIORITY, MAIN_TABLE)]
    }

    /// Whether this foreign rule is asked before ours and may decide on a packet to `range`. One that looks in
    /// `local` or `main` finds what ours would find.
    pub fn comes_before_ours(&self, range: &IpNet) -> bool {
        let finds_the_same = matches!(self.action, Action::Lookup(LOCAL_TABLE | MAIN_TABLE));
        let same_family = self.v6 == matches!(range, IpNet::V6(_));
        let overlaps = self.to.is_none_or(|to| to.contains(range) || range.contains(&to));
        self.priority <= MAIN_PRIORITY && same_family && overlaps && !self.marked && !finds_the_same
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        self.only.iter().try_for_each(|word| write!(f, " {word}"))?;
        match (self.to, self.v6) {
            (Some(to), _) => write!(f, " to {to}")?,
            (None, true) => f.write_str(" to ::/0")?,
            (None, false) => f.write_str(" to 0.0.0.0/0")?,
        }
        write!(f, " {}", self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(LOCAL_TABLE) => f.write_str("lookup local"),
            Self::Lookup(MAIN_TABLE) => f.write_str("lookup main"),
            Self::Lookup(table) => write!(f, "lookup {table}"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Priority of the rules that look up the machine's own addresses. Some networks of Kubernetes (Cilium) move the kernel's
/// rule for that from 0 to 100, which is behind [`MAIN_PRIORITY`].
pub const LOCAL_PRIORITY: u32 = 75;
/// Priority of the rules that look up our routes: the number of their protocol.
pub const MAIN_PRIORITY: u32 = 76;
/// The kernel's table of the machine's own addresses (RT_TABLE_LOCAL, linux/rtnetlink.h).
pub const LOCAL_TABLE: u32 = 255;
/// The table that routes are in unless they ask for another (RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(priority: u32, to: Option<&str>, table: u32) -> Rule {
        let to = to.map(|text| text.parse().unwrap());
        Rule { priority, v6: false, to, only: Vec::new(), marked: false, action: Action::Lookup(table) }
    }

    #[test]
    fn another_vpns_rule_is_behind_ours() {
        let range = "10.101.0.0/16".parse().unwrap();
        for (rule, before) in [
            (foreign(5270, None, 52), false),
            (foreign(110, None, 7120), false),
            (foreign(76, None, 52), true),
            (foreign(9, Some("10.101.4.0/24"), 52), true),
            (foreign(9, Some("10.0.0.0/8"), 52), true),
            (foreign(9, Some("192.0.2.0/24"), 52), false),
            (foreign(9, None, LOCAL_TABLE), false),
            (foreign(9, None, MAIN_TABLE), false),
            (Rule { marked: true, ..foreign(9, None, 52) }, false),
            (Rule { v6: true, ..foreign(9, None, 52) }, false),
            (Rule { action: Action::Other("unreachable".into()), ..foreign(9, None, 0) }, true),
        ] {
            assert_eq!(rule.comes_before_ours(&range), before, "{rule}");
        }
    }

    #[test]
    fn a_rule_reads_as_ip_rule_prints_it() {
        let [local, main] = Rule::ours("10.101.0.0/16".parse().unwrap()).map(|rule| rule.to_string());
        assert_eq!(local, "75: to 10.101.0.0/16 lookup local");
        assert_eq!(main, "76: to 10.101.0.0/16 lookup main");
        let theirs = Rule { only: vec!["not".into(), "iif tun0".into()], ..foreign(5270, None, 52) };
        assert_eq!(theirs.to_string(), "5270: not iif tun0 to 0.0.0.0/0 lookup 52");
    }
}
