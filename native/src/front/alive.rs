//! Whether a client is still there, of whom nothing is heard.
//!
//! Who has lost its power or its network says no goodbye, and its connection would keep its place
//! until the system finds out. So silent clients are asked, by a PING of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Of a client that says nothing for so long it is asked whether it is there. Places are few, and
/// clients are near: gRPC's own two hours are for servers with room for all of the internet.
pub const SILENCE: Duration = Duration::from_secs(60);
/// So long it may take to answer, as with gRPC: the answer may be behind much else.
pub const ANSWER: Duration = Duration::from_secs(20);

/// Watches over one connection.
pub struct Alive {
    ping: PingPong,
    /// What it had said when it was looked last, in bytes.
    heard: usize,
    is_asked: bool,
    /// Whether nothing else counts but the answer.
    is_last: bool,
    timer: Pin<Box<Sleep>>,
}

impl Alive {
    /// Over one that has begun.
    pub fn new(ping: PingPong) -> Self {
        Self {
            ping,
            heard: 0,
            is_asked: false,
            is_last: false,
            timer: Box::pin(sleep(SILENCE)),
        }
    }

    /// From now on there is only so much time for an answer. What was sent before is known by then.
    pub fn ask(&mut self) {
        // It fails if the last one was not answered yet, or the connection is over.
        self.is_asked |= self.ping.send_ping(Ping::opaque()).is_ok();
        self.is_last = true;
        self.wait(ANSWER);
    }

    /// Ready when it is there no more. `heard` says how many bytes it has said so far.
    pub fn poll(&mut self, cx: &mut Context<'_>, heard: impl Fn() -> usize) -> Poll<()> {
        loop {
            if self.is_asked && self.ping.poll_pong(cx).is_ready() {
                (self.is_asked, self.is_last) = (false, false);
                self.wait(SILENCE);
            }
            ready!(self.timer.as_mut().poll(cx));
            let heard = heard();
            let is_silent = heard == self.heard;
            self.heard = heard;
            match (self.is_asked, is_silent) {
                (true, _) if self.is_last => return Poll::Ready(()),
                (true, true) => return Poll::Ready(()),
                // It talks, though its answer has not come.
                (true, false) => self.wait(ANSWER),
                (false, false) => self.wait(SILENCE),
                (false, true) => {
                    self.is_asked = self.ping.send_ping(Ping::opaque()).is_ok();
                    self.wait(ANSWER);
                }
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}
