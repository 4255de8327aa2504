//! The response's way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;

use super::upload::poll_capacity;
use crate::body::Body;

/// Passes on the response, as fast as the client takes it.
pub struct Download<'a> {
    respond: &'a mut SendResponse<Body>,
    response: ResponseFuture,
    /// Once the headers are there.
    begun: Option<Begun>,
}

/// A response whose headers have been passed on.
struct Begun {
    from: RecvStream,
    to: SendStream<Body>,
    /// On its way.
    bytes: Bytes,
    is_last: bool,
}

impl<'a> Download<'a> {
    pub fn new(respond: &'a mut SendResponse<Body>, response: ResponseFuture) -> Self {
        Self {
            respond,
            response,
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
            return begun.poll(cx);
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
            bytes: Bytes::new(),
            is_last: false,
        });
        begun.poll(cx)
    }
}

impl Begun {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        // Errors of sending say that the client has gone in the meantime.
        loop {
            while !self.bytes.is_empty() {
                let Some(length) = ready!(poll_capacity(&mut self.to, cx, self.bytes.len())) else {
                    return Poll::Ready(Ok(()));
                };
                let part = self.bytes.split_to(length);
                let is_last = self.is_last && self.bytes.is_empty();
                let _ = self.to.send_data(Body::Relayed(part), is_last);
                let _ = self.from.flow_control().release_capacity(length);
            }
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            let Some(bytes) = ready!(self.from.poll_data(cx)).transpose()? else {
                break;
            };
            self.is_last = self.from.is_end_stream() && !bytes.is_empty();
            self.bytes = bytes;
        }
        let _ = match ready!(self.from.poll_trailers(cx))? {
            Some(trailers) => self.to.send_trailers(trailers),
            None => self.to.send_data(Body::Relayed(Bytes::new()), true),
        };
        Poll::Ready(Ok(()))
    }
}
