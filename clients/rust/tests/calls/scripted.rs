//! A real HTTP/2 server that answers calls as a script says.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use embercache::tonic::Code;
use embercache::v1::EmbedResponse;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::response::Builder;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// What becomes of one call.
#[derive(Clone, Copy)]
pub enum Step {
    /// It is answered with an `EmbedResponse` whose model has a name of so many letters.
    Answer(usize),
    /// It ends with this status and nothing else.
    Refuse(Code),
    /// It is refused, and shall be made again after so many milliseconds.
    PushBack(&'static str),
    /// The answer begins and never goes on.
    Stall,
    /// The answer begins and then ends with this status.
    BreakOff(Code),
    /// Its stream is reset.
    Reset(Reason),
    /// The connection is closed.
    HangUp,
    /// There is never an answer.
    Ignore,
}

pub struct Scripted {
    pub address: String,
    state: Arc<State>,
}

type Answered = (SendResponse<Bytes>, Option<SendStream<Bytes>>);

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Step>>,
    messages: Mutex<Vec<Bytes>>,
    headers: Mutex<Vec<HeaderMap>>,
    answered: Mutex<Vec<Answered>>,
}

impl Scripted {
    /// Serves calls, each as the next step says.
    pub async fn serve(script: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self::new(script, listener.local_addr().unwrap().to_string());
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve_connection(socket, state.clone()));
            }
        });
        server
    }

    /// Does so at a Unix socket.
    pub fn serve_at(path: &Path, script: impl IntoIterator<Item = Step>) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let server = Self::new(script, format!("unix:{}", path.display()));
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve_connection(socket, state.clone()));
            }
        });
        server
    }

    fn new(script: impl IntoIterator<Item = Step>, address: String) -> Self {
        let state = Arc::new(State {
            script: Mutex::new(script.into_iter().collect()),
            ..State::default()
        });
        Self { address, state }
    }

    /// What was sent in each call, as it came over the wire.
    pub fn messages(&self) -> Vec<Bytes> {
        self.state.messages.lock().unwrap().clone()
    }

    /// The header of that name of each call that has it.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let headers = self.state.headers.lock().unwrap();
        let values = headers.iter().filter_map(|it| it.get(name));
        values.map(|it| it.to_str().unwrap().to_owned()).collect()
    }
}

async fn serve_connection(socket: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let step = state.script.lock().unwrap().pop_front();
        let headers = request.headers().clone();
        state.headers.lock().unwrap().push(headers);
        match step.expect("more calls than the script has") {
            Step::HangUp => {
                state.messages.lock().unwrap().push(Bytes::new());
                return;
            }
            Step::Reset(reason) => {
                state.messages.lock().unwrap().push(Bytes::new());
                respond.send_reset(reason);
            }
            step => {
                let state = state.clone();
                tokio::spawn(async move {
                    let message = read(request.into_body()).await;
                    state.messages.lock().unwrap().push(message);
                    let stream = answer(step, &mut respond);
                    // Dropping them would reset.
                    state.answered.lock().unwrap().push((respond, stream));
                });
            }
        }
    }
}

async fn read(mut body: RecvStream) -> Bytes {
    let mut message = BytesMut::new();
    while let Some(Ok(part)) = body.data().await {
        body.flow_control().release_capacity(part.len()).unwrap();
        message.extend_from_slice(&part);
    }
    message.freeze()
}

fn answer(step: Step, respond: &mut SendResponse<Bytes>) -> Option<SendStream<Bytes>> {
    let head = Response::builder().header("content-type", "application/grpc");
    let mut begin = |head: Builder, is_all| {
        respond
            .send_response(head.body(()).unwrap(), is_all)
            .unwrap()
    };
    match step {
        Step::Refuse(code) => Some(begin(head.header("grpc-status", code as i32), true)),
        Step::PushBack(millis) => {
            let head = head.header("grpc-status", Code::ResourceExhausted as i32);
            Some(begin(head.header("grpc-retry-pushback-ms", millis), true))
        }
        Step::Stall => Some(begin(head, false)),
        Step::BreakOff(code) => {
            let mut stream = begin(head, false);
            stream.send_trailers(status(code)).unwrap();
            Some(stream)
        }
        Step::Answer(letters) => {
            let mut stream = begin(head, false);
            stream.send_data(framed_answer(letters), false).unwrap();
            stream.send_trailers(status(Code::Ok)).unwrap();
            Some(stream)
        }
        Step::Reset(_) | Step::HangUp | Step::Ignore => None,
    }
}

fn status(code: Code) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from(code as i32),
    )])
}

/// The message behind the five bytes that gRPC puts in front of each: no compression, its length.
fn framed_answer(letters: usize) -> Bytes {
    let message = EmbedResponse {
        model: "m".repeat(letters),
        ..Default::default()
    };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut framed).unwrap();
    framed.freeze()
}
