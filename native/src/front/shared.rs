//! What all connections of the front door share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use parking_lot::RwLock;

use super::durations::Durations;
use super::trust::Trust;
use crate::answers::{Answers, KEY_BYTES, Key};
use crate::callers::{Callers, Peer, Scope, Who};
use crate::tls::Tls;
use crate::unwritten::{self, Unwritten};

/// All that calls may hold of messages that have not arrived whole.
const MOST_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// A method whose calls may be answered here.
pub struct Method {
    hash: blake2b_simd::Params,
    /// Of those that were.
    pub durations: Durations,
}

impl Method {
    /// Keys are hashes personalised so; raises what is wrong with it. ``bounds`` are in seconds.
    pub fn new(person: &str, bounds: &[f64]) -> Result<Self, String> {
        if person.len() > blake2b_simd::PERSONALBYTES {
            return Err(format!("{person:?} has more than 16 bytes"));
        }
        let mut hash = blake2b_simd::Params::new();
        hash.hash_length(KEY_BYTES).personal(person.as_bytes());
        Ok(Self {
            hash,
            durations: Durations::new(bounds),
        })
    }

    /// The key of the answer to a message of a caller of that scope.
    pub fn key(&self, message: &[u8], scope: Option<&Scope>) -> Key {
        let mut hash = self.hash.clone();
        if let Some(scope) = scope {
            hash.salt(scope);
        }
        let mut key = Key::default();
        key.copy_from_slice(hash.hash(message).as_bytes());
        key
    }
}

/// What all connections share.
pub struct Shared {
    /// What may be said.
    pub answers: Arc<Answers>,
    /// By path.
    pub methods: HashMap<String, Arc<Method>>,
    /// Whether only calls are answered whose trace is not sampled.
    pub traced: bool,
    /// The socket of the server behind.
    pub backend: Arc<Path>,
    /// Shows the server behind that a call was handed over here.
    pub secret: HeaderValue,
    /// None is for ever.
    pub max_connection_age: Option<Duration>,
    /// Of TLS listeners.
    pub tls: Tls,
    /// How long answers may be given without Python.
    pub trust: Trust,
    /// What clients have not read yet.
    pub unwritten: Arc<Unwritten>,
    /// Handshakes of TLS that failed.
    pub failed_handshakes: AtomicU64,
    callers: RwLock<Callers>,
    waiting_bytes: AtomicUsize,
}

impl Shared {
    /// Connections have no limit of age, and nobody is told apart, until that is set.
    pub fn new(
        answers: Arc<Answers>,
        methods: HashMap<String, Arc<Method>>,
        backend: PathBuf,
    ) -> Self {
        Self {
            answers,
            methods,
            traced: false,
            backend: backend.into(),
            secret: HeaderValue::from_static("none"),
            max_connection_age: None,
            tls: Tls::default(),
            trust: Trust::default(),
            unwritten: Arc::new(Unwritten::new(unwritten::MOST_BYTES)),
            failed_handshakes: AtomicU64::new(0),
            callers: RwLock::new(Callers::open()),
            waiting_bytes: AtomicUsize::new(0),
        }
    }

    /// Who makes a call, by those who are told apart at this moment.
    pub fn who(&self, headers: &HeaderMap, peer: &Peer) -> Who {
        self.callers.read().who(headers, peer)
    }

    /// From now on, those are told apart.
    pub fn set_callers(&self, callers: Callers) {
        *self.callers.write() = callers;
    }

    /// Room for a part of a message that waits for the rest; none if too much waits already.
    pub fn room(self: &Arc<Self>) -> Room {
        Room {
            shared: self.clone(),
            bytes: 0,
        }
    }
}

/// What one call holds of a message that has not arrived whole.
pub struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Room {
    /// Whether there is room for so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let before = self
            .shared
            .waiting_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        before + bytes <= MOST_WAITING_BYTES
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared
            .waiting_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_messages_that_wait_have_their_room_in_common() {
        let shared = Shared::new(Arc::default(), HashMap::new(), PathBuf::new());
        let shared = Arc::new(shared);
        let (mut one, mut other) = (shared.room(), shared.room());
        assert!(one.grow(MOST_WAITING_BYTES));
        assert!(!other.grow(1));
        drop((one, other));
        assert!(shared.room().grow(MOST_WAITING_BYTES));
    }

    #[test]
    fn callers_of_different_scopes_have_different_keys() {
        let method = Method::new("Embed", &[]).unwrap();
        let scopes = [None, Some([1; 16]), Some([2; 16])];
        let keys = scopes.map(|scope| method.key(b"text", scope.as_ref()));
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
        assert_ne!(
            Method::new("Search", &[]).unwrap().key(b"text", None),
            keys[0]
        );
    }

    #[test]
    fn a_hash_is_personalised_by_16_bytes_at_most() {
        assert!(Method::new("sixteen or fewer", &[]).is_ok());
        assert!(Method::new("seventeen or more", &[]).is_err());
    }
}
