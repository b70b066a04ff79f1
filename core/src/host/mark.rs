//! Which machine a state was made on: what tells it from a copy on another one.
//!
//! A copy of the disk carries keys and names with it, and often the machine-id too. The firmware's UUID is the hypervisor's
//! or the board's and is not on the disk; where there is none that means anything (containers, cheap boards), the machine-id
//! has to do. A copy that has both alike is found by its peers (`mesh::twin`).

use crate::adopt::Drift;
use serde::{Deserialize, Serialize};

/// What a machine is known by. `None`: not known, which is no difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMark {
    /// `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The firmware's product UUID, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_uuid: Option<String>,
}

impl HostMark {
    /// From what was read; a UUID that many boards share is none.
    pub fn new(machine_id: Option<&str>, product_uuid: Option<&str>) -> Self {
        let known = |text: Option<&str>| {
            text.map(|text| text.trim().to_ascii_lowercase()).filter(|text| !text.is_empty())
        };
        Self {
            machine_id: known(machine_id),
            product_uuid: known(product_uuid).filter(|uuid| !is_shared(uuid)),
        }
    }

    /// In what the machine `found` here differs from the one that the state was made on; nothing when it is the same. Who
    /// gives a machine another machine-id has not made another machine of it, as long as the firmware's UUID says so.
    pub fn differs(&self, found: &Self) -> Vec<Drift> {
        let drift = |field: &str, was: &Option<String>, is: &Option<String>| match (was, is) {
            (Some(was), Some(is)) if was != is => Some(Drift::new(field, was, is)),
            _ => None,
        };
        let by_uuid = self.product_uuid.is_some() && found.product_uuid.is_some();
        let uuid = drift("product_uuid", &self.product_uuid, &found.product_uuid);
        if by_uuid && uuid.is_none() {
            return Vec::new();
        }
        uuid.into_iter().chain(drift("machine-id", &self.machine_id, &found.machine_id)).collect()
    }
}

/// All digits alike, or the one that a firmware's vendor forgot to replace.
fn is_shared(uuid: &str) -> bool {
    let mut digits = uuid.chars().filter(char::is_ascii_hexdigit);
    let first = digits.next();
    digits.all(|digit| Some(digit) == first) || uuid == FORGOTTEN
}

const FORGOTTEN: &str = "03000200-0400-0500-0006-000700080009";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_the_machine_it_was_made_on() {
        let mark = |id, uuid| HostMark::new(Some(id), uuid);
        let (a, b) =
            (Some("11111111-2222-4333-8444-555555555555"), Some("AAAAAAAA-2222-4333-8444-555555555555"));
        let zeros = Some("00000000-0000-0000-0000-000000000000");
        for (what, was, is, fields) in [
            ("the same machine", mark("x", a), mark("x", a), vec![]),
            (
                "a virtual machine cloned with its machine-id",
                mark("x", a),
                mark("x", b),
                vec!["product_uuid"],
            ),
            ("and without", mark("x", a), mark("y", b), vec!["product_uuid", "machine-id"]),
            ("a machine that was given another machine-id", mark("x", a), mark("y", a), vec![]),
            ("a container copied", mark("x", None), mark("y", None), vec!["machine-id"]),
            (
                "a container copied with its machine-id: only peers can tell",
                mark("x", None),
                mark("x", None),
                vec![],
            ),
            ("a disk moved into a container", mark("x", a), mark("x", None), vec![]),
            ("two boards of one vendor", mark("x", zeros), mark("y", zeros), vec!["machine-id"]),
            ("a state of before marks", HostMark::default(), mark("x", a), vec![]),
        ] {
            let found: Vec<String> = was.differs(&is).into_iter().map(|drift| drift.field).collect();
            assert_eq!(found, fields, "{what}");
        }
        assert_eq!(mark("x", Some(FORGOTTEN)).product_uuid, None);
    }
}
