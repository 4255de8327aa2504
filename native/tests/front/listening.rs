//! Threads and listeners: what a process has of the front door.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use embercache_native::front::accept::Kind;
use embercache_native::front::server::Server;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::stage::{Client, Door, OK, framed, request};

const WHILE: Duration = Duration::from_secs(60);

struct Listening {
    server: Arc<Server>,
    path: PathBuf,
}

impl Listening {
    fn new(door: &Door, name: &str, most_connections: usize) -> Self {
        let name = format!("embercache-front-{}-{name}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let server = Arc::new(Server::start(door.shared.clone(), most_connections).unwrap());
        let listener = UnixListener::bind(&path).unwrap();
        server.listen(listener.into(), Kind::Unix).unwrap();
        Self { server, path }
    }

    async fn drain(&self, within: Duration) -> bool {
        let server = self.server.clone();
        let draining = tokio::task::spawn_blocking(move || server.drain(within));
        draining.await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::on(UnixStream::connect(&self.path).await.unwrap()).await
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn play(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(WHILE, test).await })
        .expect("it hangs");
}

#[test]
fn what_listens_answers_until_it_is_drained() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let listening = Listening::new(&door, "answers", 10);
        let mut client = listening.client().await;
        assert_eq!(client.ask(b"known").await.0, OK);
        assert_eq!(listening.server.connections(), 1);
        assert!(listening.drain(WHILE).await);
        assert_eq!(listening.server.connections(), 0);
        assert!(UnixStream::connect(&listening.path).await.is_err());
        let again = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening.server.listen(again.into(), Kind::Tcp).is_err());
        assert!(listening.drain(WHILE).await);
    });
}

#[test]
fn a_connection_too_many_is_closed_at_once_and_another_one_taken_when_one_has_ended() {
    play(async {
        let door = Door::new();
        door.keep(b"known", None, "answer", &[]);
        let listening = Listening::new(&door, "many", 1);
        let mut client = listening.client().await;
        client.ask(b"known").await;
        let mut other = UnixStream::connect(&listening.path).await.unwrap();
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
        drop(client.send);
        client.connection.abort();
        let _ = client.connection.await;
        while listening.server.connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(listening.client().await.ask(b"known").await.0, OK);
    });
}

#[test]
fn a_drain_that_takes_too_long_says_so_and_closes_what_is_left() {
    play(async {
        let door = Door::new();
        let listening = Listening::new(&door, "late", 10);
        let mut client = listening.client().await;
        let (response, mut to) = client.begin(request()).await;
        to.send_data(framed(b"slow").slice(..6), false).unwrap();
        while listening.server.connections() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!listening.drain(Duration::ZERO).await);
        assert_eq!(listening.server.connections(), 0);
        assert!(crate::stage::answer(response).await.is_err());
    });
}

#[test]
fn what_does_not_listen_or_is_of_another_kind_is_refused() {
    let server = Server::start(Door::new().shared, 10).unwrap();
    let listens = || TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    assert!(server.listen(listens().into(), Kind::Unix).is_err());
    assert!(server.listen(socket, Kind::Tcp).is_err());
    assert!(server.listen(listens().into(), Kind::Tls).is_ok());
}
