//! The threads of the front door.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{self, Handle};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::accept::{Accepted, Kind, Listener, Stream, accept};
use super::connection::{HANDSHAKE, LAST_WORD, Phase, serve_connection};
use super::places::Places;
use super::shared::Shared;
use crate::callers::Peer;

/// A thread that serves the connections that it was given.
struct Worker {
    runtime: Handle,
    places: Arc<Places>,
}

/// Threads that take connections and serve them. Without it, they end.
pub struct Server {
    shared: Arc<Shared>,
    workers: Arc<[Worker]>,
    places: Arc<Places>,
    phase: watch::Sender<Phase>,
}

impl Server {
    /// Starts the threads. At most so many connections are taken.
    pub fn start(shared: Arc<Shared>, most_connections: usize) -> io::Result<Self> {
        let (phase, closed) = watch::channel(Phase::Open);
        let workers: io::Result<_> = (0..threads())
            .map(|number| Worker::start(number, closed.clone()))
            .collect();
        Ok(Self {
            shared,
            workers: workers?,
            places: Arc::new(Places::new(most_connections)),
            phase,
        })
    }

    /// Takes connections from a socket that listens. Fails once the server drains.
    pub fn listen(&self, socket: Socket, kind: Kind) -> io::Result<()> {
        if *self.phase.borrow() != Phase::Open {
            return Err(io::Error::other("the front drains: it listens no more"));
        }
        let runtime = &self.workers[0].runtime;
        let entered = runtime.enter();
        let listener = Listener::new(socket, kind)?;
        drop(entered);
        let (shared, workers) = (self.shared.clone(), self.workers.clone());
        let phase = self.phase.subscribe();
        let serve = {
            let phase = phase.clone();
            move |accepted| hand_on(&workers, serve(accepted, shared.clone(), phase.clone()))
        };
        runtime.spawn(accept(listener, self.places.clone(), phase, serve));
        Ok(())
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.places.connections()
    }

    /// See `Front.drain` in `embercache_native.pyi`.
    pub fn drain(&self, within: Duration) -> bool {
        // Who drains a second time does not open it again.
        self.phase.send_if_modified(|phase| {
            let is_open = *phase == Phase::Open;
            if is_open {
                *phase = Phase::Draining;
            }
            is_open
        });
        let now = Instant::now();
        let have_ended = self.places.wait(now.checked_add(within).unwrap_or(now));
        self.phase.send_replace(Phase::Closed);
        if !have_ended {
            self.places.wait(Instant::now() + 2 * LAST_WORD);
        }
        have_ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Closed);
    }
}

impl Worker {
    fn start(number: usize, mut phase: watch::Receiver<Phase>) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        // Nobody waits for the thread, not even when the process ends.
        thread::Builder::new()
            .name(format!("front-{number}"))
            .spawn(move || {
                runtime.block_on(async {
                    let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
                    sleep(2 * LAST_WORD).await;
                });
            })?;
        Ok(Self {
            runtime: handle,
            places: Arc::new(Places::new(usize::MAX)),
        })
    }
}

/// How many there are. Half of the cores: the interpreter and the models need the others.
pub fn threads() -> usize {
    (thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1)
}

/// Lets the thread serve it that has the fewest connections.
fn hand_on(workers: &[Worker], serving: impl Future<Output = ()> + Send + 'static) {
    let fewest = workers.iter().min_by_key(|w| w.places.connections());
    if let Some(worker) = fewest {
        let place = worker.places.connection();
        worker.runtime.spawn(async move {
            serving.await;
            drop(place);
        });
    }
}

async fn serve(accepted: Accepted, shared: Arc<Shared>, phase: watch::Receiver<Phase>) {
    let Accepted { stream, place } = accepted;
    match stream {
        Stream::Unix(stream) => {
            if let Ok(stream) = UnixStream::from_std(stream) {
                serve_connection(stream, Peer::unix(), shared, phase).await;
            }
        }
        Stream::Tcp(stream, false) => {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve_connection(stream, Peer::tcp(), shared, phase).await;
            }
        }
        Stream::Tcp(stream, true) => {
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            match timeout(HANDSHAKE, shared.tls.accept(stream)).await {
                Ok(Ok((stream, names))) => {
                    serve_connection(stream, Peer::tls(names), shared, phase).await;
                }
                _ => {
                    shared.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    drop(place);
}
