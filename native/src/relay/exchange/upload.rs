//! The request's way to the server behind.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

/// So much of a request goes out with its headers, before it is known what the server takes.
const AHEAD_BYTES: usize = 16 * 1024;

/// Sends what was read and then the rest of a body, as fast as the server takes it.
pub struct Upload<'a> {
    to: SendStream<Bytes>,
    read: std::slice::Iter<'a, Bytes>,
    body: &'a mut RecvStream,
    /// On its way.
    piece: Option<Piece>,
    /// What may be sent without asking for capacity.
    ahead: usize,
    has_taken: bool,
    is_done: bool,
}

struct Piece {
    bytes: Bytes,
    /// Whether the client gets capacity for it.
    is_counted: bool,
    is_last: bool,
}

impl<'a> Upload<'a> {
    /// `is_whole` is for requests that have ended with their headers.
    pub fn new(
        to: SendStream<Bytes>,
        read: &'a [Bytes],
        body: &'a mut RecvStream,
        is_whole: bool,
    ) -> Self {
        Self {
            to,
            ahead: AHEAD_BYTES + read.iter().map(Bytes::len).sum::<usize>(),
            read: read.iter(),
            body,
            piece: None,
            has_taken: false,
            is_done: is_whole,
        }
    }

    /// Whether something is gone from the body.
    pub fn has_taken(&self) -> bool {
        self.has_taken
    }

    /// Ready when the request has ended or the server takes no more of it. Errors are the client's.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.is_done {
            let Some(mut piece) = self.piece.take() else {
                ready!(self.poll_piece(cx))?;
                continue;
            };
            self.is_done = match self.poll_send(cx, &mut piece) {
                Poll::Pending => {
                    self.piece = Some(piece);
                    return Poll::Pending;
                }
                // Why it takes no more is for the response to say.
                Poll::Ready(takes_more) => piece.is_last || !takes_more,
            };
        }
        Poll::Ready(Ok(()))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let Some(bytes) = self.read.next() {
            self.piece = Some(Piece {
                bytes: bytes.clone(),
                is_counted: false,
                is_last: self.read.len() == 0 && self.body.is_end_stream(),
            });
        } else if let Some(bytes) = ready!(self.body.poll_data(cx)).transpose()? {
            let is_last = self.body.is_end_stream();
            self.has_taken |= !bytes.is_empty();
            self.piece = Some(Piece {
                bytes,
                is_counted: true,
                is_last,
            });
        } else if let Some(trailers) = ready!(self.body.poll_trailers(cx))? {
            self.has_taken = true;
            self.is_done = true;
            let _ = self.to.send_trailers(trailers);
        } else {
            self.is_done = true;
            let _ = self.to.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when all is sent, or with false when the server takes no more.
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: &mut Piece) -> Poll<bool> {
        loop {
            let length = match self.ahead.min(piece.bytes.len()) {
                0 if !piece.bytes.is_empty() => {
                    match ready!(poll_capacity(&mut self.to, cx, piece.bytes.len())) {
                        Some(length) => length,
                        None => return Poll::Ready(false),
                    }
                }
                ahead => {
                    self.ahead -= ahead;
                    ahead
                }
            };
            let part = piece.bytes.split_to(length);
            let is_all = piece.bytes.is_empty();
            if self.to.send_data(part, piece.is_last && is_all).is_err() {
                return Poll::Ready(false);
            }
            if piece.is_counted {
                // An error says that the client has gone in the meantime.
                let _ = self.body.flow_control().release_capacity(length);
            }
            if is_all {
                return Poll::Ready(true);
            }
        }
    }

    /// The response is complete: the rest of the request is wanted no more.
    pub fn stop(&mut self) {
        if !self.is_done {
            self.to.send_reset(Reason::NO_ERROR);
        }
    }

    /// Ends the call.
    pub fn reset(&mut self, reason: Reason) {
        self.to.send_reset(reason);
    }
}

/// How many of so many bytes can be sent, at least one; None if nothing can be sent any more.
pub fn poll_capacity<B: bytes::Buf>(
    to: &mut SendStream<B>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Option<usize>> {
    to.reserve_capacity(wanted);
    let capacity = match to.capacity() {
        0 => match ready!(to.poll_capacity(cx)) {
            Some(Ok(capacity)) => capacity,
            Some(Err(_)) | None => return Poll::Ready(None),
        },
        capacity => capacity,
    };
    Poll::Ready(Some(capacity.min(wanted)))
}
