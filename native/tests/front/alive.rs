//! Clients that are there no more, or do not say that they are.

use std::time::Duration;

use embercache_native::front::alive::{ANSWER, SILENCE};
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{Client, Door, OK, answer, framed, play, request};

/// The preface of HTTP/2 and empty settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A frame of a kind that nobody knows, which is to be ignored.
const NOISE: &[u8] = b"\0\0\0\xee\0\0\0\0\0";
/// Kinds of frames.
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const AGE: Duration = Duration::from_secs(600);

#[test]
fn who_has_vanished_loses_its_place() {
    play(async {
        let door = Door::new();
        let (mut socket, serving) = door.socket();
        let since = Instant::now();
        socket.write_all(BEGIN).await.unwrap();
        serving.await.unwrap();
        let took = since.elapsed();
        assert!(
            (SILENCE..=2 * SILENCE + 2 * ANSWER).contains(&took),
            "{took:?}"
        );
    });
}

#[test]
fn who_talks_or_answers_keeps_its_place() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let (mut socket, mut serving) = door.socket();
        let mut client = door.client().await;
        socket.write_all(BEGIN).await.unwrap();
        for _ in 0..100 {
            let step = timeout(SILENCE / 4, &mut serving).await;
            assert!(step.is_err(), "it has ended");
            socket.write_all(NOISE).await.unwrap();
        }
        assert_eq!(client.ask(b"known").await.0, OK);
    });
}

#[test]
fn who_does_not_answer_at_a_great_age_is_closed_whatever_else_it_says() {
    play(async {
        let door = Door::with(|shared| shared.max_connection_age = Some(AGE));
        let (mut socket, serving) = door.socket();
        let since = Instant::now();
        socket.write_all(BEGIN).await.unwrap();
        let talking = tokio::spawn(async move {
            while socket.write_all(NOISE).await.is_ok() {
                sleep(SILENCE / 4).await;
            }
        });
        serving.await.unwrap();
        let took = since.elapsed();
        assert!(
            (AGE.mul_f64(0.9)..=AGE.mul_f64(1.1) + 2 * ANSWER).contains(&took),
            "{took:?}"
        );
        talking.await.unwrap();
    });
}

#[test]
fn who_does_not_hear_of_the_end_at_a_great_age_has_its_last_calls_answered_and_no_more() {
    play(async {
        let door = Door::with(|shared| shared.max_connection_age = Some(AGE));
        door.keep(b"known", None, "answer", &[]);
        let (socket, serving) = door.socket();
        let (socket, mut retired) = deaf(socket);
        let mut client = Client::on(socket).await;
        // It is asked once, and talks from then on.
        sleep(2 * SILENCE).await;
        while timeout(SILENCE / 4, retired.recv()).await.is_err() {
            assert_eq!(client.ask(b"known").await.0, OK);
        }
        sleep(ANSWER - Duration::from_secs(1)).await;
        assert_eq!(client.ask(b"known").await.0, OK);
        let (last, mut to) = client.begin(request()).await;
        to.send_data(framed(b"known").slice(..6), false).unwrap();
        sleep(Duration::from_secs(3)).await;
        let (refused, _to) = client.begin(request()).await;
        let error = answer(refused).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
        to.send_data(framed(b"known").slice(6..), true).unwrap();
        assert_eq!(answer(last).await.unwrap().0, OK);
        serving.await.unwrap();
    });
}

/// The socket of a client that hears of no GOAWAY, and of one PING only: the first, and not before
/// there was a GOAWAY, of which it is told here.
fn deaf(socket: DuplexStream) -> (DuplexStream, UnboundedReceiver<()>) {
    let (ours, theirs) = duplex(8 << 20);
    let (mut from, mut to_door) = split(socket);
    let (mut from_client, mut to_client) = split(theirs);
    let (retired, seen) = unbounded_channel();
    tokio::spawn(async move { copy(&mut from_client, &mut to_door).await });
    tokio::spawn(async move {
        let mut ping = None;
        let mut head = [0; 9];
        while from.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            from.read_exact(&mut payload).await.unwrap();
            let frame = [&head[..], &payload].concat();
            let heard = match head[3] {
                PING => {
                    ping.get_or_insert(frame);
                    continue;
                }
                GOAWAY => {
                    let _ = retired.send(());
                    ping.clone().unwrap()
                }
                _ => frame,
            };
            to_client.write_all(&heard).await.unwrap();
        }
    });
    (ours, seen)
}
