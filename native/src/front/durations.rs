//! How long the calls took that were answered here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram that many threads add to.
pub struct Durations {
    /// Nanoseconds, ascending.
    bounds: Box<[u64]>,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Durations {
    /// ``bounds`` are in seconds, ascending.
    pub fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.iter().map(|bound| (bound * 1e9) as u64).collect(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one call.
    pub fn add(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| *bound < nanoseconds);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Calls by bound, those beyond the last, and the sum in seconds, since this was called last.
    pub fn take(&self) -> (Vec<u64>, f64) {
        let counts = self.counts.iter();
        (
            counts.map(|c| c.swap(0, Ordering::Relaxed)).collect(),
            self.sum.swap(0, Ordering::Relaxed) as f64 / 1e9,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_in_the_first_bound_that_it_does_not_exceed() {
        let durations = Durations::new(&[0.001, 0.01]);
        for milliseconds in [0, 1, 2, 10, 11] {
            durations.add(Duration::from_millis(milliseconds));
        }
        let (counts, sum) = durations.take();
        assert_eq!(counts, [2, 2, 1]);
        assert!((sum - 0.024).abs() < 1e-9);
        assert_eq!(durations.take(), (vec![0, 0, 0], 0.0));
    }
}
