//! What the front door may say to which request, shared between Python and its threads.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Of a popular request, every so many calls are in the sample.
const NOTE_EVERY: u64 = 16;
const MOST_NOTES: usize = 256;
/// An entry's hits are counted up to this; see `sidecar.cache.hot.MAX_HITS`.
pub const MAX_HITS: u8 = 3;
/// How many bytes the key of an answer has.
pub const KEY_BYTES: usize = 16;
/// How many bytes an age has in a response.
pub const AGE_BYTES: usize = 8;
const SHARDS: usize = 64;

/// The key of an answer: a hash of the request, by caller and method.
pub type Key = [u8; KEY_BYTES];

/// See `embercache_native.pyi`.
#[pyclass(frozen, module = "embercache_native")]
pub struct Cell(Arc<AtomicI64>);

#[pymethods]
impl Cell {
    #[new]
    #[pyo3(signature = (value = 0))]
    fn new(value: i64) -> Self {
        Self(Arc::new(AtomicI64::new(value)))
    }

    #[getter]
    fn value(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    #[setter]
    fn set_value(&self, value: i64) {
        self.0.store(value, Ordering::Release);
    }
}

#[derive(Default)]
struct Worth {
    calls: AtomicU64,
    items: AtomicU64,
    tokens: AtomicU64,
    notes: Mutex<Vec<Bytes>>,
}

/// See `embercache_native.pyi`.
#[pyclass(frozen, module = "embercache_native")]
#[derive(Default)]
pub struct Tally(Arc<Worth>);

#[pymethods]
impl Tally {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn take<'py>(&self, py: Python<'py>) -> (u64, u64, u64, Vec<Bound<'py, PyBytes>>) {
        let notes = std::mem::take(&mut *self.0.notes.lock());
        (
            self.0.calls.swap(0, Ordering::Relaxed),
            self.0.items.swap(0, Ordering::Relaxed),
            self.0.tokens.swap(0, Ordering::Relaxed),
            notes.iter().map(|note| PyBytes::new(py, note)).collect(),
        )
    }
}

/// Where in a response the age of something is, and when that was made.
#[derive(Clone, Copy)]
pub struct Age {
    /// The offset of its eight bytes.
    pub offset: usize,
    /// In milliseconds since 1970.
    pub created_ms: u64,
}

impl Age {
    /// What is written there at a moment: milliseconds, never less than none.
    pub fn at(&self, now_ms: u64) -> [u8; AGE_BYTES] {
        now_ms.saturating_sub(self.created_ms).to_le_bytes()
    }
}

/// A response that may be given again while all guards hold.
pub struct Response {
    /// The bytes; those of ages are to be filled in.
    pub data: Bytes,
    /// By offset; they do not overlap.
    pub ages: Box<[Age]>,
    guards: Box<[(Arc<AtomicI64>, i64)]>,
    worth: Arc<Worth>,
    items: u64,
    tokens: u64,
    request: Option<Bytes>,
    calls: AtomicU64,
}

impl Response {
    /// One that depends on nothing, and counts for nobody. The ages are one behind the other in
    /// the data, which is not longer than a gRPC message may be.
    pub fn new(data: Bytes, ages: Box<[Age]>) -> Self {
        Self {
            data,
            ages,
            guards: Box::default(),
            worth: Arc::default(),
            items: 0,
            tokens: 0,
            request: None,
            calls: AtomicU64::new(0),
        }
    }

    /// Whether nothing was invalidated that it depends on.
    pub fn is_valid(&self) -> bool {
        self.guards
            .iter()
            .all(|(cell, value)| cell.load(Ordering::Acquire) == *value)
    }

    /// Counts that it was given.
    pub fn count(&self) {
        self.worth.calls.fetch_add(1, Ordering::Relaxed);
        self.worth.items.fetch_add(self.items, Ordering::Relaxed);
        self.worth.tokens.fetch_add(self.tokens, Ordering::Relaxed);
        if let Some(request) = &self.request
            && self.calls.fetch_add(1, Ordering::Relaxed) % NOTE_EVERY == NOTE_EVERY - 1
        {
            let mut notes = self.worth.notes.lock();
            if notes.len() < MOST_NOTES {
                notes.push(request.clone());
            }
        }
    }
}

/// See `embercache_native.pyi`.
#[pyclass(frozen, module = "embercache_native")]
pub struct Answer(pub Arc<Response>);

#[pymethods]
impl Answer {
    #[new]
    #[pyo3(signature = (data, ages, guards, tally, items, tokens, request = None))]
    fn new(
        data: &[u8],
        ages: Vec<(usize, u64)>,
        guards: Vec<(Bound<'_, Cell>, i64)>,
        tally: &Tally,
        items: u64,
        tokens: u64,
        request: Option<&[u8]>,
    ) -> PyResult<Self> {
        if u32::try_from(data.len()).is_err() {
            return Err(PyValueError::new_err(
                "the data are longer than a gRPC message may be",
            ));
        }
        let mut end = 0;
        for &(offset, _) in &ages {
            if offset < end
                || offset
                    .checked_add(AGE_BYTES)
                    .is_none_or(|next| next > data.len())
            {
                return Err(PyValueError::new_err(
                    "ages have to be in the data, one behind the other",
                ));
            }
            end = offset + AGE_BYTES;
        }
        let ages = ages
            .into_iter()
            .map(|(offset, created_ms)| Age { offset, created_ms });
        let guards = guards
            .into_iter()
            .map(|(cell, value)| (cell.get().0.clone(), value));
        Ok(Self(Arc::new(Response {
            guards: guards.collect(),
            worth: tally.0.clone(),
            items,
            tokens,
            request: request.map(Bytes::copy_from_slice),
            ..Response::new(Bytes::copy_from_slice(data), ages.collect())
        })))
    }

    fn at<'py>(&self, py: Python<'py>, now_ms: u64) -> Option<Bound<'py, PyBytes>> {
        if !self.0.is_valid() {
            return None;
        }
        let mut data = self.0.data.to_vec();
        for age in &self.0.ages {
            data[age.offset..age.offset + AGE_BYTES].copy_from_slice(&age.at(now_ms));
        }
        Some(PyBytes::new(py, &data))
    }
}

struct Held {
    response: Arc<Response>,
    /// In seconds of CLOCK_MONOTONIC.
    expires: f64,
    hits: Arc<AtomicU8>,
}

/// Keys are hashes already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

type Shard = RwLock<HashMap<Key, Held, BuildHasherDefault<FirstBytes>>>;

/// All answers of a hot tier, by key. Reading takes no lock that a reader of another shard waits for.
pub struct Answers(Box<[Shard]>);

impl Default for Answers {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }
}

impl Answers {
    /// What may be said at a moment of CLOCK_MONOTONIC, in seconds; it counts as a hit of its entry.
    pub fn find(&self, key: &Key, now: f64) -> Option<Arc<Response>> {
        let shard = self.shard(key).read();
        let held = shard.get(key)?;
        if held.expires <= now || !held.response.is_valid() {
            return None;
        }
        if held.hits.load(Ordering::Relaxed) < MAX_HITS {
            // Of two at once, one may be lost, or one be too many: neither matters.
            held.hits.fetch_add(1, Ordering::Relaxed);
        }
        Some(held.response.clone())
    }

    /// Puts an answer in the place of any that is there; ``hits`` are those of its entry.
    pub fn put(&self, key: Key, response: Arc<Response>, expires: f64, hits: Arc<AtomicU8>) {
        self.shard(&key).write().insert(
            key,
            Held {
                response,
                expires,
                hits,
            },
        );
    }

    /// Takes an answer out, if it is there.
    pub fn remove(&self, key: &Key) {
        self.shard(key).write().remove(key);
    }

    fn shard(&self, key: &Key) -> &Shard {
        &self.0[usize::from(key[KEY_BYTES - 1]) % SHARDS]
    }
}
