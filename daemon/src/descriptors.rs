//! How many files this process may open, and how many of them listeners may take.
//!
//! A listener that others can reach gets a share, so that there are always descriptors left for what ployzd does by itself.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process open as many files as it may: without systemd's `LimitNOFILE=` the soft limit is 1,024 as a rule.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
}

/// Connections that one listener may hold: `most`, but no more than a sixteenth of what may be open.
pub fn share(most: usize) -> usize {
    share_of(getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft), most)
}

fn share_of(limit: u64, most: usize) -> usize {
    usize::try_from(limit / 16).unwrap_or(most).clamp(1, most.max(1))
}

/// What a process may open where nothing else is said.
const USUAL: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_takes_a_sixteenth_of_the_descriptors_at_most() {
        let shares = [(65_536, 128), (1024, 64), (256, 16), (8, 1), (u64::MAX, 128)];
        for (limit, wanted) in shares {
            assert_eq!(share_of(limit, 128), wanted, "of {limit}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard - 1, hard).unwrap();
        raise();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
