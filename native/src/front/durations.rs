//! How long the calls took that were answered here.

use std::sync::atomic::{AtomicU64, Ordering};

/// A histogram that many threads add to.
pub struct Durations {
    /// Seconds, ascending.
    bounds: Box<[f64]>,
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Durations {
    /// ``bounds`` are in seconds, ascending.
    pub fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.into(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Counts one call, which took so many seconds.
    pub fn add(&self, took: f64) {
        let place = self.bounds.partition_point(|bound| *bound < took);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds
            .fetch_add((took * 1e9) as u64, Ordering::Relaxed);
    }

    /// Calls by bound, those beyond the last, and the sum in seconds, since this was called last.
    pub fn take(&self) -> (Vec<u64>, f64) {
        let counts = self.counts.iter();
        (
            counts.map(|c| c.swap(0, Ordering::Relaxed)).collect(),
            self.nanoseconds.swap(0, Ordering::Relaxed) as f64 / 1e9,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_in_the_first_bound_that_it_does_not_exceed() {
        let durations = Durations::new(&[0.001, 0.01]);
        for took in [0.0, 0.001, 0.002, 0.01, 0.011] {
            durations.add(took);
        }
        let (counts, sum) = durations.take();
        assert_eq!(counts, [2, 2, 1]);
        assert!((sum - 0.024).abs() < 1e-9);
        assert_eq!(durations.take(), (vec![0, 0, 0], 0.0));
    }
}
