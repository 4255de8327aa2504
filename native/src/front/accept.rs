//! Takes connections from listening sockets.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::sleep;

use super::connection::Phase;
use super::places::{Place, Places};

/// How long to wait when the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// How callers reach a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Over TCP as it is.
    Tcp,
    /// Over TLS.
    Tls,
    /// Over a Unix socket.
    Unix,
}

/// A listening socket.
pub enum Listener {
    /// Of connections over TCP, and whether TLS is spoken on them.
    Tcp(TcpListener, bool),
    /// Of connections over a Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Of the runtime that is entered. Fails if the socket is not one that listens, of that kind.
    pub fn new(socket: Socket, kind: Kind) -> io::Result<Self> {
        let is_unix = socket.local_addr()?.is_unix();
        if !socket.is_listener()? || is_unix != (kind == Kind::Unix) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it does not listen, or is of another kind",
            ));
        }
        socket.set_nonblocking(true)?;
        Ok(match kind {
            Kind::Unix => Self::Unix(UnixListener::from_std(socket.into())?),
            _ => Self::Tcp(TcpListener::from_std(socket.into())?, kind == Kind::Tls),
        })
    }

    async fn next(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener, is_tls) => {
                let (stream, _) = listener.accept().await?;
                // It fails only if the connection has ended, which is noticed later.
                let _ = stream.set_nodelay(true);
                Stream::Tcp(stream.into_std()?, *is_tls)
            }
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0.into_std()?),
        })
    }
}

/// A connection that was accepted, for the thread that is to serve it.
pub struct Accepted {
    /// Its end here.
    pub stream: Stream,
    /// As long as it is there, it counts.
    pub place: Place,
}

/// A connection's end here.
pub enum Stream {
    /// TCP; whether TLS is spoken on it.
    Tcp(TcpStream, bool),
    /// Unix.
    Unix(UnixStream),
}

/// Hands on what connects, until the front drains. A connection too many is closed at once.
pub async fn accept(
    listener: Listener,
    places: Arc<Places>,
    mut phase: watch::Receiver<Phase>,
    hand_on: impl Fn(Accepted),
) {
    let _place = places.listener();
    let taking = async {
        loop {
            match listener.next().await {
                Ok(stream) => {
                    if let Some(place) = places.connection() {
                        hand_on(Accepted { stream, place });
                    }
                }
                Err(error) if is_of_one(&error) => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = taking => {}
        _ = phase.wait_for(|phase| *phase != Phase::Open) => {}
    }
}

/// Whether only this connection failed. Else the process has too little of something.
fn is_of_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
