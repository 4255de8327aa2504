//! Calls that the server ends, early or by a reset.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;

use crate::stage::{both, ok, play, read, response, send, settle};

#[test]
fn a_reset_instead_of_a_response_reaches_the_client_with_its_code() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        for reason in [
            Reason::CANCEL,
            Reason::ENHANCE_YOUR_CALM,
            Reason::INTERNAL_ERROR,
        ] {
            let pending = client.ask("request");
            backend.call().await.respond.send_reset(reason);
            let error = pending.await.unwrap_err();
            assert_eq!((error.reason(), error.is_remote()), (Some(reason), true));
        }
    });
}

#[test]
fn a_reset_within_the_response_reaches_the_client_with_its_code() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut to = backend.call().await.head();
        to.send_data("part".into(), false).unwrap();
        let mut response = pending.await.unwrap();
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "part");
        to.send_reset(Reason::INTERNAL_ERROR);
        let error = read(response.body_mut()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    });
}

#[test]
fn a_response_that_is_complete_ends_a_request_that_is_not() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to) = client.call();
        to.send_data("more will come".into(), false).unwrap();
        let mut call = backend.call().await;
        let mut to_client = call.head();
        to_client.send_data("enough".into(), false).unwrap();
        to_client.send_trailers(ok()).unwrap();

        let (data, trailers) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!((&data[..], trailers), (&b"enough"[..], Some(ok())));
        for side in [&mut to, &mut to_client] {
            let reset = std::future::poll_fn(|cx| side.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), Reason::NO_ERROR);
        }
    });
}

#[test]
fn trailers_alone_end_a_request_that_waits_for_the_server_to_take_it() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to) = client.call();
        let sent = AtomicUsize::new(0);
        tokio::select! {
            _ = send(&mut to, vec![0; 1 << 20].into(), &sent) => panic!("all was taken"),
            _ = settle(|| sent.load(Ordering::Relaxed)) => {}
        }
        let mut call = backend.call().await;
        call.respond.send_response(response(), true).unwrap();
        assert!(pending.await.unwrap().body().is_end_stream());
        let reset = std::future::poll_fn(|cx| to.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::NO_ERROR);
    });
}

/// As servers of gRPC do.
#[test]
fn a_reset_after_a_complete_response_takes_nothing_of_it() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to) = client.call();
        to.send_data("more will come".into(), false).unwrap();
        let mut call = backend.call().await;
        call.answer(vec![1; 30_000]);
        // h2 resets by NO_ERROR what is dropped then.
        drop(call);
        let (data, trailers) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!((data.len(), trailers), (30_000, Some(ok())));
    });
}

#[test]
fn a_slow_reader_has_all_of_a_response_that_ended_his_request() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to) = client.call();
        to.send_data("more will come".into(), false).unwrap();
        let mut call = backend.call().await;
        let mut to_client = call.head();
        let message = Bytes::from(vec![3; 120_000]);
        let sent = AtomicUsize::new(0);
        // The windows have room for it, if just so.
        send(&mut to_client, message, &sent).await.unwrap();
        to_client.send_trailers(ok()).unwrap();
        drop((to_client, call));
        settle(|| 0).await;
        let (data, trailers) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!((data.len(), trailers), (120_000, Some(ok())));
    });
}
