//! One request to the server behind, and its response, both on their way at once.

mod download;
mod upload;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{Request, Version};

use super::status::unavailable;
use crate::body::Body;
use crate::unwritten::Queue;
use download::Download;
use upload::Upload;

/// How it went.
pub enum Outcome {
    /// Both sides know how the call ended.
    Done,
    /// The server did not look at the request, and the client has no response. It can be sent
    /// `again` if nothing was taken from its body.
    Unseen { again: bool },
    /// The server ended the call before it responded.
    Reset(Reason),
    /// There is no connection, and the client has no response.
    Lost(String),
}

/// What stays the same however often a call is offered.
pub struct Call<'a> {
    /// Its headers.
    pub head: &'a Parts,
    /// What was taken from its body already.
    pub read: &'a [Bytes],
    /// Where its response waits for the client.
    pub queue: &'a Arc<Queue>,
}

/// Sends a request and passes on the response. `read` and then `body` are what it is to say.
pub async fn exchange(
    mut backend: SendRequest<Bytes>,
    Call { head, read, queue }: Call<'_>,
    body: &mut RecvStream,
    respond: &mut SendResponse<Body>,
) -> Outcome {
    let is_whole = read.is_empty() && body.is_end_stream();
    let (response, to) = match backend.send_request(request(head), is_whole) {
        Ok(sent) => sent,
        Err(error) => return Outcome::Lost(error.to_string()),
    };
    // It would keep the connection open.
    drop(backend);
    let mut exchange = Exchange {
        upload: Upload::new(to, read, body, is_whole),
        download: Download::new(respond, response, queue),
    };
    poll_fn(|cx| exchange.poll(cx)).await
}

/// The headers of the request as they are.
fn request(head: &Parts) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    // Who has no authority says so by this; with HTTP/2 here, h2 would not send it.
    *request.version_mut() = match head.uri.authority() {
        Some(_) => Version::HTTP_2,
        None => Version::HTTP_11,
    };
    request
}

struct Exchange<'a> {
    upload: Upload<'a>,
    download: Download<'a>,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(reset) = self.download.poll_client_reset(cx) {
            return Poll::Ready(self.cancel(reset));
        }
        if let Poll::Ready(Err(error)) = self.upload.poll(cx) {
            return Poll::Ready(self.cancel(Err(error)));
        }
        match self.download.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.upload.stop();
                Poll::Ready(Outcome::Done)
            }
            Poll::Ready(Err(error)) => Poll::Ready(self.fail(&error)),
        }
    }

    /// The client ended the call, or its connection.
    fn cancel(&mut self, reset: Result<Reason, h2::Error>) -> Outcome {
        let reason = match reset {
            Ok(reason) => Some(reason),
            Err(error) if error.is_reset() => error.reason(),
            Err(_) => None,
        };
        self.upload.reset(reason.unwrap_or(Reason::CANCEL));
        Outcome::Done
    }

    /// The server ended the call, or its connection.
    fn fail(&mut self, error: &h2::Error) -> Outcome {
        let reset = error.reason().filter(|_| error.is_reset());
        if let Some(response) = self.download.response() {
            match reset {
                Some(reason) => response.send_reset(reason),
                None => {
                    // An error says that the client has gone in the meantime.
                    let _ = response.send_trailers(unavailable(&error.to_string()));
                }
            }
            return Outcome::Done;
        }
        // GOAWAY ends only calls that were not looked at.
        let is_unseen = error.is_go_away() || reset == Some(Reason::REFUSED_STREAM);
        match reset {
            _ if is_unseen && error.is_remote() => Outcome::Unseen {
                again: !self.upload.has_taken(),
            },
            Some(reason) => Outcome::Reset(reason),
            None => Outcome::Lost(error.to_string()),
        }
    }
}
