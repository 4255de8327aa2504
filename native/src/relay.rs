//! Hands calls to the gRPC server behind, as HTTP/2.
//!
//! Nothing is read from one side that the other cannot take yet: what is held up stays in the flow
//! control windows of the two connections.

mod backend;
mod exchange;
mod status;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;

use crate::body::Body;
use crate::unwritten::Queue;

use backend::Backend;
use exchange::{Call, Outcome, exchange};
use status::refuse;

/// The calls of one client's connection, on a connection of their own to the server behind.
///
/// That is made at the first call, and made anew when it is gone or is to take no more calls. It
/// ends when this is dropped and the last call has ended.
pub struct Relay {
    backend: Backend,
    queue: Arc<Queue>,
}

impl Relay {
    /// To the server that listens on a Unix socket. What the client does not read waits in its
    /// queue.
    pub fn new(backend: Arc<Path>, queue: Arc<Queue>) -> Self {
        Self {
            backend: Backend::new(backend),
            queue,
        }
    }

    /// Has one call answered, and returns when nothing is left to be done for it.
    ///
    /// `read` is what was taken from `body` already, in order, whose capacity was released. What
    /// ends the call early on one side ends it on the other, by the same code. A call that the
    /// server did not look at is offered once more if nothing was taken from `body` here. Dropping
    /// the future cancels the call on both sides.
    pub async fn relay(
        &self,
        request: Parts,
        read: Vec<Bytes>,
        mut body: RecvStream,
        mut respond: SendResponse<Body>,
    ) {
        let mut offered_before = false;
        loop {
            let backend = tokio::select! {
                biased;
                // Whose client is gone needs no connection.
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
                backend = self.backend.ready() => backend,
            };
            let outcome = match backend {
                Ok(backend) => {
                    let call = Call {
                        head: &request,
                        read: &read,
                        queue: &self.queue,
                    };
                    exchange(backend, call, &mut body, &mut respond).await
                }
                Err(error) => Outcome::Lost(error.to_string()),
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Unseen { again: true } if !offered_before => {
                    offered_before = true;
                    continue;
                }
                // Clients may offer it once more themselves.
                Outcome::Unseen { .. } => respond.send_reset(Reason::REFUSED_STREAM),
                Outcome::Reset(reason) => respond.send_reset(reason),
                Outcome::Lost(why) => refuse(&mut respond, &why),
            }
            return;
        }
    }
}
