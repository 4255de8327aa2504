//! Thousands of calls at once on one connection.

use tokio::net::UnixListener;

use crate::stage::{Backend, Client, Folder, play, read, settle};

const MANY: usize = 4_000;

#[test]
fn thousands_of_calls_are_all_with_the_server_before_the_first_is_answered() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let mut client = Client::new(&folder.socket()).await;
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
fn a_connection_outlives_thousands_of_calls_cancelled_as_they_are_answered() {
    play(async {
        let folder = Folder::new();
        let mut backend = Backend::new(&folder.socket());
        let mut client = Client::new(&folder.socket()).await;
        let pending: Vec<_> = (0..MANY).map(|n| client.ask(format!("{n}"))).collect();
        let mut calls = Vec::new();
        for _ in 0..MANY {
            calls.push(backend.call().await);
        }
        // Both cross on their way.
        drop(pending);
        for call in &mut calls {
            call.answer("too late");
        }
        drop(calls);
        settle(|| 0).await;
        let pending = client.ask("request");
        backend.call().await.answer("still there");
        let (data, _) = read(&mut pending.await.unwrap().into_body()).await.unwrap();
        assert_eq!(data, b"still there");
        assert_eq!(backend.connections(), 1);
    });
}
