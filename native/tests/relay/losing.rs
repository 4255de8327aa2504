//! Connections to the server behind that are not to be had, break, or are to take no more calls.

use std::path::Path;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::stage::{Backend, Client, Folder, both, ok, play, read, settle, status};

fn assert_unavailable(response: &Response<RecvStream>, why: &str) {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.body().is_end_stream());
    let (code, message) = status(response.headers());
    assert_eq!(code, "14");
    assert!(message.contains(why), "{message}");
    assert!(message.contains("try again"), "{message}");
}

#[test]
fn without_a_server_calls_are_unavailable_until_there_is_one() {
    play(async {
        let folder = Folder::new();
        let mut client = Client::new(&folder.socket()).await;
        for _ in 0..2 {
            let response = client.ask("request").await.unwrap();
            assert_unavailable(&response, "No such file");
        }
        let mut backend = Backend::new(&folder.socket());
        let pending = client.ask("request");
        backend.call().await.answer("here");
        let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!(data, b"here");
    });
}

#[test]
fn calls_wait_while_too_many_connections_wait_for_the_server() {
    play(async {
        let folder = Folder::new();
        let listener = crowded(&folder.socket());
        let mut waiting = Vec::new();
        while let Ok(socket) = UnixStream::connect(folder.socket()).await {
            waiting.push(socket);
        }
        let mut client = Client::new(&folder.socket()).await;
        let (cancelled, mut to) = client.call();
        let mut pending = client.ask("request");
        settle(|| 0).await;
        to.send_reset(Reason::CANCEL);
        assert!(cancelled.await.is_err());
        settle(|| 0).await;
        let unanswered = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut pending).poll(cx).is_pending())
        });
        assert!(unanswered.await);

        for _ in &waiting {
            listener.accept().await.unwrap();
        }
        let (socket, _) = listener.accept().await.unwrap();
        let mut server = h2::server::handshake(socket).await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let mut to = respond.send_response(Response::new(()), false).unwrap();
        to.send_data(Bytes::from("at last"), true).unwrap();
        let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!(data, b"at last");
    });
}

/// A socket that keeps only a few connections waiting.
fn crowded(path: &Path) -> UnixListener {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(path).unwrap())
        .unwrap();
    socket.listen(1).unwrap();
    socket.set_nonblocking(true).unwrap();
    UnixListener::from_std(socket.into()).unwrap()
}

#[test]
fn a_call_whose_connection_breaks_before_the_response_is_unavailable() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let call = backend.call().await;
        backend.kill(call.connection);
        assert_unavailable(
            &pending.await.unwrap(),
            "the connection to the sidecar's server failed",
        );

        let pending = client.ask("request");
        backend.call().await.answer("anew");
        let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!(data, b"anew");
    });
}

#[test]
fn a_call_whose_connection_breaks_within_the_response_ends_as_unavailable() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut call = backend.call().await;
        let mut to = call.head();
        to.send_data("part".into(), false).unwrap();
        let mut response = pending.await.unwrap();
        let body = response.body_mut();
        assert_eq!(body.data().await.unwrap().unwrap(), "part");
        backend.kill(call.connection);
        let (rest, trailers) = read(body).await.unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((&rest[..], status(&trailers).0), (&b""[..], "14"));
    });
}

#[test]
fn a_connection_that_goes_away_ends_its_calls_in_peace_and_takes_no_more() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to_server) = client.call();
        let mut old = backend.call().await;
        let mut to_client = old.head();
        let mut response = pending.await.unwrap();
        backend.go_away(old.connection);
        settle(|| 0).await;

        let next = client.ask("request");
        let mut new = backend.call().await;
        assert_eq!((old.connection, new.connection), (0, 1));
        new.answer("new");
        assert_eq!(
            read(&mut next.await.unwrap().into_body()).await.unwrap().0,
            b"new"
        );

        to_server.send_data("last".into(), true).unwrap();
        assert_eq!(read(old.request.body_mut()).await.unwrap().0, b"last");
        to_client.send_data("word".into(), false).unwrap();
        to_client.send_trailers(ok()).unwrap();
        let (data, trailers) = read(response.body_mut()).await.unwrap();
        assert_eq!((&data[..], trailers), (&b"word"[..], Some(ok())));
        drop((old, to_client));
        while !backend.is_over(0) {
            tokio::task::yield_now().await;
        }
    });
}

/// Takes a connection, waits for what is sent, and says that it looked at none of its calls.
async fn go_away_unseen(listener: &UnixListener) {
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // The preface of a client, its settings and window, and something of a call.
    let mut seen = 0;
    while seen < 200 {
        seen += socket.read(&mut [0; 1024]).await.unwrap();
    }
    let go_away = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    socket.write_all(go_away).await.unwrap();
    while socket
        .read(&mut [0; 1024])
        .await
        .is_ok_and(|length| length > 0)
    {}
}

#[test]
fn a_call_that_a_connection_did_not_see_is_made_on_the_next() {
    play(async {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.socket()).unwrap();
        let taken = vec![Bytes::from(vec![1; 200])];
        let mut client = Client::having_read(&folder.socket(), taken).await;
        let (_response, mut to) = client.call();
        go_away_unseen(&listener).await;
        let mut backend = Backend::with(listener, h2::server::Builder::new());
        let mut call = backend.call().await;
        to.send_data("rest".into(), true).unwrap();
        assert_eq!(read(call.request.body_mut()).await.unwrap().0.len(), 204);
    });
}

#[test]
fn a_call_that_was_refused_is_made_once_more() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let taken = vec![Bytes::from("whole")];
        let mut client = Client::having_read(&folder.socket(), taken).await;
        for times in [1, 2] {
            let pending = client
                .send
                .send_request(crate::stage::request(), true)
                .unwrap()
                .0;
            for _ in 0..times {
                backend
                    .call()
                    .await
                    .respond
                    .send_reset(Reason::REFUSED_STREAM);
            }
            if times == 1 {
                let mut call = backend.call().await;
                assert_eq!(read(call.request.body_mut()).await.unwrap().0, b"whole");
                call.answer("yes");
                let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
                assert_eq!(data, b"yes");
            } else {
                let error = pending.await.unwrap_err();
                assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
            }
            settle(|| 0).await;
            assert!(!backend.has_call());
        }
    });
}

#[test]
fn a_call_that_was_refused_after_some_of_its_request_is_for_the_client_to_make_again() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut call = backend.call().await;
        read(call.request.body_mut()).await.unwrap();
        call.respond.send_reset(Reason::REFUSED_STREAM);
        assert_eq!(
            pending.await.unwrap_err().reason(),
            Some(Reason::REFUSED_STREAM)
        );
        settle(|| 0).await;
        assert!(!backend.has_call());
    });
}
