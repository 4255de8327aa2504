//! The response's way to the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;

use super::upload::poll_capacity;
use crate::body::Body;
use crate::unwritten::{Held, Queue};

/// Of what is shorter there is a copy: it would hold on to all that was read from the socket with it.
const COPIED_BYTES: usize = 16 * 1024;

/// Passes on the response, as fast as the client takes it.
pub struct Download<'a> {
    respond: &'a mut SendResponse<Body>,
    response: ResponseFuture,
    queue: &'a Arc<Queue>,
    /// Once the headers are there.
    begun: Option<Begun>,
}

/// A response whose headers have been passed on.
struct Begun {
    from: RecvStream,
    to: SendStream<Body>,
    /// What has come and was not sent yet. The server's window bounds it.
    waiting: VecDeque<(Bytes, Held)>,
    /// Once all data have come.
    end: Option<End>,
}

/// What follows the data.
enum End {
    Nothing,
    Trailers,
    Error(h2::Error),
}

impl<'a> Download<'a> {
    pub fn new(
        respond: &'a mut SendResponse<Body>,
        response: ResponseFuture,
        queue: &'a Arc<Queue>,
    ) -> Self {
        Self {
            respond,
            response,
            queue,
            begun: None,
        }
    }

    /// Ready when the client has ended the call.
    pub fn poll_client_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.begun {
            Some(begun) => begun.to.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        }
    }

    /// The response as far as the client has it, if it has any.
    pub fn response(&mut self) -> Option<&mut SendStream<Body>> {
        self.begun.as_mut().map(|begun| &mut begun.to)
    }

    /// Ready when there is nothing more to pass on. Errors are the server's.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let Some(begun) = &mut self.begun {
            return begun.poll(cx, self.queue);
        }
        let (head, from) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
        let is_whole = from.is_end_stream();
        let response = Response::from_parts(head, ());
        // An error says that the client has gone in the meantime.
        let Ok(to) = self.respond.send_response(response, is_whole) else {
            return Poll::Ready(Ok(()));
        };
        if is_whole {
            return Poll::Ready(Ok(()));
        }
        let begun = self.begun.insert(Begun {
            from,
            to,
            waiting: VecDeque::new(),
            end: None,
        });
        begun.poll(cx, self.queue)
    }
}

impl Begun {
    fn poll(&mut self, cx: &mut Context<'_>, queue: &Arc<Queue>) -> Poll<Result<(), h2::Error>> {
        if !self.take_in(cx, queue) {
            self.to.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Poll::Ready(Ok(()));
        }
        // Errors of sending say that the client has gone in the meantime.
        while let Some((bytes, held)) = self.waiting.front_mut() {
            let Some(length) = ready!(poll_capacity(&mut self.to, cx, bytes.len())) else {
                return Poll::Ready(Ok(()));
            };
            let part = Body::Relayed(bytes.split_to(length), held.split_to(length));
            if bytes.is_empty() {
                self.waiting.pop_front();
            }
            let is_last = self.waiting.is_empty() && matches!(self.end, Some(End::Nothing));
            let _ = self.to.send_data(part, is_last);
            let _ = self.from.flow_control().release_capacity(length);
        }
        match self.end.take() {
            None => return Poll::Pending,
            Some(End::Nothing) => {}
            Some(End::Error(error)) => return Poll::Ready(Err(error)),
            Some(End::Trailers) => {
                self.end = Some(End::Trailers);
                let _ = match ready!(self.from.poll_trailers(cx))? {
                    Some(trailers) => self.to.send_trailers(trailers),
                    None => {
                        let nothing = Body::Relayed(Bytes::new(), queue.hold(0));
                        self.to.send_data(nothing, true)
                    }
                };
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what has come, so that it counts; false if there is no room for it.
    fn take_in(&mut self, cx: &mut Context<'_>, queue: &Arc<Queue>) -> bool {
        while self.end.is_none() {
            match self.from.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    if queue.is_full() {
                        return false;
                    }
                    if self.from.is_end_stream() {
                        self.end = Some(End::Nothing);
                    }
                    let held = queue.hold(bytes.len());
                    self.waiting.push_back((own(bytes), held));
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(End::Error(error)),
                Poll::Ready(None) => self.end = Some(End::Trailers),
            }
        }
        true
    }
}

/// Bytes that hold on to little more than themselves.
fn own(bytes: Bytes) -> Bytes {
    if bytes.len() < COPIED_BYTES {
        Bytes::copy_from_slice(&bytes)
    } else {
        bytes
    }
}
