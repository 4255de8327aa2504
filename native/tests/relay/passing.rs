//! What is passed on as it is.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};

use crate::stage::{
    Backend, Client, Folder, both, ok, play, read, request, response, settle, status,
};

#[test]
fn the_request_arrives_as_it_was_sent() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let sent =
            Request::post("https://embed.example:8443/embercache.v1.EmbedService/Embed?a=%2f")
                .header("te", "trailers")
                .header("content-type", "application/grpc+proto")
                .header("grpc-timeout", "1234567u")
                .header("grpc-encoding", "gzip")
                .header("user-agent", "grpc-python/1.80.0 grpc-c/1")
                .header("trace-bin", "AAEC/w")
                .header("many", "b")
                .header("many", "a, c")
                .header("many", "")
                .header("many", "b")
                .header("bytes", HeaderValue::from_bytes(b"\xff \xe9").unwrap())
                .body(())
                .unwrap();
        let headers = sent.headers().clone();
        let _response = client.send.send_request(sent, true).unwrap();
        let call = backend.call().await;
        assert_eq!(
            call.request.uri(),
            "https://embed.example:8443/embercache.v1.EmbedService/Embed?a=%2f"
        );
        assert_eq!(call.request.method(), "POST");
        assert_eq!(all(call.request.headers()), all(&headers));
        assert_eq!(
            call.request
                .headers()
                .get_all("many")
                .iter()
                .collect::<Vec<_>>(),
            ["b", "a, c", "", "b"]
        );
    });
}

fn all(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    // In which order values of one name come matters, not that of the names.
    all.sort_by_key(|(name, _)| *name);
    all
}

#[test]
fn a_request_without_authority_arrives_without() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let sent = Request::post("/a/b")
            .version(Version::HTTP_11)
            .header("host", "me")
            .body(());
        let _response = client.send.send_request(sent.unwrap(), true).unwrap();
        let call = backend.call().await;
        assert_eq!(call.request.uri().authority(), None);
        assert_eq!(call.request.uri().path(), "/a/b");
        assert_eq!(call.request.headers()["host"], "me");
    });
}

#[test]
fn the_response_arrives_as_it_was_sent() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut call = backend.call().await;
        let head = Response::builder()
            .status(200)
            .header("content-type", "application/grpc")
            .header("many", "2")
            .header("many", "1")
            .header("data-bin", "AAEC/w")
            .body(());
        let mut to = call.respond.send_response(head.unwrap(), false).unwrap();
        to.send_data("one".into(), false).unwrap();
        to.send_data("two".into(), false).unwrap();
        let mut trailers = ok();
        trailers.append("more", "2".parse().unwrap());
        trailers.append("more", "1".parse().unwrap());
        to.send_trailers(trailers.clone()).unwrap();

        let response = pending.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response
                .headers()
                .get_all("many")
                .iter()
                .collect::<Vec<_>>(),
            ["2", "1"]
        );
        assert_eq!(response.headers()["data-bin"], "AAEC/w");
        let (data, arrived) = read(&mut response.into_body()).await.unwrap();
        assert_eq!(data, b"onetwo");
        assert_eq!(all(&arrived.unwrap()), all(&trailers));
    });
}

#[test]
fn what_was_read_already_is_sent_first() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let taken = vec![
            Bytes::from("a"),
            Bytes::new(),
            Bytes::from(vec![b'b'; 100_000]),
        ];
        let mut client = Client::having_read(&folder.socket(), taken).await;
        let (_response, mut to) = client.call();
        to.send_data("c".into(), false).unwrap();
        to.send_data("d".into(), true).unwrap();
        let mut call = backend.call().await;
        let (data, _) = read(call.request.body_mut()).await.unwrap();
        assert_eq!(data, [&b"a"[..], &[b'b'; 100_000], b"cd"].concat());
    });
}

#[test]
fn a_request_that_was_read_whole_ends_with_what_was_read() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let taken = vec![Bytes::from("whole")];
        let mut client = Client::having_read(&folder.socket(), taken).await;
        let _response = client.send.send_request(request(), true).unwrap();
        let mut call = backend.call().await;
        let body = call.request.body_mut();
        assert_eq!(body.data().await.unwrap().unwrap(), "whole");
        assert!(body.is_end_stream());
    });
}

#[test]
fn a_request_ends_when_the_clients_does_and_not_before() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (_response, mut to) = client.call();
        to.send_data("message".into(), false).unwrap();
        let mut call = backend.call().await;
        let body = call.request.body_mut();
        assert_eq!(body.data().await.unwrap().unwrap(), "message");
        settle(|| 0).await;
        assert!(!body.is_end_stream());
        to.send_data(Bytes::new(), true).unwrap();
        assert!(
            body.data()
                .await
                .is_none_or(|data| data.unwrap().is_empty())
        );
        assert!(body.is_end_stream());
    });
}

#[test]
fn a_request_of_headers_alone_ends_with_them() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let _response = client.send.send_request(request(), true).unwrap();
        assert!(backend.call().await.request.body().is_end_stream());
    });
}

#[test]
fn a_message_that_ends_the_request_is_in_one_frame_with_its_end() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let _response = client.ask("message");
        let mut call = backend.call().await;
        assert_eq!(
            call.request.body_mut().data().await.unwrap().unwrap(),
            "message"
        );
        assert!(call.request.body().is_end_stream());
    });
}

#[test]
fn trailers_of_the_request_are_passed_on() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (_response, mut to) = client.call();
        to.send_data("data".into(), false).unwrap();
        to.send_trailers(ok()).unwrap();
        let mut call = backend.call().await;
        let (data, trailers) = read(call.request.body_mut()).await.unwrap();
        assert_eq!((&data[..], trailers), (&b"data"[..], Some(ok())));
    });
}

#[test]
fn headers_of_the_response_arrive_before_its_first_message() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut to = backend.call().await.head();
        let mut response = pending.await.unwrap();
        to.send_data("late".into(), false).unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "late");
    });
}

#[test]
fn a_response_of_trailers_alone_is_one() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut alone = response();
        alone
            .headers_mut()
            .insert("grpc-status", "5".parse().unwrap());
        alone
            .headers_mut()
            .insert("grpc-message", "none%20such".parse().unwrap());
        backend
            .call()
            .await
            .respond
            .send_response(alone, true)
            .unwrap();
        let response = pending.await.unwrap();
        assert_eq!(status(response.headers()), ("5", "none%20such"));
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn a_response_may_end_with_data() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        for end in ["", "end"] {
            let pending = client.ask("request");
            let mut to = backend.call().await.head();
            to.send_data("data".into(), false).unwrap();
            to.send_data(end.into(), true).unwrap();
            let (data, trailers) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
            assert_eq!(
                (data, trailers),
                (["data", end].concat().into_bytes(), None)
            );
        }
    });
}

#[test]
fn both_sides_may_speak_by_turns() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to_server) = client.call();
        let mut call = backend.call().await;
        let mut to_client = call.head();
        let mut response = pending.await.unwrap();
        for turn in 0..20 {
            to_server
                .send_data(format!("ask {turn}").into(), false)
                .unwrap();
            let asked = call.request.body_mut().data().await.unwrap().unwrap();
            assert_eq!(asked, format!("ask {turn}"));
            to_client
                .send_data(format!("say {turn}").into(), false)
                .unwrap();
            let said = response.body_mut().data().await.unwrap().unwrap();
            assert_eq!(said, format!("say {turn}"));
        }
        to_server.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(call.request.body_mut()).await.unwrap().0, b"");
        to_client.send_trailers(ok()).unwrap();
        assert_eq!(read(response.body_mut()).await.unwrap().1, Some(ok()));
    });
}

#[test]
fn calls_of_one_client_share_a_connection_and_clients_do_not() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let mut one = Client::new(&folder.socket()).await;
        let mut other = Client::new(&folder.socket()).await;
        settle(|| 0).await;
        assert_eq!(backend.connections(), 0);
        let mut seen = Vec::new();
        for _ in 0..2 {
            for client in [&mut one, &mut other] {
                let _response = client.ask("request");
                seen.push(backend.call().await.connection);
            }
        }
        assert_eq!(seen, [0, 1, 0, 1]);
    });
}
