//! Names of instances: `<service>-<slot>-<five random characters>`, a valid DNS label, never the same twice.

use crate::id::{InstanceId, ServiceName};

/// Where random numbers come from; handed in.
pub type Draw<'a> = &'a mut dyn FnMut() -> u64;

/// A name that is not taken. Long service names are cut, so that the rest fits a DNS label.
pub fn name(
    service: &ServiceName,
    slot: u32,
    taken: impl Fn(&InstanceId) -> bool,
    draw: Draw<'_>,
) -> InstanceId {
    let mut number = draw();
    loop {
        let tail = format!("-{slot}-{}", code(number));
        let head: String = service.as_str().chars().take(MAX_LABEL - tail.len()).collect();
        let text = format!("{}{tail}", head.trim_end_matches('-'));
        let id: InstanceId = text.parse().expect("a cut service name, a number and a code make a label");
        if !taken(&id) {
            return id;
        }
        // The next code, not the next draw: this ends even where the numbers repeat.
        number = number.wrapping_add(1);
    }
}

fn code(number: u64) -> String {
    (0..LENGTH).map(|place| char::from(LETTERS[(number >> (5 * place)) as usize & 31])).collect()
}

/// Without `l`, `o`, `0` and `1`, which people read as each other.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const LENGTH: u32 = 5;
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_says_service_and_slot() {
        let service = "web".parse().unwrap();
        assert_eq!(name(&service, 0, |_| false, &mut || 0).as_str(), "web-0-aaaaa");
        assert_eq!(name(&service, 12, |_| false, &mut || u64::MAX).as_str(), "web-12-99999");
    }

    proptest! {
        #[test]
        fn names_are_labels_and_unique_whatever_is_drawn(
            service in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            slot in 0u32..=u32::MAX,
            seed in any::<u64>(),
        ) {
            let service: ServiceName = service.parse().unwrap();
            let mut taken = BTreeSet::new();
            for _ in 0..50 {
                let id = name(&service, slot, |id| taken.contains(id), &mut || seed);
                prop_assert!(id.as_str().len() <= 63);
                prop_assert!(taken.insert(id));
            }
        }
    }
}
