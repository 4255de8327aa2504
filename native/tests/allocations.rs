//! What a hit allocates does not depend on how long its answer is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use embercache_native::answers::{Age, Answers, Response};
use embercache_native::callers::Peer;
use embercache_native::front::connection::{Phase, serve_connection};
use embercache_native::front::shared::{Method, Shared};
use h2::client::{self, SendRequest};
use http::Request;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const PATH: &str = "/test.Service/Call";
const KIB: usize = 1024;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_SERVER: Cell<bool> = const { Cell::new(false) };
}

/// Adds up what the server's thread asks for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: the system's allocator does it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as asked.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as asked.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(bytes: usize) {
    if IS_SERVER.try_with(Cell::get).unwrap_or(false) {
        ALLOCATED.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Serves one connection on a thread of its own: to the message `[n]`, an answer of `sizes[n]`.
fn server(sizes: &[usize]) -> UnixStream {
    let answers = Arc::new(Answers::default());
    let method = Arc::new(Method::new("test", &[]).unwrap());
    for (message, size) in sizes.iter().enumerate() {
        let age = |offset| Age {
            offset,
            created_ms: 0,
        };
        let ages: Box<[Age]> = (0..size / 512).map(|number| age(512 * number)).collect();
        let response = Response::new(vec![7; *size].into(), ages);
        let key = method.key(&[message as u8], None);
        answers.put(key, Arc::new(response), f64::INFINITY, Arc::default());
    }
    let methods = HashMap::from([(PATH.to_owned(), method)]);
    let shared = Arc::new(Shared::new(answers, methods, PathBuf::from("/nowhere")));
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        IS_SERVER.set(true);
        let (_open, phase) = watch::channel(Phase::Open);
        runtime().block_on(async {
            ours.set_nonblocking(true).unwrap();
            let stream = tokio::net::UnixStream::from_std(ours).unwrap();
            serve_connection(stream, Peer::unix(), shared, phase).await;
        });
    });
    theirs
}

/// Has an answer, and says how long it is.
async fn ask(client: &mut SendRequest<Bytes>, message: u8) -> usize {
    std::future::poll_fn(|cx| client.poll_ready(cx))
        .await
        .unwrap();
    let request = Request::post(format!("http://test{PATH}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(vec![0, 0, 0, 0, 1, message].into(), true)
        .unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    length
}

#[test]
fn a_hit_allocates_the_same_however_long_its_answer_is() {
    let sizes = [KIB, 100 * KIB, 1024 * KIB];
    let theirs = server(&sizes);
    theirs.set_nonblocking(true).unwrap();
    runtime().block_on(async {
        let stream = tokio::net::UnixStream::from_std(theirs).unwrap();
        // So that the answers need no word of the client while they are sent.
        let (mut client, connection) = client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut allocated = Vec::new();
        for (message, size) in sizes.iter().enumerate() {
            // The first ones are for buffers that are kept.
            let mut of_calls = Vec::new();
            for _ in 0..40 {
                let before = ALLOCATED.load(Ordering::Relaxed);
                assert_eq!(ask(&mut client, message as u8).await, 5 + size);
                of_calls.push(ALLOCATED.load(Ordering::Relaxed) - before);
            }
            of_calls.sort_unstable();
            allocated.push(of_calls[of_calls.len() / 2]);
        }
        assert!(allocated[0] > 0, "nothing is counted");
        assert_eq!(allocated, [allocated[0]; 3]);
    });
}
