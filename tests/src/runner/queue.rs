//! What is still to run: scenarios that can share a lab are handed out together, to as many labs as run at once.

use std::sync::{Mutex, PoisonError};

/// Scenarios with the key of the lab they need.
pub struct Queue<K, T> {
    waiting: Mutex<Vec<(K, T)>>,
}

impl<K: Ord + Copy, T> Queue<K, T> {
    /// All of them, in the order in which those of one key run.
    pub fn new(waiting: Vec<(K, T)>) -> Self {
        Self { waiting: Mutex::new(waiting) }
    }

    /// The next for somebody who has a lab of key `have`, or the first of the longest row; whether another of that key is
    /// left (which somebody else may take first).
    pub fn take(&self, have: Option<K>) -> Option<(T, bool)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |key: K| waiting.iter().filter(|(other, _)| *other == key).count();
        let longest = || waiting.iter().map(|(key, _)| *key).max_by_key(|key| (count(*key), *key));
        let key = have.filter(|key| count(*key) > 0).or_else(longest)?;
        let at = waiting.iter().position(|(other, _)| *other == key)?;
        let (_, item) = waiting.remove(at);
        Some((item, waiting.iter().any(|(other, _)| *other == key)))
    }

    /// Nothing more is handed out.
    pub fn stop(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_lab_stays_with_it_and_then_takes_the_longest_row() {
        let queue = Queue::new(vec![('a', 1), ('b', 2), ('c', 3), ('b', 4), ('c', 5), ('c', 6)]);
        assert_eq!(queue.take(Some('b')), Some((2, true)));
        assert_eq!(queue.take(None), Some((3, true)));
        assert_eq!(queue.take(Some('b')), Some((4, false)));
        assert_eq!(queue.take(Some('b')), Some((5, true)));
        assert_eq!(queue.take(Some('c')), Some((6, false)));
        assert_eq!(queue.take(Some('c')), Some((1, false)));
        assert_eq!(queue.take(None), None);
    }

    #[test]
    fn a_stopped_queue_is_empty() {
        let queue = Queue::new(vec![('a', 1)]);
        queue.stop();
        assert_eq!(queue.take(Some('a')), None);
    }
}
