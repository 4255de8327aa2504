//! How connections end.

use std::time::Duration;

use embercache_native::front::connection::{HANDSHAKE, LAST_WORD, Phase};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::stage::{Client, Door, OK, answer, framed, play, request, settle};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn who_does_not_begin_is_waited_for_10_seconds() {
    play(async {
        let door = Door::new();
        for said in [&b""[..], &PREFACE[..5], PREFACE] {
            let (mut socket, serving) = door.socket();
            let since = Instant::now();
            socket.write_all(said).await.unwrap();
            serving.await.unwrap();
            assert_eq!(since.elapsed().as_secs(), HANDSHAKE.as_secs(), "{said:?}");
        }
    });
}

#[test]
fn who_speaks_something_else_is_not_waited_for() {
    play(async {
        let door = Door::new();
        let (mut socket, serving) = door.socket();
        let since = Instant::now();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        serving.await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn who_has_begun_may_be_silent_for_hours() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let mut client = door.client().await;
        sleep(10 * HOUR).await;
        assert_eq!(client.ask(b"known").await.0, OK);
    });
}

#[test]
fn a_connection_of_great_age_ends_and_the_call_in_progress_does_not_fail() {
    // Short, as a message is waited for here for five seconds only.
    const AGE: Duration = Duration::from_secs(2);
    play(async {
        let door = Door::with(|shared| shared.max_connection_age = Some(AGE));
        door.keep(b"slow", None, "in the end", &[]);
        let (socket, serving) = door.socket();
        let mut client = Client::on(socket).await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"slow").slice(..6), false).unwrap();
        sleep(AGE.mul_f64(0.89)).await;
        assert_eq!(client.ask(b"other").await.0, "14");
        sleep(AGE.mul_f64(0.22)).await;
        assert!(client.send.clone().ready().await.is_err(), "no new calls");
        sleep(AGE).await;
        to.send_data(framed(b"slow").slice(6..), true).unwrap();
        assert_eq!(answer(response).await.unwrap().0, OK);
        serving.await.unwrap();
    });
}

#[test]
fn ages_differ_so_that_not_all_clients_come_back_at_once() {
    play(async {
        let door = Door::with(|shared| shared.max_connection_age = Some(HOUR));
        let since = Instant::now();
        let mut ages = Vec::new();
        for _ in 0..20 {
            let (socket, serving) = door.socket();
            let client = Client::on(socket).await;
            ages.push(tokio::spawn(async move {
                serving.await.unwrap();
                drop(client);
                since.elapsed().as_secs()
            }));
        }
        let mut ended = std::collections::BTreeSet::new();
        for age in ages {
            ended.insert(age.await.unwrap());
        }
        assert!(ended.len() > 5, "{ended:?}");
        let tenth = HOUR.as_secs() / 10;
        assert!(*ended.first().unwrap() >= HOUR.as_secs() - tenth - 1);
        assert!(*ended.last().unwrap() <= HOUR.as_secs() + tenth + 1);
    });
}

#[test]
fn while_the_front_drains_calls_in_progress_end_well_and_new_ones_are_not_taken() {
    play(async {
        let door = Door::new();
        door.keep(b"slow", None, "in the end", &[]);
        let (socket, serving) = door.socket();
        let mut client = Client::on(socket).await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"slow").slice(..6), false).unwrap();
        settle().await;
        door.phase.send_replace(Phase::Draining);
        settle().await;
        assert!(client.send.clone().ready().await.is_err(), "no new calls");
        to.send_data(framed(b"slow").slice(6..), true).unwrap();
        assert_eq!(answer(response).await.unwrap().0, OK);
        serving.await.unwrap();
    });
}

#[test]
fn in_the_end_what_is_left_is_closed() {
    play(async {
        let door = Door::new();
        let (socket, serving) = door.socket();
        let mut client = Client::on(socket).await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"slow").slice(..6), false).unwrap();
        settle().await;
        let since = Instant::now();
        for phase in [Phase::Draining, Phase::Closed] {
            door.phase.send_replace(phase);
            settle().await;
        }
        assert!(answer(response).await.is_err());
        serving.await.unwrap();
        assert!(since.elapsed() < LAST_WORD, "it had only to be told");
    });
}

#[test]
fn who_does_not_read_does_not_hold_up_the_end() {
    play(async {
        let door = Door::new();
        door.keep(b"large", None, vec![0; 1 << 20], &[]);
        let (mut socket, serving) = door.socket();
        // Settings with a window that the answers do not fill; nothing is read from now on.
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff";
        let window = b"\0\0\x04\x08\0\0\0\0\0\x7f\0\0\0";
        socket
            .write_all(&[PREFACE, settings, window].concat())
            .await
            .unwrap();
        // A call as HPACK without any compression: see RFC 7541, 6.2.2.
        let mut head = vec![];
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", crate::stage::PATH),
            (":authority", "test"),
            ("content-type", "application/grpc"),
        ] {
            head.extend([0, name.len() as u8]);
            head.extend(name.bytes());
            head.push(value.len() as u8);
            head.extend(value.bytes());
        }
        for stream in [1_u8, 3, 5] {
            let body = framed(b"large");
            for (kind, flags, payload) in [(1, 4, &head[..]), (0, 1, &body[..])] {
                let length = payload.len() as u8;
                let frame = [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat();
                socket.write_all(&frame).await.unwrap();
            }
        }
        settle().await;
        assert_eq!(door.answered(), 3);
        for phase in [Phase::Draining, Phase::Closed] {
            door.phase.send_replace(phase);
            settle().await;
        }
        serving.await.unwrap();
    });
}
