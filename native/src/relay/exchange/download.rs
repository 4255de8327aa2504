//! The response's way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;

use super::upload::poll_capacity;

/// Passes on the response, as fast as the client takes it.
pub struct Download<'a, B: Buf> {
    respond: &'a mut SendResponse<B>,
    response: ResponseFuture,
    /// Once the headers are there.
    body: Option<Body<B>>,
}

struct Body<B: Buf> {
    from: RecvStream,
    to: SendStream<B>,
    /// On its way.
    bytes: Bytes,
    is_last: bool,
}

impl<'a, B: Buf + From<Bytes>> Download<'a, B> {
    pub fn new(respond: &'a mut SendResponse<B>, response: ResponseFuture) -> Self {
        Self {
            respond,
            response,
            body: None,
        }
    }

    /// Ready when the client has ended the call.
    pub fn poll_client_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.body {
            Some(body) => body.to.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        }
    }

    /// The response as far as the client has it, if it has any.
    pub fn response(&mut self) -> Option<&mut SendStream<B>> {
        self.body.as_mut().map(|body| &mut body.to)
    }

    /// Ready when the response has ended. Errors are the server's.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let (head, from) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
                let is_whole = from.is_end_stream();
                let response = Response::from_parts(head, ());
                match self.respond.send_response(response, is_whole) {
                    Ok(to) if !is_whole => self.body.insert(Body {
                        from,
                        to,
                        bytes: Bytes::new(),
                        is_last: false,
                    }),
                    // Or the client has gone in the meantime.
                    _ => return Poll::Ready(Ok(())),
                }
            }
        };
        body.poll(cx)
    }
}

impl<B: Buf + From<Bytes>> Body<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            while !self.bytes.is_empty() {
                let Some(length) = ready!(poll_capacity(&mut self.to, cx, self.bytes.len())) else {
                    return Poll::Ready(Ok(()));
                };
                let part = self.bytes.split_to(length);
                let is_last = self.is_last && self.bytes.is_empty();
                let _ = self.to.send_data(part.into(), is_last);
                let _ = self.from.flow_control().release_capacity(length);
            }
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            if let Some(bytes) = ready!(self.from.poll_data(cx)).transpose()? {
                self.is_last = self.from.is_end_stream();
                if self.is_last && bytes.is_empty() {
                    let _ = self.to.send_data(bytes.into(), true);
                } else {
                    self.bytes = bytes;
                }
                continue;
            }
            // Errors of sending say that the client has gone in the meantime.
            let _ = match ready!(self.from.poll_trailers(cx))? {
                Some(trailers) => self.to.send_trailers(trailers),
                None => self.to.send_data(Bytes::new().into(), true),
            };
            return Poll::Ready(Ok(()));
        }
    }
}
