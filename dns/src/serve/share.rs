//! What one source address may hold of something that is there for all: connections, questions that wait.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Counts by source; a source that holds nothing is not kept.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One piece of a source's share, given back when it is dropped.
#[derive(Debug)]
pub struct Piece {
    source: IpAddr,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Shares {
    /// At most so many each.
    pub fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// One more for this source; `None`: it has its share already.
    pub fn take(&self, source: IpAddr) -> Option<Piece> {
        let source = source.to_canonical();
        let mut held = self.held.lock();
        let count = held.entry(source).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Piece { source, held: self.held.clone() })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_sources_own_and_comes_back() {
        let shares = Shares::new(2);
        let [one, mapped, other] =
            ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let first = shares.take(one).unwrap();
        let second = shares.take(mapped).unwrap();
        assert!(shares.take(one).is_none());
        assert!(shares.take(other).is_some());
        drop(first);
        let third = shares.take(one).unwrap();
        drop((second, third));
        assert!(shares.held.lock().is_empty(), "what is given back leaves nothing behind");
    }
}
