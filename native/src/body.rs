//! What the front door sends: pieces of stored answers, and what the server behind it said.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::answers::Response;

/// One byte that says whether it is compressed, four with its length: before each gRPC message.
pub const PREFIX_BYTES: usize = 5;
const AGE_BYTES: usize = 8;
/// As many as fit into what is written at once under `bytes::buf::Take`: 16 pieces.
const WINDOW: usize = 8;

/// What DATA frames are made of. What it costs does not depend on its length.
pub enum Body {
    /// Bytes of the server behind.
    Relayed(Bytes),
    /// A message that is in memory.
    Stored(StoredBody),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Relayed(bytes)
    }
}

impl Buf for Body {
    fn remaining(&self) -> usize {
        match self {
            Self::Relayed(bytes) => bytes.remaining(),
            Self::Stored(stored) => stored.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Relayed(bytes) => bytes.chunk(),
            Self::Stored(stored) => stored.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Relayed(bytes) => bytes.chunks_vectored(into),
            Self::Stored(stored) => stored.chunks_vectored(into),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Relayed(bytes) => bytes.advance(count),
            Self::Stored(stored) => stored.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        match self {
            Self::Relayed(bytes) => bytes.copy_to_bytes(count),
            Self::Stored(stored) => stored.copy_to_bytes(count),
        }
    }
}

/// A stored response as gRPC message, with the ages of a moment.
///
/// The response is shared. Only the next few ages are written out, into a window that moves on.
pub struct StoredBody {
    response: Arc<Response>,
    prefix: [u8; PREFIX_BYTES],
    now_ms: u64,
    /// Bytes taken, those of the prefix included.
    taken: usize,
    /// Ages taken whole.
    passed: usize,
    /// The ages from there.
    window: [[u8; AGE_BYTES]; WINDOW],
}

impl StoredBody {
    /// The ages are those at ``now_ms``, in milliseconds since 1970.
    pub fn new(response: Arc<Response>, now_ms: u64) -> Self {
        let mut prefix = [0; PREFIX_BYTES];
        // Whoever makes an answer makes sure that its length fits.
        prefix[1..].copy_from_slice(&(response.data.len() as u32).to_be_bytes());
        let mut body = Self {
            response,
            prefix,
            now_ms,
            taken: 0,
            passed: 0,
            window: [[0; AGE_BYTES]; WINDOW],
        };
        body.fill();
        body
    }

    fn fill(&mut self) {
        for (slot, age) in self
            .window
            .iter_mut()
            .zip(&self.response.ages[self.passed..])
        {
            *slot = age.at(self.now_ms);
        }
    }

    fn end(&self) -> usize {
        PREFIX_BYTES + self.response.data.len()
    }

    /// The piece from a place on, which has so many ages before it, and whether it ends an age.
    fn piece(&self, at: usize, ages: usize) -> (&[u8], bool) {
        let Some(at) = at.checked_sub(PREFIX_BYTES) else {
            return (&self.prefix[at..], false);
        };
        let data = &self.response.data;
        match self.response.ages.get(ages) {
            None => (&data[at..], false),
            Some(age) if at < age.offset => (&data[at..age.offset], false),
            Some(age) => (&self.window[ages - self.passed][at - age.offset..], true),
        }
    }
}

impl Buf for StoredBody {
    fn remaining(&self) -> usize {
        self.end() - self.taken
    }

    fn chunk(&self) -> &[u8] {
        self.piece(self.taken, self.passed).0
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut ages) = (self.taken, self.passed);
        for (count, slot) in into.iter_mut().enumerate() {
            if at == self.end() || ages == self.passed + WINDOW {
                return count;
            }
            let (piece, ends_age) = self.piece(at, ages);
            *slot = IoSlice::new(piece);
            at += piece.len();
            ages += usize::from(ends_age);
        }
        into.len()
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "cannot advance past the end");
        self.taken += count;
        let before = self.passed;
        while let Some(age) = self.response.ages.get(self.passed)
            && PREFIX_BYTES + age.offset + AGE_BYTES <= self.taken
        {
            self.passed += 1;
        }
        if self.passed != before {
            self.fill();
        }
    }
}
