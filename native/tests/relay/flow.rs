//! What is held up when one side is slower than the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use embercache_native::unwritten::Unwritten;
use h2::Reason;
use h2::client::ResponseFuture;

use crate::stage::{Backend, Client, Folder, both, ok, play, read, send, settle};

const MEBIBYTE: usize = 1 << 20;

#[test]
fn a_client_that_does_not_read_holds_up_no_more_than_the_windows() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut to = backend.call().await.head();
        let mut response = pending.await.unwrap();
        let sent = AtomicUsize::new(0);
        let sending = async {
            send(&mut to, vec![0; 8 * MEBIBYTE].into(), &sent)
                .await
                .unwrap();
            to.send_trailers(ok()).unwrap();
        };
        tokio::pin!(sending);
        let held = tokio::select! {
            () = &mut sending => panic!("all was taken"),
            held = settle(|| sent.load(Ordering::Relaxed)) => held,
        };
        assert!((100 * 1024..200 * 1024).contains(&held), "{held}");
        let ((), read) = tokio::join!(sending, read(response.body_mut()));
        assert_eq!(read.unwrap().0.len(), 8 * MEBIBYTE);
    });
}

#[test]
fn a_server_that_does_not_read_holds_up_no_more_than_the_windows() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let (_response, mut to) = client.call();
        let sent = AtomicUsize::new(0);
        let sending = async {
            send(&mut to, vec![0; 8 * MEBIBYTE].into(), &sent)
                .await
                .unwrap();
            to.send_data(Bytes::new(), true).unwrap();
        };
        tokio::pin!(sending);
        let held = tokio::select! {
            () = &mut sending => panic!("all was taken"),
            held = settle(|| sent.load(Ordering::Relaxed)) => held,
        };
        assert!((128 * 1024..300 * 1024).contains(&held), "{held}");
        let mut call = backend.call().await;
        let ((), read) = tokio::join!(sending, read(call.request.body_mut()));
        assert_eq!(read.unwrap().0.len(), 8 * MEBIBYTE);
    });
}

#[test]
fn responses_that_nobody_reads_do_not_hold_up_others_of_their_client() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let sent = std::sync::Arc::new(AtomicUsize::new(0));
        let mut unread = Vec::new();
        for _ in 0..64 {
            let pending = client.ask("request");
            let mut to = backend.call().await.head();
            let sent = sent.clone();
            tokio::spawn(async move { send(&mut to, vec![0; MEBIBYTE].into(), &sent).await });
            unread.push(pending.await.unwrap());
        }
        settle(|| sent.load(Ordering::Relaxed)).await;
        let pending = client.ask("request");
        let mut to = backend.call().await.head();
        let count = AtomicUsize::new(0);
        let mut response = pending.await.unwrap();
        let sending = async {
            send(&mut to, vec![0; MEBIBYTE].into(), &count)
                .await
                .unwrap();
            to.send_trailers(ok()).unwrap();
        };
        let ((), read) = tokio::join!(sending, read(response.body_mut()));
        assert_eq!(read.unwrap().0.len(), MEBIBYTE);
    });
}

#[test]
fn clients_that_do_not_read_hold_a_bounded_amount_together_and_others_are_answered() {
    play(async {
        const MOST: usize = MEBIBYTE;
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let all = Arc::new(Unwritten::new(MOST));
        let sent = Arc::new(AtomicUsize::new(0));
        let (mut slow, mut unread) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            let mut client = Client::bounded(&folder.socket(), &all).await;
            for _ in 0..16 {
                unread.push(tokio::spawn(unread_end(client.ask("request"))));
                let mut to = backend.call().await.head();
                let sent = sent.clone();
                tokio::spawn(async move { send(&mut to, vec![0; MEBIBYTE].into(), &sent).await });
            }
            slow.push(client);
        }
        settle(|| sent.load(Ordering::Relaxed)).await;
        let held = all.bytes();
        assert!((MOST..4 * MOST).contains(&held), "{held}, of 8 MiB");
        let mut client = Client::bounded(&folder.socket(), &all).await;
        for _ in 0..20 {
            let pending = client.ask("request");
            backend.call().await.answer(vec![7; 32 * 1024]);
            let (data, trailers) = read(pending.await.unwrap().body_mut()).await.unwrap();
            assert_eq!((data.len(), trailers), (32 * 1024, Some(ok())));
        }
        let ended: Vec<_> = unread.into_iter().filter(|one| one.is_finished()).collect();
        assert!(!ended.is_empty(), "none of them was ended");
        for one in ended {
            assert_eq!(one.await.unwrap(), Some(Reason::ENHANCE_YOUR_CALM));
        }
    });
}

/// By which code a response ends that the client has no window for.
async fn unread_end(response: ResponseFuture) -> Option<Reason> {
    let mut body = match response.await {
        Ok(response) => response.into_body(),
        Err(error) => return error.reason(),
    };
    while let Some(data) = body.data().await {
        if let Err(error) = data {
            return error.reason();
        }
    }
    None
}

#[test]
fn many_small_messages_that_nobody_reads_do_not_end_the_connection() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending = client.ask("request");
        let mut to = backend.call().await.head();
        let mut response = pending.await.unwrap();
        let sent = AtomicUsize::new(0);
        let sending = async {
            for _ in 0..100_000 {
                send(&mut to, Bytes::from_static(b"tiny"), &sent)
                    .await
                    .unwrap();
            }
            to.send_trailers(ok()).unwrap();
        };
        tokio::pin!(sending);
        tokio::select! {
            () = &mut sending => panic!("all was taken"),
            _ = settle(|| sent.load(Ordering::Relaxed)) => {}
        }
        let ((), read) = tokio::join!(sending, read(response.body_mut()));
        let (data, trailers) = read.unwrap();
        assert_eq!((data.len(), trailers), (400_000, Some(ok())));
    });
}

/// 64 MiB each way at once, of which little is on its way at any moment.
#[test]
fn large_messages_pass_both_ways_at_once() {
    play(async {
        const ALL: usize = 64 * MEBIBYTE;
        let (_folder, mut backend, mut client) = both().await;
        let (pending, mut to_server) = client.call();
        let mut call = backend.call().await;
        let mut to_client = call.head();
        let mut response = pending.await.unwrap();
        // No frame is like another.
        let message: Bytes = (0..ALL / 4)
            .flat_map(|number| (number as u32).to_le_bytes())
            .collect::<Vec<_>>()
            .into();
        let (up, down) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let client_sends = async {
            send(&mut to_server, message.clone(), &up).await.unwrap();
            to_server.send_data(Bytes::new(), true).unwrap();
        };
        let server_sends = async {
            send(&mut to_client, message.clone(), &down).await.unwrap();
            to_client.send_trailers(ok()).unwrap();
        };
        let most_up = check(call.request.body_mut(), &message, &up);
        let most_down = check(response.body_mut(), &message, &down);
        let ((), (), most_up, most_down) =
            tokio::join!(client_sends, server_sends, most_up, most_down);
        assert!(
            most_up < MEBIBYTE && most_down < MEBIBYTE,
            "{most_up} {most_down}"
        );
    });
}

/// Compares a body with what was to come, and says how much was on its way at most.
async fn check(body: &mut h2::RecvStream, message: &[u8], sent: &AtomicUsize) -> usize {
    let (mut at, mut most) = (0, 0);
    while let Some(bytes) = body.data().await {
        let bytes = bytes.unwrap();
        assert!(bytes == message[at..at + bytes.len()]);
        at += bytes.len();
        most = most.max(sent.load(Ordering::Relaxed) - at);
        body.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(at, message.len());
    most
}
