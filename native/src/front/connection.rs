//! One connection, from its handshake to its end.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};

use super::alive::{ANSWER, Alive};
use super::shared::Shared;
use super::unary::{Asked, Message, Read};
use super::wire::Wire;
use crate::body::Body;
use crate::callers::Peer;
use crate::relay::Relay;
use crate::unwritten::Queue;

/// For the handshakes of TLS and HTTP/2.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the rest of a message that may be looked up.
const MESSAGE: Duration = Duration::from_secs(5);
/// How often it is looked whether a client who reads too slowly has read.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether the last calls of a connection are done.
const LOOK: Duration = Duration::from_secs(1);
/// So long a client may hold more than its share while there is too much.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// For telling a client that its connection is closed.
pub const LAST_WORD: Duration = Duration::from_millis(500);
/// Not for holding clients back: their calls may come in bursts. It bounds what a hostile one costs.
const MOST_STREAMS: u32 = 10_000;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// As large messages are handed over frame by frame, 16 KiB of HTTP/2's default take twice as long.
pub const FRAME_BYTES: u32 = 128 * 1024;
/// What small frames may cost beside what is in them until calls take them: some 65,000 at once. A
/// burst of calls that end by a frame of their own has one each.
const FRAMES_BYTES: usize = 16 * 1024 * 1024;
const MOST_HEADER_BYTES: u32 = 64 * 1024;
/// What waits for the socket of one response that the server behind gives.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A connection may break the rules so often. Frames that are late for calls that ended early count,
/// once a second has passed or too many of these calls are remembered.
const MOST_BREACHES: usize = 64 * 1024;
/// Ages are spread by so much, so that not all clients come back at once.
const JITTER: f64 = 0.1;

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connections and calls are taken.
    Open,
    /// No more of either: what there is comes to its end.
    Draining,
    /// What is left is closed.
    Closed,
}

/// The settings of HTTP/2 that clients see.
pub fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MOST_STREAMS)
        .max_frame_size(FRAME_BYTES)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(FRAMES_BYTES)
        // Bursts may be cancelled before the first of their calls is looked at.
        .max_pending_accept_reset_streams(MOST_STREAMS as usize)
        .max_header_list_size(MOST_HEADER_BYTES)
        .max_concurrent_reset_streams(MOST_STREAMS as usize)
        .max_local_error_reset_streams(Some(MOST_BREACHES))
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// Serves a connection until it ends. Whatever goes wrong is its client's to notice.
pub async fn serve_connection<S>(
    stream: S,
    peer: Peer,
    shared: Arc<Shared>,
    mut phase: watch::Receiver<Phase>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Instant::now() + HANDSHAKE;
    let wire = Wire::new(stream);
    let handshake = settings().handshake(wire.clone());
    let mut connection = tokio::select! {
        made = timeout_at(deadline, handshake) => match made {
            Ok(Ok(connection)) => connection,
            _ => return,
        },
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => return,
    };
    wire.gather();
    let Some(ping) = connection.ping_pong() else {
        return;
    };
    let (mut alive, heard) = (Alive::new(ping), wire.clone());
    let queue = Queue::new(shared.unwritten.clone());
    let calls = Calls {
        relay: Arc::new(Relay::new(shared.backend.clone(), queue.clone())),
        queue: queue.clone(),
        peer: Arc::new(peer),
        shared,
    };
    let mut line = Line {
        connection,
        wire,
        calls,
        full: None,
        is_over: false,
    };
    let age = line.calls.shared.max_connection_age.map(spread);
    let grown = sleep(age.unwrap_or_default());
    tokio::pin!(grown);
    let (mut has_begun, mut is_retired) = (false, false);
    let mut seen = Phase::Open;
    loop {
        tokio::select! {
            biased;
            _ = poll_fn(|cx| line.poll(cx)) => return,
            next = next_phase(&mut phase, seen) => {
                seen = next;
                if seen == Phase::Closed {
                    line.end(Reason::NO_ERROR).await;
                    return;
                }
                line.connection.graceful_shutdown();
                alive.ask();
            }
            () = poll_fn(|cx| alive.poll(cx, || heard.received())) => return,
            () = queue.ended() => {
                line.end(Reason::ENHANCE_YOUR_CALM).await;
                return;
            }
            () = &mut grown, if age.is_some() => {
                if !is_retired {
                    is_retired = true;
                    line.connection.graceful_shutdown();
                    alive.ask();
                    grown.as_mut().reset(Instant::now() + ANSWER);
                    continue;
                }
                // Who has not answered by now may never do.
                line.is_over = true;
                if !line.connection.has_streams() {
                    line.end(Reason::NO_ERROR).await;
                    return;
                }
                grown.as_mut().reset(Instant::now() + LOOK);
            }
            () = sleep_until(deadline), if !has_begun => {
                has_begun = line.wire.has_begun();
                if !has_begun {
                    return;
                }
            }
        }
    }
}

async fn next_phase(phase: &mut watch::Receiver<Phase>, seen: Phase) -> Phase {
    // If there is nobody any more who could close it, it is closed.
    phase
        .wait_for(|phase| *phase != seen)
        .await
        .map_or(Phase::Closed, |phase| *phase)
}

/// An age a little shorter or longer.
fn spread(age: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    age.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0))
}

struct Line<S> {
    connection: Connection<Wire<S>, Body>,
    wire: Wire<S>,
    calls: Calls,
    /// While there is no room for what calls get.
    full: Option<Full>,
    /// Whether calls are refused.
    is_over: bool,
}

struct Full {
    since: Instant,
    /// Until it is looked again.
    pause: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Tells the client, as far as he listens, that it is over.
    async fn end(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
        let _ = timeout(LAST_WORD, poll_fn(|cx| self.poll(cx))).await;
    }

    /// Takes what calls have come, and sends what there is to say; ready when the connection ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.poll_room(cx).is_ready() {
            match self.connection.poll_accept(cx) {
                // A client can make it elsewhere, as with one that came after the GOAWAY.
                Poll::Ready(Some(Ok((_, mut respond)))) if self.is_over => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Poll::Ready(Some(Ok((request, respond)))) => self.calls.take(request, respond),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if self.full.is_some() && self.connection.poll_closed(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.wire.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    /// Ready when there is room for what calls get. What frees it may be written elsewhere. Who has
    /// none for too long keeps others from theirs, and is closed.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.calls.queue.is_full() {
            let full = self.full.get_or_insert_with(|| Full {
                since: Instant::now(),
                pause: Box::pin(sleep(PAUSE)),
            });
            ready!(full.pause.as_mut().poll(cx));
            let now = Instant::now();
            full.pause.as_mut().reset(now + PAUSE);
            if now >= full.since + PATIENCE {
                self.calls.queue.end();
            }
        }
        self.full = None;
        Poll::Ready(())
    }
}

/// What the calls of one connection share.
struct Calls {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    relay: Arc<Relay>,
    queue: Arc<Queue>,
}

impl Calls {
    fn take(&self, request: Request<RecvStream>, mut respond: SendResponse<Body>) {
        let (mut request, mut body) = request.into_parts();
        let mut message = Message::default();
        let shared = &self.shared;
        // Most messages are there already: a task is only for what has to be waited for.
        let mut nobody = Context::from_waker(Waker::noop());
        let is_waited_for = match Asked::of(&request, &self.peer, shared) {
            None => false,
            Some(asked) => match message.poll(&mut body, &mut nobody) {
                Poll::Pending => true,
                Poll::Ready(Read::Gone) => return,
                Poll::Ready(Read::Odd) => false,
                Poll::Ready(Read::Whole) => {
                    if asked.answer(message.message(), shared, &self.queue, &mut respond) {
                        return;
                    }
                    false
                }
            },
        };
        self.peer.mark(&mut request.headers, &shared.secret);
        let (shared, relay, peer) = (shared.clone(), self.relay.clone(), self.peer.clone());
        let queue = self.queue.clone();
        tokio::spawn(async move {
            if is_waited_for {
                match timeout(MESSAGE, message.rest(&mut body, &shared)).await {
                    Ok(Read::Gone) => return,
                    // The server behind knows until when it may come.
                    Ok(Read::Odd) | Err(_) => {}
                    Ok(Read::Whole) => {
                        // Who may ask can have changed since the headers came.
                        if let Some(asked) = Asked::of(&request, &peer, &shared)
                            && asked.answer(message.message(), &shared, &queue, &mut respond)
                        {
                            return;
                        }
                    }
                }
            }
            let read = message.into_read();
            relay.relay(request, read, body, respond).await;
        });
    }
}
