//! Clients that are there no more, or do not say that they are.

use std::time::Duration;

use embercache_native::front::alive::{ANSWER, SILENCE};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{Door, OK, play};

/// The preface of HTTP/2 and empty settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A frame of a kind that nobody knows, which is to be ignored.
const NOISE: &[u8] = b"\0\0\0\xee\0\0\0\0\0";
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
