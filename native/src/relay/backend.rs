//! The connection to the server behind.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::front::connection::FRAME_BYTES;

/// What the server may send of one response that the client does not read. More was no faster.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// As good as none: responses that are not read must not hold up the others of their connection.
/// What all of them hold is bounded by their windows.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// What waits for the socket of one request.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Of so many cancelled calls it is remembered for a second that frames may still come.
const MOST_CANCELLED: usize = 1024;
/// How long to wait when more connections are waiting for the server than the socket keeps.
const CROWDED: Duration = Duration::from_millis(10);

/// A connection to the server behind that is there when it is needed.
pub struct Backend {
    path: Arc<Path>,
    current: Mutex<Option<SendRequest<Bytes>>>,
}

impl Backend {
    pub fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            current: Mutex::new(None),
        }
    }

    /// A connection that takes calls. Who comes while it is made waits for it.
    pub async fn ready(&self) -> io::Result<SendRequest<Bytes>> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &mut *current
            && poll_fn(|cx| connection.poll_ready(cx)).await.is_ok()
        {
            return Ok(connection.clone());
        }
        // What runs on the one before ends there in peace.
        let connection = open(&self.path).await?;
        *current = Some(connection.clone());
        Ok(connection)
    }
}

async fn open(path: &Path) -> io::Result<SendRequest<Bytes>> {
    let socket = loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(CROWDED).await;
            }
            connected => break connected?,
        }
    };
    let (connection, driver) = Builder::new()
        .max_frame_size(FRAME_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(MOST_CANCELLED)
        // Else the connection would end after so many frames that came for cancelled calls.
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .handshake(socket)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // How it ended is told to all calls that were on it.
        let _ = driver.await;
    });
    Ok(connection)
}
