//! Thousands of calls at once on one connection.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::stage::{Backend, Client, Folder, both, play, read, settle};

const MANY: usize = 4_000;

#[test]
fn thousands_of_calls_are_all_with_the_server_before_the_first_is_answered() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let pending: Vec<_> = (0..MANY).map(|n| client.ask(format!("{n}"))).collect();
        let mut calls = Vec::new();
        for _ in 0..MANY {
            calls.push(backend.call().await);
        }
        assert_eq!(backend.connections(), 1);
        for mut call in calls {
            let (data, _) = read(call.request.body_mut()).await.unwrap();
            call.answer(data);
        }
        for (n, response) in pending.into_iter().enumerate() {
            let (data, _) = read(&mut response.await.unwrap().into_body())
                .await
                .unwrap();
            assert_eq!(data, format!("{n}").into_bytes());
        }
    });
}

/// As some clients of gRPC end their requests.
#[test]
fn thousands_of_calls_may_end_by_a_frame_of_its_own() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        let mut pending = Vec::new();
        for _ in 0..MANY {
            let (response, mut to) = client.call();
            to.send_data("small".into(), false).unwrap();
            to.send_data(Bytes::new(), true).unwrap();
            pending.push(response);
        }
        for _ in 0..MANY {
            let mut call = backend.call().await;
            assert_eq!(read(call.request.body_mut()).await.unwrap().0, b"small");
            call.answer("response");
        }
        for response in pending {
            read(&mut response.await.unwrap().into_body())
                .await
                .unwrap();
        }
    });
}

#[test]
fn calls_that_are_cancelled_as_soon_as_they_are_made_do_not_end_the_connection() {
    play(async {
        let (_folder, mut backend, mut client) = both().await;
        for _ in 0..200 {
            let (response, mut to) = client.call();
            to.send_data("small".into(), true).unwrap();
            to.send_reset(h2::Reason::CANCEL);
            drop((response, to));
        }
        settle(|| 0).await;
        let pending = client.ask("request");
        loop {
            let mut call = backend.call().await;
            if read(call.request.body_mut()).await.is_ok() {
                call.answer("response");
                break;
            }
        }
        pending.await.unwrap();
    });
}

#[test]
fn more_calls_than_the_server_takes_at_once_wait_for_their_turn() {
    play(async {
        let folder = Folder::new();
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(8);
        let mut backend = Backend::with(UnixListener::bind(folder.socket()).unwrap(), builder);
        let mut client = Client::new(&folder.socket()).await;
        // Before the server's settings are there, more may be sent than it takes.
        let first = client.ask("0");
        backend.call().await.answer("0");
        first.await.unwrap();
        let pending: Vec<_> = (0..100).map(|n| client.ask(format!("{n}"))).collect();
        let answering = async {
            for _ in 0..100 {
                let mut call = backend.call().await;
                let (data, _) = read(call.request.body_mut()).await.unwrap();
                call.answer(data);
            }
        };
        let reading = async {
            for (n, response) in pending.into_iter().enumerate() {
                let (data, _) = read(&mut response.await.unwrap().into_body())
                    .await
                    .unwrap();
                assert_eq!(data, format!("{n}").into_bytes());
            }
        };
        tokio::join!(answering, reading);
    });
}

#[test]
fn a_connection_outlives_thousands_of_calls_that_are_answered_as_they_are_cancelled() {
    play(async {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.socket()).unwrap();
        let mut client = Client::new(&folder.socket()).await;
        let mut pending: Vec<_> = (1..MANY).map(|_| client.ask("cancelled")).collect();
        pending.push(client.ask("all are here"));
        let (mut socket, _) = listener.accept().await.unwrap();
        read_until(&mut socket, b"all are here").await;
        drop(pending);
        settle(|| 0).await;
        // No settings, and then a response for each, which crosses the cancels on their way.
        let mut late = b"\0\0\0\x04\0\0\0\0\0".to_vec();
        (0..MANY).for_each(|call| late.extend(response(call)));
        socket.write_all(&late).await.unwrap();
        settle(|| 0).await;

        let next = client.ask("still there");
        read_until(&mut socket, b"still there").await;
        socket.write_all(&response(MANY)).await.unwrap();
        assert_eq!(next.await.unwrap().status(), 200);
    });
}

/// A frame of HEADERS that says 200, and ends the response.
fn response(call: usize) -> [u8; 10] {
    let stream = u32::try_from(2 * call + 1).unwrap();
    let mut frame = *b"\0\0\x01\x01\x05\0\0\0\0\x88";
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

async fn read_until(socket: &mut UnixStream, what: &[u8]) {
    let mut seen = Vec::new();
    while !seen.windows(what.len()).any(|window| window == what) {
        seen.drain(..seen.len().saturating_sub(what.len()));
        assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "it is closed");
    }
}
