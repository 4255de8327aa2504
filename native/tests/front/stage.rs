//! A front door that has some answers, with nobody behind it, and its clients.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use embercache_native::answers::{Age, Answers, Response};
use embercache_native::callers::{Peer, Scope};
use embercache_native::front::connection::{Phase, serve_connection};
use embercache_native::front::shared::{Method, Shared};
use h2::SendStream;
use h2::client::{self, ResponseFuture, SendRequest};
use http::Request;
use http::request::Builder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const PATH: &str = "/test.Service/Call";
pub const OK: &str = "0";
/// What a call comes to that is handed over.
pub const UNAVAILABLE: &str = "14";

const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Runs a test, which is to end at all. Time passes only while everybody waits for it.
pub fn play(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async { timeout(FOR_EVER, test).await })
        .expect("it hangs");
}

pub struct Door {
    pub shared: Arc<Shared>,
    pub method: Arc<Method>,
    pub phase: watch::Sender<Phase>,
}

impl Door {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Shared)) -> Self {
        let method = Arc::new(Method::new("test", &[1.0]).unwrap());
        let methods = HashMap::from([(PATH.to_owned(), method.clone())]);
        let nowhere = PathBuf::from("/nowhere/at/all");
        let mut shared = Shared::new(Arc::new(Answers::default()), methods, nowhere);
        change(&mut shared);
        Self {
            shared: Arc::new(shared),
            method,
            phase: watch::channel(Phase::Open).0,
        }
    }

    pub fn keep(&self, message: &[u8], scope: Option<Scope>, data: impl Into<Bytes>, ages: &[Age]) {
        let response = Response::new(data.into(), ages.into());
        let key = self.method.key(message, scope.as_ref());
        let answers = &self.shared.answers;
        answers.put(key, Arc::new(response), f64::INFINITY, Arc::default());
    }

    /// How many calls were answered.
    pub fn answered(&self) -> u64 {
        self.method.durations.take().0.iter().sum()
    }

    /// A socket to it, and what serves the other end.
    pub fn socket(&self) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = duplex(8 << 20);
        let phase = self.phase.subscribe();
        let serving = serve_connection(theirs, Peer::unix(), self.shared.clone(), phase);
        (ours, tokio::spawn(serving))
    }

    pub async fn client(&self) -> Client {
        Client::on(self.socket().0).await
    }
}

pub struct Client {
    pub send: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub async fn on(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (send, connection) = client::handshake(socket).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(connection),
        }
    }

    pub async fn begin(&mut self, request: Builder) -> (ResponseFuture, SendStream<Bytes>) {
        poll_fn(|cx| self.send.poll_ready(cx)).await.unwrap();
        self.send
            .send_request(request.body(()).unwrap(), false)
            .unwrap()
    }

    /// The status and what else is answered to a message.
    pub async fn ask(&mut self, message: &[u8]) -> (String, Vec<u8>) {
        self.ask_so(request(), framed(message)).await
    }

    pub async fn ask_so(&mut self, request: Builder, body: Bytes) -> (String, Vec<u8>) {
        let (response, mut to) = self.begin(request).await;
        to.send_data(body, true).unwrap();
        answer(response).await.unwrap()
    }
}

pub fn request() -> Builder {
    Request::post(format!("http://test{PATH}")).header("content-type", "application/grpc")
}

pub fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat().into()
}

pub async fn answer(response: ResponseFuture) -> Result<(String, Vec<u8>), h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await.transpose()? {
        body.flow_control().release_capacity(chunk.len())?;
        data.extend(chunk);
    }
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    Ok((trailers["grpc-status"].to_str().unwrap().to_owned(), data))
}

/// Lets the others do what they can.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
