//! Calls that are answered here, if what they ask for is in memory.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Response as Head};

use super::shared::{Method, Room, Shared};
use crate::answers::Response;
use crate::body::{Body, PREFIX_BYTES, StoredBody};
use crate::callers::{Peer, Scope, Who};
use crate::hot;
use crate::unwritten::{Held, Queue};

/// Longer messages are not looked up.
pub const LOOKUP_BYTES: usize = 64 * 1024;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whose calls of what are looked up.
pub struct Asked {
    method: Arc<Method>,
    scope: Option<Scope>,
    /// When its caller was looked up, in seconds of CLOCK_MONOTONIC.
    since: f64,
}

impl Asked {
    /// What a call asks for, if it may be answered here.
    pub fn of(request: &Parts, peer: &Peer, shared: &Shared) -> Option<Self> {
        let method = shared.methods.get(request.uri.path())?;
        let headers = &request.headers;
        let since = hot::monotonic();
        if !shared.trust.holds(since)
            || request.method != Verb::POST
            || request.uri.query().is_some()
            || !is_plain_grpc(headers)
            || (shared.traced && !is_unsampled(headers))
        {
            return None;
        }
        let scope = match shared.who(headers, peer) {
            Who::Anyone => None,
            Who::Known(scope) => Some(scope),
            Who::Unknown => return None,
        };
        Some(Self {
            method: method.clone(),
            scope,
            since,
        })
    }

    /// Answers a call whose message is whole; false if there is no answer.
    pub fn answer(
        &self,
        message: &[u8],
        shared: &Shared,
        queue: &Arc<Queue>,
        respond: &mut SendResponse<Body>,
    ) -> bool {
        let key = self.method.key(message, self.scope.as_ref());
        let Some(response) = shared.answers.find(&key, self.since) else {
            return false;
        };
        // Else the caller has gone, and nobody is to be told.
        let held = queue.hold(response.data.len());
        if give(&response, held, respond).is_ok() {
            response.count();
            self.method.durations.add(hot::monotonic() - self.since);
        }
        true
    }
}

fn give(
    response: &Arc<Response>,
    held: Held,
    respond: &mut SendResponse<Body>,
) -> Result<(), h2::Error> {
    let mut head = Head::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC);
    let mut stream = respond.send_response(head, false)?;
    let body = StoredBody::new(response.clone(), now_ms());
    stream.send_data(Body::Stored(body, held), false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, OK);
    stream.send_trailers(trailers)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Whether it is said to be gRPC as it mostly is: protobuf, not compressed.
fn is_plain_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let encoding = headers.get(ENCODING).map(HeaderValue::as_bytes);
    matches!(
        content,
        Some(b"application/grpc" | b"application/grpc+proto")
    ) && matches!(encoding, None | Some(b"identity"))
}

/// Whether the caller says that nobody records this call's trace. See W3C Trace Context.
fn is_unsampled(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let is_hex = |part: &&[u8], digits| {
        part.len() == digits && part.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<&[u8]> = value.as_bytes().split(|c| *c == b'-').collect();
    match parts.as_slice() {
        [b"00", trace, span, flags] => {
            is_hex(trace, 32)
                && is_hex(span, 16)
                && is_hex(flags, 2)
                // The lowest bit of the last digit.
                && matches!(flags[1], b'0' | b'2' | b'4' | b'6' | b'8' | b'a' | b'c' | b'e')
        }
        _ => false,
    }
}

/// What became of reading a message.
pub enum Read {
    /// It is whole, and nothing is behind it.
    Whole,
    /// It is not a message to look up: compressed, too long, followed by something, cut short.
    Odd,
    /// The caller has gone.
    Gone,
}

/// The message of a call, while it is read.
#[derive(Default)]
pub struct Message {
    /// The one chunk that most messages are.
    first: Bytes,
    /// All of it, if there were more.
    all: BytesMut,
    room: Option<Room>,
}

impl Message {
    /// Reads what there is.
    pub fn poll(&mut self, body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Read> {
        while !body.is_end_stream() {
            match body.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(chunk))) => {
                    let length = chunk.len();
                    if body.flow_control().release_capacity(length).is_err() {
                        return Poll::Ready(Read::Gone);
                    }
                    let has_room = self.room.as_mut().is_none_or(|room| room.grow(length));
                    self.push(chunk);
                    if self.is_odd() || !has_room {
                        return Poll::Ready(Read::Odd);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Read::Gone),
                // Trailers, which no gRPC client sends.
                Poll::Ready(None) if !body.is_end_stream() => return Poll::Ready(Read::Odd),
                Poll::Ready(None) => break,
            }
        }
        Poll::Ready(match self.promised() {
            Some(promised) if promised == self.bytes().len() => Read::Whole,
            _ => Read::Odd,
        })
    }

    /// Reads the rest, however slowly it comes.
    pub async fn rest(&mut self, body: &mut RecvStream, shared: &Arc<Shared>) -> Read {
        // A chunk holds all of what was read from the socket with it.
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        let mut room = shared.room();
        let has_room = room.grow(self.all.len());
        self.room = Some(room);
        if !has_room {
            return Read::Odd;
        }
        poll_fn(|cx| self.poll(body, cx)).await
    }

    /// The message, without its prefix; for one that is whole.
    pub fn message(&self) -> &[u8] {
        &self.bytes()[PREFIX_BYTES..]
    }

    /// All that was read.
    pub fn into_read(self) -> Vec<Bytes> {
        let read = if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        };
        if read.is_empty() { vec![] } else { vec![read] }
    }

    fn bytes(&self) -> &[u8] {
        if self.all.is_empty() {
            &self.first
        } else {
            &self.all
        }
    }

    fn push(&mut self, chunk: Bytes) {
        if self.bytes().is_empty() && self.room.is_none() {
            self.first = chunk;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&chunk);
    }

    /// The length that the prefix says, with the prefix, once it is there.
    fn promised(&self) -> Option<usize> {
        let prefix = self.bytes().first_chunk::<PREFIX_BYTES>()?;
        let [_, length @ ..] = *prefix;
        usize::try_from(u32::from_be_bytes(length))
            .ok()
            .map(|length| length.saturating_add(PREFIX_BYTES))
    }

    fn is_odd(&self) -> bool {
        let bytes = self.bytes();
        bytes.first().is_some_and(|compressed| *compressed != 0)
            || self.promised().is_some_and(|promised| {
                promised > PREFIX_BYTES + LOOKUP_BYTES || bytes.len() > promised
            })
    }
}
