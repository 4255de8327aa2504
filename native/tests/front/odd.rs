//! Calls that are handed over as they came, though an answer to their message is in memory.

use bytes::Bytes;
use http::request::Builder;
use http::{HeaderMap, Method, Request};

use crate::stage::{Client, Door, OK, PATH, UNAVAILABLE, answer, framed, play, request, settle};

async fn client(door: &Door) -> Client {
    door.keep(b"known", None, "answer", &[]);
    door.keep(b"", None, "answer to nothing", &[]);
    door.client().await
}

#[test]
fn a_body_that_is_not_one_plain_message_is_handed_over() {
    play(async {
        let door = Door::new();
        let mut client = client(&door).await;
        let known = framed(b"known");
        for (name, body) in [
            ("nothing at all", vec![]),
            ("half a prefix", known[..3].to_vec()),
            ("half a message", known[..8].to_vec()),
            ("a message and a byte", [&known[..], b"x"].concat()),
            ("two messages", [&known[..], &known].concat()),
            ("a compressed message", [b"\x01", &known[1..]].concat()),
            ("an odd flag", [b"\xff", &known[1..]].concat()),
            ("a huge length", vec![0, 0xff, 0xff, 0xff, 0xff, b'x']),
        ] {
            let (status, _) = client.ask_so(request(), body.into()).await;
            assert_eq!(status, UNAVAILABLE, "{name}");
        }
        let (status, data) = client.ask(b"").await;
        assert_eq!(
            (status.as_str(), data),
            (OK, framed(b"answer to nothing").to_vec())
        );
        assert_eq!(door.answered(), 1);
    });
}

#[test]
fn headers_of_something_else_are_handed_over() {
    play(async {
        let door = Door::new();
        let mut client = client(&door).await;
        let grpc = |request: Builder| request.header("content-type", "application/grpc");
        let url = format!("http://test{PATH}");
        for (name, request) in [
            (
                "another method",
                grpc(Request::post("http://test/test.Service/Other")),
            ),
            ("a query", grpc(Request::post(format!("{url}?q")))),
            (
                "not posted",
                grpc(Request::builder().uri(&url).method(Method::PUT)),
            ),
            ("no content type", Request::post(&url)),
            (
                "JSON",
                Request::post(&url).header("content-type", "application/grpc+json"),
            ),
            (
                "gRPC of the web",
                Request::post(&url).header("content-type", "application/grpc-web"),
            ),
            ("compression", request().header("grpc-encoding", "gzip")),
        ] {
            let (status, _) = client.ask_so(request, framed(b"known")).await;
            assert_eq!(status, UNAVAILABLE, "{name}");
        }
        for request in [
            Request::post(&url).header("content-type", "application/grpc+proto"),
            request().header("grpc-encoding", "identity"),
        ] {
            assert_eq!(client.ask_so(request, framed(b"known")).await.0, OK);
        }
    });
}

#[test]
fn a_call_with_trailers_is_handed_over() {
    play(async {
        let door = Door::new();
        let mut client = client(&door).await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"known"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("odd", "yes".parse().unwrap());
        to.send_trailers(trailers).unwrap();
        assert_eq!(answer(response).await.unwrap().0, UNAVAILABLE);
    });
}

#[test]
fn what_turns_out_odd_later_is_handed_over_then() {
    play(async {
        let door = Door::new();
        let mut client = client(&door).await;
        for rest in [&b""[..], b"nown, and more"] {
            let (response, mut to) = client.begin(request()).await;
            to.send_data(framed(b"known").slice(..6), false).unwrap();
            settle().await;
            to.send_data(Bytes::copy_from_slice(rest), true).unwrap();
            assert_eq!(answer(response).await.unwrap().0, UNAVAILABLE);
        }
    });
}
