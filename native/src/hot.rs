//! The hot tier: see `sidecar/cache/hot.py`, which this follows, save that a place in the queue of
//! a namespace with a limit costs nothing more, and that the front door gets answers from it.
//!
//! `State` is touched under the interpreter's lock only, so its own lock is always free: whatever
//! may run code of Python (the clock, limits, attributes of accounts, the end of a value) is done
//! before it is taken or after it was let go.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::time::{ClockId, clock_gettime};

use crate::answers::{Answer, Answers, Key};
use state::State;

mod accounts;
mod entry;
mod ghosts;
mod queue;
mod state;

pub use entry::{HotCounters, HotEntry};

/// What an entry costs beside its key and payload: its slot, its object and that of its value, its
/// share of the ghosts, and its answer's, measured as resident memory
/// (tests/unit/cache/test_hot_memory.py). Of this, 200 are the tier's own.
pub const ENTRY_OVERHEAD_BYTES: usize = 704;

/// Now, in seconds of the clock of `time.monotonic`.
pub fn monotonic() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec) as f64 / 1e9
}

enum Clock {
    Monotonic,
    Python(Py<PyAny>),
}

impl Clock {
    fn new(clock: Bound<'_, PyAny>) -> PyResult<Self> {
        let time = clock.py().import("time")?;
        Ok(if clock.is(&time.getattr("monotonic")?) {
            Self::Monotonic
        } else {
            Self::Python(clock.unbind())
        })
    }

    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        match self {
            Self::Monotonic => Ok(monotonic()),
            Self::Python(clock) => clock.call0(py)?.extract(py),
        }
    }
}

/// See `embercache_native.pyi`.
#[pyclass(frozen, generic, module = "embercache_native")]
pub struct HotTier {
    #[pyo3(get)]
    capacity_bytes: usize,
    #[pyo3(get)]
    counters: Py<HotCounters>,
    clock: Clock,
    limit_of: Mutex<Option<Py<PyAny>>>,
    answers: Arc<Answers>,
    state: Mutex<State>,
}

#[pymethods]
impl HotTier {
    #[new]
    #[pyo3(signature = (capacity_bytes, clock, policy = "s3fifo"))]
    fn new(capacity_bytes: usize, clock: Bound<'_, PyAny>, policy: &str) -> PyResult<Self> {
        if !["s3fifo", "lru"].contains(&policy) {
            return Err(PyValueError::new_err(format!(
                "no policy {policy:?}: say \"s3fifo\" or \"lru\""
            )));
        }
        let py = clock.py();
        let counters = Py::new(py, HotCounters::default())?;
        let answers = Arc::<Answers>::default();
        let state = State::new(
            capacity_bytes,
            policy == "lru",
            counters.clone_ref(py),
            answers.clone(),
        );
        Ok(Self {
            capacity_bytes,
            counters,
            clock: Clock::new(clock)?,
            limit_of: Mutex::new(None),
            answers,
            state: Mutex::new(state),
        })
    }

    #[getter]
    fn bytes(&self) -> PyResult<usize> {
        Ok(self.state()?.bytes)
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.state()?.len())
    }

    fn get(&self, py: Python<'_>, key: &[u8]) -> PyResult<Option<Py<HotEntry>>> {
        let now = self.clock.now(py)?;
        let mut state = self.state()?;
        if let Some(entry) = state.get(key, now) {
            return Ok(Some(entry.clone_ref(py)));
        }
        finish(py, state)?;
        Ok(None)
    }

    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (key, value, payload_bytes, account, *, ttl = f64::INFINITY, stamp = 0))]
    fn put(
        &self,
        key: &[u8],
        value: Bound<'_, PyAny>,
        payload_bytes: usize,
        account: Bound<'_, PyAny>,
        ttl: f64,
        stamp: i64,
    ) -> PyResult<()> {
        let py = value.py();
        if ttl <= 0.0 {
            return self.remove(py, key);
        }
        let size = key.len().saturating_add(payload_bytes);
        let size = size.saturating_add(ENTRY_OVERHEAD_BYTES);
        let now = self.clock.now(py)?;
        let owner = account.clone().unbind();
        let entry = HotEntry::new(value.unbind(), size, owner, now, now + ttl, stamp);
        let entry = Py::new(py, entry)?;
        let mut state = self.state()?;
        let number = match state.account(&account) {
            Some(number) => number,
            None => {
                drop(state);
                let (namespace, limit) = self.namespace(&account)?;
                state = self.state()?;
                state.open_account(&account, namespace, limit)
            }
        };
        state.put(key, entry, number);
        finish(py, state)
    }

    fn answer(&self, key: &[u8], answer: &Answer) -> PyResult<()> {
        let key = Key::try_from(key).map_err(|_| {
            PyValueError::new_err(format!(
                "the key of an answer has 16 bytes, not {}",
                key.len()
            ))
        })?;
        self.state()?.answer(key, answer.0.clone());
        Ok(())
    }

    fn remove(&self, py: Python<'_>, key: &[u8]) -> PyResult<()> {
        let mut state = self.state()?;
        state.remove(key);
        finish(py, state)
    }

    fn limit(&self, py: Python<'_>, limit_of: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let mut limits = HashMap::new();
        if let Some(limit_of) = &limit_of {
            for name in self.state()?.namespaces() {
                let said = limit_of.call1((&*name,))?;
                limits.insert(name, limit(said)?);
            }
        }
        let now = self.clock.now(py)?;
        let limit_of = limit_of.map(Bound::unbind);
        let before = std::mem::replace(&mut *self.limit_of.lock(), limit_of);
        let mut state = self.state()?;
        state.limit(&limits, now);
        finish(py, state)?;
        drop(before);
        Ok(())
    }

    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        let mut state = self.state()?;
        let count = state.len();
        state.clear();
        finish(py, state)?;
        Ok(count)
    }

    fn ages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now = self.clock.now(py)?;
        let ages = self.state()?.ages(py, now);
        let told = PyDict::new(py);
        for (account, age) in ages {
            told.set_item(account, age)?;
        }
        Ok(told)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Clock::Python(clock) = &self.clock {
            visit.call(clock)?;
        }
        visit.call(&self.counters)?;
        if let Some(limit_of) = self.limit_of.try_lock() {
            visit.call(&*limit_of)?;
        }
        match self.state.try_lock() {
            Some(state) => state.traverse(&visit),
            None => Ok(()),
        }
    }

    fn __clear__(&self, py: Python<'_>) {
        let limit_of = self.limit_of.lock().take();
        drop(limit_of);
        let _ = self.clear(py);
    }
}

impl HotTier {
    /// What the front door may say.
    pub fn answers(&self) -> Arc<Answers> {
        self.answers.clone()
    }

    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().ok_or_else(reentered)
    }

    /// The namespace of an account, and its limit.
    fn namespace(&self, account: &Bound<'_, PyAny>) -> PyResult<(Box<str>, usize)> {
        let py = account.py();
        let name = account.getattr(intern!(py, "namespace"))?;
        let limit_of = self.limit_of.lock().as_ref().map(|held| held.clone_ref(py));
        let limit = match limit_of {
            Some(limit_of) => limit(limit_of.bind(py).call1((&name,))?)?,
            None => 0,
        };
        Ok((name.extract::<String>()?.into(), limit))
    }
}

impl Drop for HotTier {
    /// Answers end with their entries, also while the front door still has them.
    fn drop(&mut self) {
        self.state.get_mut().clear();
    }
}

/// The limit that was said; nothing is none, as 0 is.
fn limit(said: Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(said.extract::<Option<usize>>()?.unwrap_or(0))
}

/// Tells accounts and lets go of entries after an operation; this runs code of Python.
fn finish(py: Python<'_>, mut state: MutexGuard<'_, State>) -> PyResult<()> {
    let outcome = state.outcome(py);
    drop(state);
    outcome.tell(py)
}

fn reentered() -> PyErr {
    PyRuntimeError::new_err("the hot tier was used while it was at work: use it from one thread")
}
