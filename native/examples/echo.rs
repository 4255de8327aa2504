//! What HTTP/2 costs: the front door's connections and threads, and nothing behind them.
//!
//! Every call is answered with the same message, however it is asked: `echo ADDRESS MESSAGE`, where
//! the address is `HOST:PORT` or the path of a Unix socket, and the message is in hexadecimal.

use std::env::args;
use std::error::Error;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use embercache_native::front::connection::settings;
use embercache_native::front::server::threads;
use embercache_native::front::wire::Wire;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Handle, Runtime};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, address, message] = args()
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "echo ADDRESS MESSAGE")?;
    let message = HEXLOWER.decode(message.as_bytes())?;
    let mut answer = vec![0];
    answer.extend(u32::try_from(message.len())?.to_be_bytes());
    answer.extend(message);
    let answer = Bytes::from(answer);

    let first = runtime()?;
    let mut handles = vec![first.handle().clone()];
    for _ in 1..threads() {
        let runtime = runtime()?;
        handles.push(runtime.handle().clone());
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    }
    first.block_on(listen(&address, &handles, answer))
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn listen(address: &str, handles: &[Handle], answer: Bytes) -> Result<(), Box<dyn Error>> {
    let mut turns = handles.iter().cycle();
    let mut next = || turns.next().ok_or("no thread");
    if address.starts_with('/') {
        let listener = UnixListener::bind(address)?;
        loop {
            let stream = listener.accept().await?.0.into_std()?;
            let answer = answer.clone();
            next()?.spawn(async { serve(tokio::net::UnixStream::from_std(stream)?, answer).await });
        }
    }
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (stream, answer) = (stream.into_std()?, answer.clone());
        next()?.spawn(async { serve(tokio::net::TcpStream::from_std(stream)?, answer).await });
    }
}

async fn serve<S>(stream: S, answer: Bytes) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let wire = Wire::new(stream);
    let mut connection = settings().handshake(wire.clone()).await?;
    wire.gather();
    poll_fn(|cx| poll(&mut connection, &wire, &answer, cx)).await;
    Ok(())
}

fn poll<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<Wire<S>, Bytes>,
    wire: &Wire<S>,
    answer: &Bytes,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, mut respond)))) => {
                let (answer, mut body) = (answer.clone(), request.into_body());
                if read(
                    &mut body,
                    &mut Context::from_waker(std::task::Waker::noop()),
                )
                .is_ready()
                {
                    let _ = give(answer, &mut respond);
                    continue;
                }
                tokio::spawn(async move {
                    poll_fn(|cx| read(&mut body, cx)).await;
                    let _ = give(answer, &mut respond);
                });
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => break,
        }
    }
    match wire.poll_send(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(()),
        _ => Poll::Pending,
    }
}

/// Reads a message, and forgets it.
fn read(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<()> {
    while !body.is_end_stream() {
        match body.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) => {
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            Poll::Ready(_) => break,
        }
    }
    Poll::Ready(())
}

fn give(answer: Bytes, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    let content = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert("content-type", content);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(answer, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
