//! Calls that the client ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use embercache_native::front::connection::settings;
use embercache_native::relay::Relay;
use h2::Reason;
use tokio::net::UnixStream;

use crate::stage::{Backend, Call, Folder, both, ok, play, queue, read, request, send, settle};

/// By which code the server's side of a call was ended.
async fn code(mut call: Call) -> Reason {
    call.reset().await.unwrap()
}

#[test]
fn a_call_cancelled_before_its_response_is_cancelled_behind_by_the_same_code() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            for is_whole in [true, false] {
                let sent = client.send.send_request(request(), is_whole);
                let (_response, mut to) = sent.unwrap();
                let call = backend.call().await;
                to.send_reset(reason);
                assert_eq!(code(call).await, reason);
            }
        }
    });
}

#[test]
fn a_call_cancelled_within_its_response_is_cancelled_behind() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        for is_whole in [true, false] {
            let (pending, mut to) = client.send.send_request(request(), is_whole).unwrap();
            let mut call = backend.call().await;
            let mut to_client = call.head();
            to_client.send_data("first".into(), false).unwrap();
            let mut response = pending.await.unwrap();
            response.body_mut().data().await.unwrap().unwrap();
            to.send_reset(Reason::CANCEL);
            let reset = std::future::poll_fn(|cx| to_client.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), Reason::CANCEL);
        }
    });
}

#[test]
fn a_call_is_cancelled_behind_while_the_server_takes_no_more_of_its_request() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (_response, mut to) = client.call();
        let sent = AtomicUsize::new(0);
        let sending = send(&mut to, vec![0; 1 << 20].into(), &sent);
        tokio::select! {
            _ = sending => panic!("all was taken"),
            _ = settle(|| sent.load(Ordering::Relaxed)) => {}
        }
        let call = backend.call().await;
        to.send_reset(Reason::CANCEL);
        assert_eq!(code(call).await, Reason::CANCEL);
    });
}

#[test]
fn a_call_is_cancelled_behind_while_the_client_reads_no_more_of_its_response() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to) = client.call();
        let mut to_client = backend.call().await.head();
        let _response = pending.await.unwrap();
        let sent = AtomicUsize::new(0);
        let sending = send(&mut to_client, vec![0; 1 << 20].into(), &sent);
        tokio::select! {
            _ = sending => panic!("all was taken"),
            _ = settle(|| sent.load(Ordering::Relaxed)) => {}
        }
        to.send_reset(Reason::CANCEL);
        let reset = std::future::poll_fn(|cx| to_client.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn calls_of_a_client_that_vanishes_are_cancelled_behind_and_their_connection_closed() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (_waiting, _to) = client.call();
        let waiting = backend.call().await;
        let _ended = client.ask("request");
        let ended = backend.call().await;
        let pending = client.ask("request");
        let mut responding = backend.call().await;
        let mut to_client = responding.head();
        let _response = pending.await.unwrap();

        client.vanish().await;
        assert_eq!(code(waiting).await, Reason::CANCEL);
        assert_eq!(code(ended).await, Reason::CANCEL);
        let reset = std::future::poll_fn(|cx| to_client.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
        while !backend.is_over(0) {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_call_whose_relaying_is_dropped_is_cancelled_on_both_sides() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut send, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let mut server = settings().handshake(theirs).await.unwrap();
        let (response, _to): (_, h2::SendStream<Bytes>) =
            send.send_request(request(), false).unwrap();
        let (accepted, respond) = server.accept().await.unwrap().unwrap();
        let (head, body) = accepted.into_parts();
        let accepting = tokio::spawn(async move { server.accept().await.is_none() });
        let relay = Relay::new(folder.socket().into(), queue());
        let call = {
            let relaying = relay.relay(head, Vec::new(), body, respond);
            tokio::select! {
                () = relaying => panic!("nobody answered"),
                call = backend.call() => call,
            }
        };
        assert_eq!(code(call).await, Reason::CANCEL);
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::CANCEL));
        accepting.abort();
    });
}

/// How far things are when it comes is up to the number of turns that all take before.
#[test]
fn a_cancel_may_come_at_any_moment() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        // The connection is not given up before it is there.
        let pending = client.ask("request");
        backend.call().await.answer("response");
        pending.await.unwrap();
        let message = Bytes::from(vec![7; 40_000]);
        for turns in 0..60 {
            let (pending, mut to) = client.call();
            to.send_data(message.clone(), turns % 2 == 0).unwrap();
            let echo = async {
                let mut call = backend.call().await;
                let data = match read(call.request.body_mut()).await {
                    Ok((data, _)) => data,
                    Err(error) => return error.reason(),
                };
                let mut to_client = call.head();
                let sent = AtomicUsize::new(0);
                send(&mut to_client, data.into(), &sent).await;
                let _ = to_client.send_trailers(ok());
                None
            };
            let cancel = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                to.send_reset(Reason::CANCEL);
                drop((pending, to));
                settle(|| 0).await;
            };
            // The server may never have heard of it.
            let echo = tokio::select! {
                biased;
                ended = async { tokio::join!(echo, cancel).0 } => ended,
                _ = settle_long() => None,
            };
            assert!(matches!(echo, None | Some(Reason::CANCEL)));
        }
        let pending = client.ask("still there");
        let mut call = backend.call().await;
        while read(call.request.body_mut())
            .await
            .is_ok_and(|(data, _)| data != b"still there")
        {
            call = backend.call().await;
        }
        call.answer("yes");
        let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!((&data[..], call.connection), (&b"yes"[..], 0));
    });
}

async fn settle_long() {
    for _ in 0..20 {
        settle(|| 0).await;
    }
}
