//! What the front door sends: pieces of stored answers, and what the server behind it said.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::answers::{AGE_BYTES, Response};
use crate::unwritten::Held;

/// One byte that says whether it is compressed, four with its length: before each gRPC message.
pub const PREFIX_BYTES: usize = 5;
/// As many as fit into what is written at once under `bytes::buf::Take`: 16 pieces.
const WINDOW: usize = 8;

/// What DATA frames are made of. What it costs does not depend on its length. It counts as queued
/// until it is written.
pub enum Body {
    /// Bytes of the server behind.
    Relayed(Bytes, Held),
    /// A message that is in memory.
    Stored(StoredBody, Held),
}

impl Buf for Body {
    fn remaining(&self) -> usize {
        match self {
            Self::Relayed(bytes, _) => bytes.remaining(),
            Self::Stored(stored, _) => stored.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Relayed(bytes, _) => bytes.chunk(),
            Self::Stored(stored, _) => stored.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Relayed(bytes, _) => bytes.chunks_vectored(into),
            Self::Stored(stored, _) => stored.chunks_vectored(into),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Relayed(bytes, _) => bytes.advance(count),
            Self::Stored(stored, _) => stored.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        match self {
            Self::Relayed(bytes, _) => bytes.copy_to_bytes(count),
            Self::Stored(stored, _) => stored.copy_to_bytes(count),
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::answers::Age;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[derive(Clone, Debug)]
    enum Taking {
        Chunk,
        Vectored { slots: usize, most: usize },
        Part(usize),
        Copied(usize),
        Taken(usize),
    }

    fn taking() -> impl Strategy<Value = Taking> {
        let some = 0..40_usize;
        prop_oneof![
            Just(Taking::Chunk),
            (0..20_usize, 0..400_usize).prop_map(|(slots, most)| Taking::Vectored { slots, most }),
            some.clone().prop_map(Taking::Part),
            some.clone().prop_map(Taking::Copied),
            some.prop_map(Taking::Taken),
        ]
    }

    /// A response with ages behind gaps of those lengths, and the message that it makes.
    fn response(gaps: &[usize], rest: usize) -> (Arc<Response>, Vec<u8>) {
        let (mut data, mut filled) = (Vec::new(), Vec::new());
        let mut ages = Vec::new();
        let gap = |length: usize, data: &mut Vec<u8>, filled: &mut Vec<u8>| {
            let piece: Vec<u8> = (0..length).map(|at| (data.len() + at) as u8).collect();
            data.extend(&piece);
            filled.extend(&piece);
        };
        for (number, length) in gaps.iter().enumerate() {
            gap(*length, &mut data, &mut filled);
            let made = (number as u64 + 1) * 0x0102_0304;
            ages.push(Age {
                offset: data.len(),
                created_ms: NOW_MS - made,
            });
            data.extend([0xee; AGE_BYTES]);
            filled.extend(made.to_le_bytes());
        }
        gap(rest, &mut data, &mut filled);
        let mut message = vec![0];
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(filled);
        (Arc::new(Response::new(data.into(), ages.into())), message)
    }

    fn take(body: &mut StoredBody, how: &Taking, into: &mut BytesMut) {
        let before = into.len();
        match *how {
            Taking::Chunk => into.extend_from_slice(body.chunk()),
            Taking::Part(most) => {
                let part = &body.chunk()[..most.min(body.chunk().len())];
                into.extend_from_slice(part);
            }
            Taking::Vectored { slots, most } => {
                let mut slices = [IoSlice::new(&[]); 20];
                let limited = body.take(most);
                let count = limited.chunks_vectored(&mut slices[..slots]);
                for slice in &slices[..count] {
                    into.extend_from_slice(slice);
                }
            }
            Taking::Copied(most) => {
                let bytes = body.copy_to_bytes(most.min(body.remaining()));
                into.extend_from_slice(&bytes);
                return;
            }
            Taking::Taken(most) => {
                let mut limited = body.take(most);
                while limited.has_remaining() {
                    let chunk = limited.chunk().to_vec();
                    into.extend_from_slice(&chunk);
                    limited.advance(chunk.len());
                }
                return;
            }
        }
        body.advance(into.len() - before);
    }

    proptest! {
        #[test]
        fn however_it_is_taken_it_is_the_message_with_its_ages(
            gaps in prop::collection::vec(0..30_usize, 0..30),
            rest in 0..50_usize,
            takings in prop::collection::vec(taking(), 0..60),
        ) {
            let (response, message) = response(&gaps, rest);
            let mut body = StoredBody::new(response, NOW_MS);
            let mut taken = BytesMut::new();
            for how in &takings {
                take(&mut body, how, &mut taken);
                prop_assert_eq!(body.remaining(), message.len() - taken.len());
            }
            while body.has_remaining() {
                prop_assert!(!body.chunk().is_empty());
                take(&mut body, &Taking::Vectored { slots: 20, most: 70 }, &mut taken);
            }
            prop_assert_eq!(taken.as_ref(), message.as_slice());
        }
    }

    #[test]
    fn as_many_pieces_are_written_at_once_as_fit() {
        let (response, message) = response(&[3; 12], 3);
        let body = StoredBody::new(response, NOW_MS).take(message.len());
        let mut slices = [IoSlice::new(&[]); 64];
        // The prefix, then gaps and ages in turns.
        assert_eq!(body.chunks_vectored(&mut slices), 1 + 15);
    }

    #[test]
    fn what_was_made_later_than_now_is_of_no_age() {
        let age = Age {
            offset: 0,
            created_ms: NOW_MS + 1,
        };
        let response = Response::new(vec![0xee; AGE_BYTES].into(), Box::new([age]));
        let mut body = StoredBody::new(Arc::new(response), NOW_MS);
        let message = body.copy_to_bytes(body.remaining());
        assert_eq!(message[PREFIX_BYTES..], [0; AGE_BYTES]);
    }
}
