//! A name as the table knows it: its octets as in a message (RFC 1035, 3.1), in lower case, without the root's.
//!
//! hickory's names are made of parts that are allocated one by one; a table of ten thousand, made anew at every change,
//! spent nearly all of its time on that. Here a name is one allocation, and what is above it is a part of it.

use hickory_server::proto::rr::{LowerName, Name};
use std::borrow::Borrow;
use std::net::IpAddr;
use std::sync::Arc;

/// The name that something belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<[u8]>);

impl Owner {
    /// From its labels; `None` when one of them, or all together, are too long.
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut octets = Vec::with_capacity(LONGEST);
        for label in labels {
            push(&mut octets, label.as_bytes())?;
        }
        Some(Self(octets.into()))
    }

    /// The name whose PTR tells what has this address.
    pub fn reverse(address: IpAddr) -> Self {
        let (labels, top): (Vec<String>, _) = match address {
            IpAddr::V4(address) => {
                (address.octets().iter().rev().map(ToString::to_string).collect(), ["in-addr", "arpa"])
            }
            IpAddr::V6(address) => {
                let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                (nibbles.map(|nibble| format!("{nibble:x}")).collect(), ["ip6", "arpa"])
            }
        };
        let labels = labels.iter().map(String::as_str).chain(top);
        Self::of(labels).expect("an address is at most 32 labels of one character")
    }

    /// The octets of the names above it, the next one first, down to the one with `least` labels.
    pub fn above(&self, least: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        let every = std::iter::from_fn(move || {
            rest = rest.get(1 + usize::from(*rest.first()?)..)?;
            Some(rest)
        });
        every.take_while(move |octets| labels(octets).count() >= least)
    }

    /// As hickory writes it into messages.
    pub fn name(&self) -> Name {
        Name::from_labels(labels(&self.0)).expect("its length was looked at when it was made")
    }
}

impl From<&[u8]> for Owner {
    /// From what [`Owner::above`] gave.
    fn from(octets: &[u8]) -> Self {
        Self(octets.into())
    }
}

impl Borrow<[u8]> for Owner {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// What to look for in a table of owners, of a name that is asked for.
pub fn octets(name: &LowerName) -> Vec<u8> {
    let mut octets = Vec::with_capacity(LONGEST);
    // A name that was read is not too long; of one that is, nothing is in any table.
    let _ = name.iter().try_for_each(|label| push(&mut octets, label));
    octets
}

fn push(octets: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    let length = u8::try_from(label.len()).ok().filter(|length| (1..=MOST_LABEL).contains(length))?;
    octets.push(length);
    octets.extend(label.iter().map(u8::to_ascii_lowercase));
    (octets.len() <= LONGEST).then_some(())
}

fn labels(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first()?;
        let (label, next) = after.split_at_checked(usize::from(*length))?;
        rest = next;
        Some(label)
    })
}

/// Octets of a name without the root's (RFC 1035, 2.3.4).
const LONGEST: usize = 254;
const MOST_LABEL: u8 = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn what_is_too_long_is_no_name() {
        let (most, long) = ("a".repeat(63), "a".repeat(64));
        assert!(Owner::of([&*most]).is_some() && Owner::of([&*long]).is_none() && Owner::of([""]).is_none());
        assert!(Owner::of([&*most; 4]).is_none(), "256 octets");
        assert!(Owner::of([&*most, &*most, &*most, &most[..61]]).is_some(), "254 octets");
    }

    #[test]
    fn above_a_name_are_its_parents() {
        let owner = Owner::of(["Web", "shop", "ployz", "internal"]).unwrap();
        let above: Vec<_> = owner.above(2).map(|octets| Owner::from(octets).name().to_string()).collect();
        assert_eq!(above, ["shop.ployz.internal.", "ployz.internal."]);
        assert_eq!(owner.name().to_string(), "web.shop.ployz.internal.");
    }

    proptest! {
        #[test]
        fn addresses_have_the_names_that_hickory_gives_them(four in any::<u32>(), six in any::<u128>()) {
            for address in [IpAddr::from(Ipv4Addr::from(four)), IpAddr::from(Ipv6Addr::from(six))] {
                let theirs = Name::from(address);
                prop_assert_eq!(Owner::reverse(address).name(), theirs.clone());
                prop_assert_eq!(&*octets(&LowerName::new(&theirs)), &*Owner::reverse(address).0);
            }
        }
    }
}
