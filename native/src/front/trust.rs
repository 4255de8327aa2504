//! Until when answers may be given without a word of Python.
//!
//! Python moves the guards of answers as it hears of what was invalidated. While it hangs, it does
//! not; nobody would, so that answers are then left to it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A moment of CLOCK_MONOTONIC in seconds, as its bits.
pub struct Trust(AtomicU64);

impl Default for Trust {
    /// For ever.
    fn default() -> Self {
        Self(AtomicU64::new(f64::INFINITY.to_bits()))
    }
}

impl Trust {
    /// Until that moment, whatever was said before.
    pub fn set(&self, until: f64) {
        self.0.store(until.to_bits(), Ordering::Relaxed);
    }

    /// Whether answers may be given at that moment.
    pub fn holds(&self, now: f64) -> bool {
        now <= f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}
