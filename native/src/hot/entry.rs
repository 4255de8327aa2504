//! An entry as Python sees it, and the counters of a tier.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::answers::MAX_HITS;

/// See `embercache_native.pyi`.
///
/// Hits that the front door counts add up beside those that are counted here, and are moved over
/// whenever these are looked at.
#[pyclass(frozen, generic, module = "embercache_native")]
pub struct HotEntry {
    value: Mutex<Py<PyAny>>,
    #[pyo3(get)]
    pub(super) account: Py<PyAny>,
    #[pyo3(get)]
    pub(super) size: usize,
    #[pyo3(get)]
    pub(super) since: f64,
    #[pyo3(get)]
    pub(super) expires: f64,
    stamp: AtomicI64,
    hits: AtomicU8,
    /// There is one as soon as the front door may answer for this entry.
    front_hits: OnceLock<Arc<AtomicU8>>,
}

#[pymethods]
impl HotEntry {
    #[getter]
    fn value(&self, py: Python<'_>) -> Py<PyAny> {
        self.value.lock().clone_ref(py)
    }

    #[setter]
    fn set_value(&self, value: Py<PyAny>) {
        // The lock is free again when the old value goes, which may run any code.
        let old = std::mem::replace(&mut *self.value.lock(), value);
        drop(old);
    }

    #[getter]
    fn stamp(&self) -> i64 {
        self.stamp.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_stamp(&self, stamp: i64) {
        self.stamp.store(stamp, Ordering::Relaxed);
    }

    #[getter]
    pub(super) fn hits(&self) -> u8 {
        self.take_front_hits();
        self.hits.load(Ordering::Relaxed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(value) = self.value.try_lock() {
            visit.call(&*value)?;
        }
        visit.call(&self.account)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.set_value(py.None());
    }
}

impl HotEntry {
    pub(super) fn new(
        value: Py<PyAny>,
        size: usize,
        account: Py<PyAny>,
        since: f64,
        expires: f64,
        stamp: i64,
    ) -> Self {
        Self {
            value: Mutex::new(value),
            account,
            size,
            since,
            expires,
            stamp: AtomicI64::new(stamp),
            hits: AtomicU8::new(0),
            front_hits: OnceLock::new(),
        }
    }

    /// What is to count the hits of the front door.
    pub(super) fn front_hits(&self) -> &Arc<AtomicU8> {
        self.front_hits.get_or_init(Arc::default)
    }

    /// Counts the hits of the front door since this was called last; says whether there were any.
    pub(super) fn take_front_hits(&self) -> bool {
        let Some(hits) = self.front_hits.get() else {
            return false;
        };
        let taken = hits.swap(0, Ordering::Relaxed);
        let sum = self.hits.load(Ordering::Relaxed).saturating_add(taken);
        self.hits.store(sum.min(MAX_HITS), Ordering::Relaxed);
        taken > 0
    }

    pub(super) fn hit(&self) {
        let hits = self.hits();
        if hits < MAX_HITS {
            self.set_hits(hits + 1);
        }
    }

    pub(super) fn set_hits(&self, hits: u8) {
        self.hits.store(hits, Ordering::Relaxed);
    }
}

/// See `embercache_native.pyi`.
#[pyclass(frozen, module = "embercache_native")]
#[derive(Default)]
pub struct HotCounters {
    pub(super) evictions: AtomicU64,
    pub(super) expirations: AtomicU64,
}

#[pymethods]
impl HotCounters {
    #[getter]
    fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    #[getter]
    fn expirations(&self) -> u64 {
        self.expirations.load(Ordering::Relaxed)
    }
}
