//! A connection's socket, as h2 uses it: what it writes is gathered, and goes out all at once.
//!
//! h2 flushes after every answer. On a busy connection many calls arrive in one read, so that many
//! answers can leave in one write, which costs less than what is copied for it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Authority;

/// What is gathered at most. It is also all that is kept for a reader that is slow.
const GATHERED_BYTES: usize = 64 * 1024;
const MOST_SLICES: usize = 64;
/// The preface of HTTP/2, and the head of the frame that follows it.
const FIRST_BYTES: usize = 24 + 9;

thread_local! {
    /// Connections of a thread are served one after the other: most of the time one buffer is
    /// enough for all of them, and idle ones need none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it was written.
    written: usize,
    is_gathering: bool,
    received: usize,
    authority: Authority,
}

/// The socket, shared by h2 and the task that drives the connection.
pub struct Wire<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes at once, until told to gather.
    pub fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            gathered: Vec::new(),
            written: 0,
            is_gathering: false,
            received: 0,
            authority: Authority::default(),
        })))
    }

    /// From now on, what is written stays here until `poll_send`, as far as there is room.
    pub fn gather(&self) {
        self.0.lock().is_gathering = true;
    }

    /// Whether the peer has said what every HTTP/2 client says first.
    pub fn has_begun(&self) -> bool {
        self.received() >= FIRST_BYTES
    }

    /// How many bytes the peer has sent.
    pub fn received(&self) -> usize {
        self.0.lock().received
    }

    /// Sends what was gathered.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(cx)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += sent;
        }
        self.rest();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.is_gathering && self.gathered.len() + more <= GATHERED_BYTES {
            self.keep(slices);
            return Poll::Ready(Ok(more));
        }
        loop {
            let waiting = self.gathered.len() - self.written;
            if waiting == 0 {
                self.rest();
            }
            let mut all = [IoSlice::new(&[]); MOST_SLICES + 1];
            all[0] = IoSlice::new(&self.gathered[self.written..]);
            let count = slices.len().min(MOST_SLICES);
            all[1..=count].copy_from_slice(&slices[..count]);
            let first = usize::from(waiting == 0);
            let all = &all[first..=count];
            let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, all))?;
            if sent == 0 && more > 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += sent.min(waiting);
            if sent > waiting || waiting == 0 {
                self.rest();
                return Poll::Ready(Ok(sent - waiting));
            }
        }
    }

    fn keep(&mut self, slices: &[IoSlice<'_>]) {
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
            self.gathered.reserve_exact(GATHERED_BYTES);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
    }

    /// All was written: the buffer is for the next connection.
    fn rest(&mut self) {
        self.written = 0;
        self.gathered.clear();
        if self.gathered.capacity() > 0 {
            SPARE.set(std::mem::take(&mut self.gathered));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        let before = into.filled().len();
        ready!(Pin::new(&mut inner.stream).poll_read(cx, into))?;
        let read = &mut into.filled_mut()[before..];
        inner.received = inner.received.saturating_add(read.len());
        inner.authority.mend(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if inner.is_gathering {
            return Poll::Ready(Ok(()));
        }
        inner.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes what it is told to take, each time it is asked, and in the end all.
    #[derive(Default)]
    struct Socket {
        takes: VecDeque<Option<usize>>,
        taken: Vec<u8>,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let socket = self.get_mut();
            let most = match socket.takes.pop_front() {
                Some(None) => return Poll::Pending,
                Some(Some(most)) => most,
                None => usize::MAX,
            };
            let before = socket.taken.len();
            let all = slices.iter().flat_map(|slice| slice.iter());
            socket.taken.extend(all.take(most));
            Poll::Ready(Ok(socket.taken.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn taken(wire: &Wire<Socket>) -> Vec<u8> {
        wire.inner().stream.taken.clone()
    }

    fn nobody() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn what_is_written_waits_until_it_is_sent() {
        let mut wire = Wire::new(Socket::default());
        let _ = Pin::new(&mut wire).poll_write(&mut nobody(), b"at once");
        assert_eq!(taken(&wire), b"at once");
        wire.gather();
        let _ = Pin::new(&mut wire).poll_write(&mut nobody(), b", later");
        let _ = Pin::new(&mut wire).poll_flush(&mut nobody());
        assert_eq!(taken(&wire), b"at once");
        assert!(wire.poll_send(&mut nobody()).is_ready());
        assert_eq!(taken(&wire), b"at once, later");
    }

    #[test]
    fn what_was_written_is_sent_before_the_end() {
        let mut wire = Wire::new(Socket::default());
        wire.gather();
        let _ = Pin::new(&mut wire).poll_write(&mut nobody(), b"last word");
        assert!(Pin::new(&mut wire).poll_shutdown(&mut nobody()).is_ready());
        assert_eq!(taken(&wire), b"last word");
    }

    #[test]
    fn a_slow_reader_holds_one_buffer_and_then_up_whoever_writes() {
        let mut wire = Wire::new(Socket::default());
        wire.gather();
        wire.inner().stream.takes = [None; 2].into();
        let mut write = |length| Pin::new(&mut wire).poll_write(&mut nobody(), &vec![0; length]);
        assert!(write(GATHERED_BYTES).is_ready());
        assert!(write(1).is_pending());
        assert!(wire.inner().gathered.capacity() <= GATHERED_BYTES);
    }

    proptest! {
        #[test]
        fn all_is_sent_in_order_whatever_the_socket_takes(
            writes in prop::collection::vec(
                prop::collection::vec(prop_oneof![0..300_usize, 0..50_000_usize], 1..5),
                1..12,
            ),
            takes in prop::collection::vec(prop::option::of(1..40_000_usize), 0..40),
        ) {
            let mut wire = Wire::new(Socket { takes: takes.into(), taken: Vec::new() });
            wire.gather();
            let mut sent: Vec<u8> = Vec::new();
            for lengths in writes {
                let bufs: Vec<Vec<u8>> =
                    lengths.iter().map(|length| vec![(length % 251) as u8; *length]).collect();
                let slices: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
                if let Poll::Ready(result) =
                    Pin::new(&mut wire).poll_write_vectored(&mut nobody(), &slices)
                {
                    sent.extend(bufs.concat().iter().take(result?));
                }
            }
            while wire.poll_send(&mut nobody()).is_pending() {}
            prop_assert!(taken(&wire) == sent);
        }
    }
}
