//! A client, the front door with its relay, and a server behind, in one thread.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use embercache_native::front::connection::settings;
use embercache_native::relay::Relay;
use embercache_native::unwritten::{Queue, Unwritten};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Runs a test, which is to end at all.
pub fn play(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await })
        .expect("it hangs");
}

/// Lets everybody run until nothing moves any more, as the count says.
pub async fn settle(count: impl Fn() -> usize) -> usize {
    let mut last = count();
    let mut still = 0;
    while still < 200 {
        tokio::task::yield_now().await;
        still = if count() == last { still + 1 } else { 0 };
        last = count();
    }
    last
}

/// A server behind, and a client on a connection of its own; the folder is that of the server's socket.
pub async fn both() -> (Folder, Backend, Client) {
    let folder = Folder::new();
    let backend = Backend::new(&folder.socket());
    let client = Client::new(&folder.socket()).await;
    (folder, backend, client)
}

/// A folder that is gone in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "embercache-relay-{}-{}",
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("backend.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A call as the server behind sees it.
pub struct Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// Which one of the server's connections it is on, from 0.
    pub connection: usize,
}

impl Call {
    /// Responds with headers alone so far.
    pub fn head(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(response(), false).unwrap()
    }

    /// Responds with a message and a status.
    pub fn answer(&mut self, data: impl Into<Bytes>) {
        let mut to = self.head();
        to.send_data(data.into(), false).unwrap();
        to.send_trailers(ok()).unwrap();
    }

    /// By which code it is ended from the other side.
    pub async fn reset(&mut self) -> Result<Reason, h2::Error> {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await
    }
}

pub fn response() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

pub fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers
}

enum Command {
    GoAway,
    Kill,
}

/// A server of HTTP/2 whose calls the test answers.
pub struct Backend {
    calls: UnboundedReceiver<Call>,
    commands: Arc<Mutex<Vec<UnboundedSender<Command>>>>,
}

impl Backend {
    pub fn new(socket: &Path) -> Self {
        let mut builder = h2::server::Builder::new();
        builder.data_frame_budget(usize::MAX);
        Self::with(UnixListener::bind(socket).unwrap(), builder)
    }

    pub fn with(listener: UnixListener, builder: h2::server::Builder) -> Self {
        let (to, calls) = unbounded_channel();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let senders = commands.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (sender, receiver) = unbounded_channel();
                senders.lock().unwrap().push(sender);
                tokio::spawn(answer(
                    socket,
                    builder.clone(),
                    connection,
                    to.clone(),
                    receiver,
                ));
            }
        });
        Self { calls, commands }
    }

    /// The next call that comes.
    pub async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    pub fn has_call(&self) -> bool {
        !self.calls.is_empty()
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.commands.lock().unwrap().len()
    }

    /// Ends a connection gracefully.
    pub fn go_away(&self, connection: usize) {
        self.command(connection, Command::GoAway);
    }

    /// Ends a connection at once.
    pub fn kill(&self, connection: usize) {
        self.command(connection, Command::Kill);
    }

    /// Whether a connection is over.
    pub fn is_over(&self, connection: usize) -> bool {
        self.commands.lock().unwrap()[connection].is_closed()
    }

    fn command(&self, connection: usize, command: Command) {
        let commands = self.commands.lock().unwrap();
        commands[connection].send(command).ok().unwrap();
    }
}

async fn answer(
    socket: UnixStream,
    builder: h2::server::Builder,
    connection: usize,
    calls: UnboundedSender<Call>,
    mut commands: UnboundedReceiver<Command>,
) {
    let Ok(mut server) = builder.handshake(socket).await else {
        return;
    };
    loop {
        tokio::select! {
            accepted = server.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let _ = calls.send(Call { request, respond, connection });
            }
            command = commands.recv() => match command {
                Some(Command::GoAway) => server.graceful_shutdown(),
                Some(Command::Kill) | None => return,
            }
        }
    }
}

/// A client of HTTP/2 with a connection of its own to the front door.
pub struct Client {
    pub send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Client {
    pub async fn new(socket: &Path) -> Self {
        Self::having_read(socket, Vec::new()).await
    }

    /// `read` is what the front door has taken from each call's body already.
    pub async fn having_read(socket: &Path, read: Vec<Bytes>) -> Self {
        Self::on(Relay::new(socket.into(), queue()), read).await
    }

    /// One of which only so much is queued, with all others of that kind.
    pub async fn bounded(socket: &Path, all: &Arc<Unwritten>) -> Self {
        let queue = Queue::new(all.clone());
        Self::on(Relay::new(socket.into(), queue), Vec::new()).await
    }

    async fn on(relay: Relay, read: Vec<Bytes>) -> Self {
        let mut builder = h2::client::Builder::new();
        // The client's own connection is not to be what holds its calls up, or ends.
        builder.initial_connection_window_size(64 << 20);
        builder.data_frame_budget(usize::MAX);
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(open_door(theirs, relay, read));
        let (send, connection) = builder.handshake(ours).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(async move {
                let _ = connection.await;
            }),
        }
    }

    /// Begins a call.
    pub fn call(&mut self) -> (ResponseFuture, SendStream<Bytes>) {
        self.send.send_request(request(), false).unwrap()
    }

    /// Makes a call with a message.
    pub fn ask(&mut self, data: impl Into<Bytes>) -> ResponseFuture {
        let (response, mut to) = self.call();
        to.send_data(data.into(), true).unwrap();
        response
    }

    /// Closes the connection without a word.
    pub async fn vanish(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

/// What a connection queues, with no bound that matters here.
pub fn queue() -> Arc<Queue> {
    Queue::new(Arc::new(Unwritten::new(usize::MAX)))
}

pub fn request() -> Request<()> {
    Request::post("http://localhost/embercache.v1.EmbedService/Embed")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// Relays all calls of a connection; they end with it.
async fn open_door(socket: UnixStream, relay: Relay, read: Vec<Bytes>) {
    let relay = Arc::new(relay);
    let mut connection = settings().handshake(socket).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        let (relay, read) = (relay.clone(), read.clone());
        tokio::spawn(async move { relay.relay(head, read, body, respond).await });
    }
}

/// Reads a body to its end, giving capacity as it comes.
pub async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut data = Vec::new();
    while let Some(bytes) = body.data().await.transpose()? {
        body.flow_control().release_capacity(bytes.len()).unwrap();
        data.extend_from_slice(&bytes);
    }
    Ok((data, body.trailers().await?))
}

/// Sends as the other side takes it.
pub async fn send(to: &mut SendStream<Bytes>, mut data: Bytes, count: &AtomicUsize) -> Option<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| to.poll_capacity(cx))
            .await?
            .ok()?;
        let part = data.split_to(capacity.min(data.len()));
        count.fetch_add(part.len(), Ordering::Relaxed);
        to.send_data(part, false).ok()?;
    }
    Some(())
}

/// The status and the message of trailers.
pub fn status(trailers: &HeaderMap) -> (&str, &str) {
    let text = |name| {
        trailers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    };
    (text("grpc-status"), text("grpc-message"))
}
