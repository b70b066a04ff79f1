//! Whose a name is: the mesh's zone, one of its reverse zones, a bare name, or somebody else's.
//!
//! Pure and independent of the routing state, so that a name of ours is never forwarded, not even while nothing is known.

use hickory_server::proto::rr::{LowerName, Name};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The ranges whose reverse zones are ours.
#[derive(Debug, Clone)]
pub struct Realm {
    /// Containers and service addresses.
    pub cluster: Ipv4Net,
    /// Overlay addresses.
    pub overlay: Ipv6Net,
    zone: LowerName,
}

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// At or below `ployz.internal`.
    Zone,
    /// In the reverse zone with this apex.
    Reverse(Name),
    /// One label: it means a service of the asker's namespace or nothing; never asked for elsewhere.
    Bare,
    /// Anything else.
    Elsewhere,
}

impl Realm {
    /// The realm of a network.
    pub fn new(cluster: Ipv4Net, overlay: Ipv6Net) -> Self {
        let zone = crate::zone::name(&[]).expect("the zone's own name is a valid one");
        Self { cluster, overlay, zone: LowerName::new(&zone) }
    }

    /// Whose `name` is.
    pub fn of(&self, name: &LowerName) -> Whose {
        if self.zone.zone_of(name) {
            return Whose::Zone;
        }
        match name.iter().len() {
            0 => Whose::Elsewhere,
            1 => Whose::Bare,
            _ => self.reverse(name).map_or(Whose::Elsewhere, Whose::Reverse),
        }
    }

    /// The zone's own name.
    pub fn zone(&self) -> &LowerName {
        &self.zone
    }

    fn reverse(&self, name: &LowerName) -> Option<Name> {
        let labels: Vec<&[u8]> = name.iter().collect();
        let (kind, parts) = match labels.as_slice() {
            [parts @ .., b"in-addr", b"arpa"] => (IpNet::from(self.cluster), parts),
            [parts @ .., b"ip6", b"arpa"] => (IpNet::from(self.overlay), parts),
            _ => return None,
        };
        let unit = if matches!(kind, IpNet::V4(_)) { 8 } else { 4 };
        let apex = kind.prefix_len().div_ceil(unit) as usize;
        let tail = &parts[parts.len().checked_sub(apex)?..];
        let covered = match kind {
            IpNet::V4(cluster) => cluster.contains(&octets(tail)?),
            IpNet::V6(overlay) => overlay.contains(&nibbles(tail)?),
        };
        covered.then(|| name.trim_to(apex + 2))
    }
}

/// The address that begins with these, written from the last.
fn octets(labels: &[&[u8]]) -> Option<Ipv4Addr> {
    let mut address = [0; 4];
    for (octet, label) in address.iter_mut().zip(labels.iter().rev()) {
        *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
    }
    Some(address.into())
}

fn nibbles(labels: &[&[u8]]) -> Option<Ipv6Addr> {
    let mut address = 0u128;
    for (place, label) in labels.iter().rev().enumerate().take(32) {
        let [digit] = label else { return None };
        let digit = char::from(*digit).to_digit(16)?;
        address |= u128::from(digit) << (124 - 4 * place);
    }
    Some(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn whose(cluster: &str, name: &str) -> Whose {
        let realm = Realm::new(cluster.parse().unwrap(), "fda1:2826:9433::/48".parse().unwrap());
        realm.of(&LowerName::new(&Name::from_str(name).unwrap()))
    }

    fn reverse(apex: &str) -> Whose {
        Whose::Reverse(Name::from_str(apex).unwrap())
    }

    #[test]
    fn zone_and_what_only_looks_like_it() {
        assert_eq!(whose("10.101.0.0/16", "a.b.PLOYZ.internal."), Whose::Zone);
        assert_eq!(whose("10.101.0.0/16", "ployz.internal."), Whose::Zone);
        assert_eq!(whose("10.101.0.0/16", "xployz.internal."), Whose::Elsewhere);
        assert_eq!(whose("10.101.0.0/16", "internal."), Whose::Bare);
        assert_eq!(whose("10.101.0.0/16", "."), Whose::Elsewhere);
        assert_eq!(whose("10.101.0.0/16", "ployz.internal.example.org."), Whose::Elsewhere);
    }

    #[test]
    fn reverse_names_of_the_cluster_are_ours_whole_octets_or_not() {
        assert_eq!(whose("10.101.0.0/16", "3.2.101.10.in-addr.arpa."), reverse("101.10.in-addr.arpa."));
        assert_eq!(whose("10.101.0.0/16", "101.10.in-addr.arpa."), reverse("101.10.in-addr.arpa."));
        assert_eq!(whose("10.101.0.0/16", "x.y.101.10.in-addr.arpa."), reverse("101.10.in-addr.arpa."));
        assert_eq!(whose("10.101.0.0/16", "10.in-addr.arpa."), Whose::Elsewhere);
        assert_eq!(whose("10.101.0.0/16", "3.2.102.10.in-addr.arpa."), Whose::Elsewhere);
        assert_eq!(whose("172.16.0.0/12", "1.1.31.172.in-addr.arpa."), reverse("31.172.in-addr.arpa."));
        assert_eq!(whose("172.16.0.0/12", "1.1.32.172.in-addr.arpa."), Whose::Elsewhere);
        assert_eq!(whose("172.16.0.0/12", "172.in-addr.arpa."), Whose::Elsewhere);
    }

    #[test]
    fn reverse_names_of_the_overlay_are_ours() {
        let own = Name::from("fda1:2826:9433::5".parse::<Ipv6Addr>().unwrap()).to_string();
        assert_eq!(whose("10.0.0.0/8", &own), reverse("3.3.4.9.6.2.8.2.1.a.d.f.ip6.arpa."));
        let other = Name::from("fda1:2826:9434::5".parse::<Ipv6Addr>().unwrap()).to_string();
        assert_eq!(whose("10.0.0.0/8", &other), Whose::Elsewhere);
        assert_eq!(whose("10.0.0.0/8", "zz.ip6.arpa."), Whose::Elsewhere);
    }
}
