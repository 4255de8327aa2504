//! Clients that do not read what they asked for.

use std::sync::Arc;
use std::time::Duration;

use embercache_native::callers::Peer;
use embercache_native::front::connection::{PATIENCE, serve_connection};
use embercache_native::unwritten::Unwritten;
use h2::Reason;
use h2::client::ResponseFuture;
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::stage::{Client, Door, OK, answer, framed, play, request, settle};

const MOST: usize = 1 << 20;
const ANSWER: usize = 64 * 1024;

/// A client on a socket of the system.
async fn client(door: &Door) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let phase = door.phase.subscribe();
    let serving = serve_connection(theirs, Peer::unix(), door.shared.clone(), phase);
    tokio::spawn(serving);
    Client::on(ours).await
}

/// Clients that have each asked for 4 MiB, and read nothing.
async fn slow(door: &Door, clients: usize) -> (Vec<Client>, Vec<ResponseFuture>) {
    let (mut slow, mut unread) = (Vec::new(), Vec::new());
    for _ in 0..clients {
        let mut client = client(door).await;
        for _ in 0..64 {
            let (response, mut to) = client.begin(request()).await;
            to.send_data(framed(b"known"), true).unwrap();
            unread.push(response);
        }
        settle().await;
        slow.push(client);
    }
    (slow, unread)
}

fn door() -> Door {
    let door = Door::with(|shared| shared.unwritten = Arc::new(Unwritten::new(MOST)));
    door.keep(b"known", None, vec![7; ANSWER], &[]);
    door
}

#[test]
fn what_has_waited_for_them_is_answered_when_they_read() {
    play(async {
        let door = door();
        let (_slow, unread) = slow(&door, 2).await;
        let held = door.shared.unwritten.bytes();
        assert!((MOST..2 * MOST).contains(&held), "{held}");
        let reading = unread.into_iter().map(|one| tokio::spawn(answer(one)));
        for one in reading.collect::<Vec<_>>() {
            assert_eq!(one.await.unwrap().unwrap().0, OK);
        }
        settle().await;
        assert_eq!(door.shared.unwritten.bytes(), 0);
    });
}

#[test]
fn many_hold_a_bounded_amount_together_and_others_are_answered() {
    play(async {
        let door = door();
        let (slow, _unread) = slow(&door, 50).await;
        let held = door.shared.unwritten.bytes();
        assert!((MOST..=2 * MOST).contains(&held), "{held}");
        let mut good = client(&door).await;
        for _ in 0..20 {
            let (status, data) = good.ask(b"known").await;
            assert_eq!((status.as_str(), data.len()), (OK, 5 + ANSWER));
        }
        let mut closed = 0;
        for client in slow {
            if client.connection.is_finished() {
                let error = client.connection.await.unwrap().unwrap_err();
                assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
                closed += 1;
            }
        }
        assert!((1..25).contains(&closed), "{closed} of them were closed");
    });
}

#[test]
fn who_reads_nothing_for_too_long_is_closed_while_there_is_too_much() {
    play(async {
        let door = door();
        let (slow, _unread) = slow(&door, 1).await;
        assert!(door.shared.unwritten.bytes() > MOST);
        sleep(PATIENCE - Duration::from_secs(1)).await;
        assert!(!slow[0].connection.is_finished(), "it is given time");
        sleep(Duration::from_secs(2)).await;
        settle().await;
        assert!(slow[0].connection.is_finished());
        assert_eq!(door.shared.unwritten.bytes(), 0);
    });
}
