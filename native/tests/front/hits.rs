//! Calls whose answer is in memory.

use std::time::{SystemTime, UNIX_EPOCH};

use embercache_native::answers::Age;
use embercache_native::callers::Callers;
use embercache_native::front::unary::LOOKUP_BYTES;
use embercache_native::hot::monotonic;

use crate::stage::{Door, OK, UNAVAILABLE, answer, framed, play, request, settle};

#[test]
fn what_is_in_memory_is_answered_and_counted_and_the_rest_is_handed_over() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let mut client = door.client().await;
        let known = client.ask(b"known").await;
        assert_eq!(known, (OK.into(), framed(b"answer").to_vec()));
        assert_eq!(client.ask(b"unknown").await.0, UNAVAILABLE);
        assert_eq!(door.answered(), 1);
    });
}

#[test]
fn answers_are_given_as_long_as_python_is_heard_of_and_then_all_calls_are_handed_over() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let mut client = door.client().await;
        for (seconds, status) in [(60.0, OK), (-0.001, UNAVAILABLE), (60.0, OK)] {
            door.shared.trust.set(monotonic() + seconds);
            assert_eq!(client.ask(b"known").await.0, status, "{seconds}");
        }
    });
}

#[test]
fn a_hit_tells_how_old_its_parts_are_now() {
    play(async {
        let door = Door::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = Age {
            offset: 2,
            created_ms: now.as_millis() as u64 - 5_000,
        };
        door.keep(b"known", None, &b"..        .."[..], &[age]);
        let (_, data) = door.client().await.ask(b"known").await;
        let told = u64::from_le_bytes(*data[5 + 2..].first_chunk().unwrap());
        assert!((5_000..65_000).contains(&told), "{told} ms");
        assert_eq!((&data[5..7], &data[15..]), (&b".."[..], &b".."[..]));
    });
}

#[test]
fn a_message_that_comes_in_pieces_is_answered_and_holds_up_nobody() {
    play(async {
        let door = Door::new();
        door.keep(b"slow", None, "in the end", &[]);
        door.keep(b"fast", None, "meanwhile", &[]);
        let mut client = door.client().await;
        let (response, mut to) = client.begin(request()).await;
        for byte in framed(b"slow") {
            to.send_data(vec![byte].into(), false).unwrap();
            settle().await;
            assert_eq!(client.ask(b"fast").await.1, framed(b"meanwhile"));
        }
        to.send_data("".into(), true).unwrap();
        assert_eq!(answer(response).await.unwrap().1, framed(b"in the end"));
    });
}

#[test]
fn thousands_of_hits_at_once_are_all_answered() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, vec![7; 3_000], &[]);
        let mut client = door.client().await;
        // The settings of the server have to be there, else fewer are sent at once.
        client.ask(b"known").await;
        let mut responses = Vec::new();
        for _ in 0..4_000 {
            let (response, mut to) = client.begin(request()).await;
            to.send_data(framed(b"known"), false).unwrap();
            to.send_data("".into(), true).unwrap();
            responses.push(response);
        }
        // What one answer takes of the connection's window, others wait for.
        let reading = responses
            .into_iter()
            .map(|response| tokio::spawn(answer(response)));
        for response in reading.collect::<Vec<_>>() {
            assert_eq!(response.await.unwrap().unwrap().0, OK);
        }
        assert_eq!(door.answered(), 4_001);
    });
}

#[test]
fn calls_that_are_given_up_at_once_harm_no_others() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let mut client = door.client().await;
        for _ in 0..500 {
            let (response, mut to) = client.begin(request()).await;
            to.send_data(framed(b"known"), false).unwrap();
            drop((response, to));
        }
        assert_eq!(client.ask(b"known").await.0, OK);
    });
}

#[test]
fn the_longest_message_that_is_looked_up_has_64_kib() {
    play(async {
        let door = Door::new();
        let mut client = door.client().await;
        for (length, status) in [(LOOKUP_BYTES, OK), (LOOKUP_BYTES + 1, UNAVAILABLE)] {
            let message = vec![b'm'; length];
            door.keep(&message, None, "answer", &[]);
            assert_eq!(client.ask(&message).await.0, status, "{length} bytes");
        }
    });
}

#[test]
fn only_those_who_are_known_get_answers_and_each_his_own() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "of anyone", &[]);
        door.keep(b"known", Some([1; 16]), "of the socket", &[]);
        let mut client = door.client().await;
        assert_eq!(client.ask(b"known").await.1, framed(b"of anyone"));
        let callers = |on_socket| Callers::new([].into(), [].into(), on_socket);
        door.shared.set_callers(callers(Some([1; 16])));
        assert_eq!(client.ask(b"known").await.1, framed(b"of the socket"));
        door.shared.set_callers(callers(Some([2; 16])));
        assert_eq!(client.ask(b"known").await.0, UNAVAILABLE);
        door.shared.set_callers(callers(None));
        assert_eq!(client.ask(b"known").await.0, UNAVAILABLE);
    });
}

#[test]
fn with_traces_only_calls_are_answered_that_say_they_are_in_none() {
    play(async {
        let door = Door::with(|shared| shared.traced = true);
        door.keep(b"known", None, "answer", &[]);
        let mut client = door.client().await;
        assert_eq!(client.ask(b"known").await.0, UNAVAILABLE, "says nothing");
        let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        for (value, status) in [
            (format!("00-{ids}-00"), OK),
            (format!("00-{ids}-fe"), OK),
            (format!("00-{ids}-01"), UNAVAILABLE),
            (format!("00-{ids}-ff"), UNAVAILABLE),
            (format!("01-{ids}-00"), UNAVAILABLE),
            (format!("00-{ids}-0"), UNAVAILABLE),
            (format!("00-{ids}-0g"), UNAVAILABLE),
            (format!("00-{ids}-00-00"), UNAVAILABLE),
            (format!("00{ids}00"), UNAVAILABLE),
        ] {
            let request = request().header("traceparent", &value);
            let (told, _) = client.ask_so(request, framed(b"known")).await;
            assert_eq!(told, status, "{value}");
        }
    });
}

#[test]
fn a_caller_withdrawn_while_his_message_comes_gets_no_answer() {
    play(async {
        let door = Door::new();
        door.keep(b"mine", Some([1; 16]), "the first", &[]);
        let callers = |on_socket| Callers::new([].into(), [].into(), on_socket);
        let mut client = door.client().await;
        for (withdrawn, status) in [(false, OK), (true, UNAVAILABLE)] {
            door.shared.set_callers(callers(Some([1; 16])));
            let (response, mut to) = client.begin(request()).await;
            to.send_data(framed(b"mine").slice(..6), false).unwrap();
            settle().await;
            if withdrawn {
                door.shared.set_callers(callers(None));
            }
            to.send_data(framed(b"mine").slice(6..), true).unwrap();
            assert_eq!(answer(response).await.unwrap().0, status);
        }
    });
}

#[test]
fn a_message_that_comes_too_slowly_is_handed_over() {
    play(async {
        let door = Door::new();
        door.keep(b"mine", None, "the first", &[]);
        let mut client = door.client().await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"mine").slice(..6), false).unwrap();
        // Nobody is behind, who would wait for the rest.
        assert_eq!(answer(response).await.unwrap().0, UNAVAILABLE);
    });
}
