//! Times in milliseconds, and what half and all but a hundredth of them did not exceed.

use std::time::Duration;

/// One measure, all of its times.
pub(super) struct Figures(Vec<f64>);

impl Figures {
    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Median, p99 and the longest, as `1.2:3.4:5.6`.
    pub(super) fn line(&self) -> String {
        format!("{:.1}:{:.1}:{:.1}", self.rank(0.5), self.rank(0.99), self.rank(1.0))
    }

    /// By nearest rank.
    fn rank(&self, part: f64) -> f64 {
        let place = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_times_that_were_seen() {
        let figures = Figures::of((1..=200).rev().map(Duration::from_millis));
        assert_eq!(figures.line(), "100.0:198.0:200.0");
        assert_eq!(Figures::of([Duration::from_micros(1500)]).line(), "1.5:1.5:1.5");
    }
}
