//! What the front door says when the server behind it cannot answer.

use std::fmt::Write;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};

use crate::body::Body;

const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Ends a call that has no response yet with UNAVAILABLE.
pub fn refuse(respond: &mut SendResponse<Body>, why: &str) {
    let mut response = Response::new(());
    *response.headers_mut() = unavailable(why);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    // An error says that the client has gone in the meantime.
    let _ = respond.send_response(response, true);
}

/// The trailers of a call that ends with UNAVAILABLE.
pub fn unavailable(why: &str) -> HeaderMap {
    let message = format!("the connection to the sidecar's server failed: {why}; try again");
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert("grpc-status", UNAVAILABLE);
    if let Ok(message) = HeaderValue::from_maybe_shared(Bytes::from(percent_encoded(&message))) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// As gRPC over HTTP/2 wants a `grpc-message`: only printable ASCII as it is.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => {
                // Writing to a string does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::percent_encoded;

    #[test]
    fn printable_ascii_is_left_as_it_is() {
        assert_eq!(percent_encoded("a b~;(2)"), "a b~;(2)");
    }

    #[test]
    fn all_other_bytes_are_percent_encoded() {
        assert_eq!(percent_encoded("50%\n\u{7f}é"), "50%25%0A%7F%C3%A9");
    }
}
