//! Which calls are repeated, and how often.

use std::time::Duration;
use std::{env, process};

use crate::scripted::{Scripted, Step};
use embercache::Embercache;
use embercache::tonic::{Code, Request, Status};
use embercache::v1::{EmbedRequest, EmbedStreamRequest, GenerateRequest};
use h2::Reason;
use tokio::time::timeout;

const ATTEMPTS: usize = 5;
const HANG_GUARD: Duration = Duration::from_secs(60);

async fn embed(server: &Scripted, time_out: Option<Duration>) -> Result<String, Status> {
    let embercache = Embercache::connect(Some(&server.address)).unwrap();
    let mut request = Request::new(EmbedRequest {
        inputs: embercache::texts(["a text"]),
        ..Default::default()
    });
    if let Some(time_out) = time_out {
        request.set_timeout(time_out);
    }
    let response = embercache.embed().embed(request).await?;
    Ok(response.into_inner().model)
}

async fn code_of_embed(server: &Scripted, time_out: Option<Duration>) -> Code {
    embed(server, time_out).await.unwrap_err().code()
}

#[tokio::test]
async fn a_call_that_may_succeed_a_little_later_is_repeated_as_it_was() {
    let refusals = [Code::Unavailable, Code::ResourceExhausted, Code::Cancelled];
    let script = refusals
        .map(Step::Refuse)
        .into_iter()
        .chain([Step::Answer(1)]);
    let server = Scripted::serve(script).await;
    assert_eq!(embed(&server, None).await.unwrap(), "m");
    let messages = server.messages();
    assert_eq!(messages.len(), 4);
    assert!(messages[0].ends_with(b"a text"));
    assert!(messages.iter().all(|message| *message == messages[0]));
}

#[tokio::test]
async fn a_call_is_repeated_when_its_connection_breaks() {
    let script = [
        Step::HangUp,
        Step::Reset(Reason::REFUSED_STREAM),
        Step::Reset(Reason::CANCEL),
        Step::Answer(1),
    ];
    let server = Scripted::serve(script).await;
    assert_eq!(embed(&server, None).await.unwrap(), "m");
    assert_eq!(server.messages().len(), 4);
}

#[tokio::test]
async fn a_call_that_would_fail_again_is_not_repeated() {
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::Internal,
        Code::Unauthenticated,
        Code::PermissionDenied,
    ] {
        let server = Scripted::serve([Step::Refuse(code)]).await;
        assert_eq!(code_of_embed(&server, None).await, code);
        assert_eq!(server.messages().len(), 1);
    }
}

#[tokio::test]
async fn five_attempts_are_the_most() {
    let server = Scripted::serve([Step::Refuse(Code::Unavailable); 2 * ATTEMPTS]).await;
    assert_eq!(code_of_embed(&server, None).await, Code::Unavailable);
    assert_eq!(server.messages().len(), ATTEMPTS);
}

#[tokio::test]
async fn an_answer_larger_than_the_library_would_take_by_itself_is_taken() {
    let letters = 5 << 20;
    let server = Scripted::serve([Step::Answer(letters)]).await;
    assert_eq!(embed(&server, None).await.unwrap().len(), letters);
}

#[tokio::test]
async fn a_connection_that_stays_broken_makes_the_sidecar_unavailable() {
    let server = Scripted::serve([Step::HangUp; ATTEMPTS]).await;
    let status = embed(&server, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let expected = "the connection to the sidecar failed: ";
    assert!(status.message().starts_with(expected), "{status}");
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    let server = Scripted::serve([Step::BreakOff(Code::Unavailable)]).await;
    assert_eq!(code_of_embed(&server, None).await, Code::Unavailable);
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn the_time_out_is_for_all_attempts_together() {
    let server = Scripted::serve([Step::Refuse(Code::Unavailable); ATTEMPTS]).await;
    let time_out = Some(Duration::from_millis(200)); // four delays take more than a second
    assert_eq!(
        code_of_embed(&server, time_out).await,
        Code::DeadlineExceeded
    );
    assert!(server.messages().len() < ATTEMPTS);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_repeated() {
    let server = Scripted::serve([Step::Ignore]).await;
    let time_out = Some(Duration::from_millis(100));
    assert_eq!(
        code_of_embed(&server, time_out).await,
        Code::DeadlineExceeded
    );
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn a_call_that_waits_outlasts_any_absence_of_the_sidecar() {
    let socket = env::temp_dir().join(format!("embercache-{}.sock", process::id()));
    let embercache = Embercache::connect(Some(&format!("unix:{}", socket.display()))).unwrap();
    let mut request = Request::new(EmbedRequest::default());
    request.set_timeout(HANG_GUARD);
    request.extensions_mut().insert(embercache::WaitForReady);
    let mut client = embercache.embed();
    let patient = tokio::spawn(async move { client.embed(request).await });
    for _ in 0..2 {
        // The shortest of two takes longer than the longest of one.
        let impatient = embercache.embed().embed(EmbedRequest::default()).await;
        assert_eq!(impatient.unwrap_err().code(), Code::Unavailable);
    }
    let server = Scripted::serve_at(&socket, [Step::Refuse(Code::Unavailable), Step::Answer(1)]);
    assert_eq!(patient.await.unwrap().unwrap().into_inner().model, "m");
    assert_eq!(server.messages().len(), 2);
    std::fs::remove_file(socket).unwrap();
}

#[tokio::test]
async fn a_call_that_waits_ends_with_its_time() {
    let embercache = Embercache::connect(Some("unix:/nobody/is/here")).unwrap();
    let mut request = Request::new(EmbedRequest::default());
    request.set_timeout(Duration::from_millis(100));
    request.extensions_mut().insert(embercache::WaitForReady);
    let ended = timeout(HANG_GUARD, embercache.embed().embed(request)).await;
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
}

/// What each attempt is told that it has left, in microseconds.
fn left(server: &Scripted) -> Vec<u32> {
    let micros = |time_out: &String| time_out.strip_suffix('u').unwrap().parse().unwrap();
    server.headers("grpc-timeout").iter().map(micros).collect()
}

#[tokio::test]
async fn an_attempt_has_only_the_time_that_is_left() {
    let server = Scripted::serve([Step::Refuse(Code::Unavailable), Step::Answer(1)]).await;
    embed(&server, Some(HANG_GUARD)).await.unwrap();
    let left = left(&server);
    assert_eq!(left.len(), 2);
    let between = 80_000; // the shortest that the first delay may be
    assert!(left[1] + between <= left[0], "{left:?}");
}

#[tokio::test]
async fn a_sidecar_that_says_when_to_call_again_is_called_no_sooner() {
    let server = Scripted::serve([Step::PushBack("300"), Step::Answer(1)]).await;
    embed(&server, Some(HANG_GUARD)).await.unwrap();
    let left = left(&server);
    assert!(left[1] + 300_000 <= left[0], "{left:?}"); // the first delay is at most 120 ms
}

#[tokio::test]
async fn a_sidecar_that_wants_to_be_left_alone_is() {
    let server = Scripted::serve([Step::PushBack("-1")]).await;
    assert_eq!(code_of_embed(&server, None).await, Code::ResourceExhausted);
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn the_time_out_is_for_the_whole_answer() {
    let server = Scripted::serve([Step::Stall]).await;
    let time_out = Some(Duration::from_millis(100));
    let ended = timeout(HANG_GUARD, code_of_embed(&server, time_out)).await;
    assert_eq!(ended, Ok(Code::DeadlineExceeded));
}

#[tokio::test]
async fn the_time_out_is_for_the_whole_of_a_stream() {
    let server = Scripted::serve([Step::Stall]).await;
    let embercache = Embercache::connect(Some(&server.address)).unwrap();
    let mut request = Request::new(GenerateRequest::default());
    request.set_timeout(Duration::from_secs(1));
    let mut pieces = embercache
        .generate()
        .generate_stream(request)
        .await
        .unwrap()
        .into_inner();
    let ended = timeout(HANG_GUARD, pieces.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_is_repeated_until_its_answer_begins() {
    let script = [
        Step::Refuse(Code::Unavailable),
        Step::BreakOff(Code::Unavailable),
    ];
    let server = Scripted::serve(script).await;
    let embercache = Embercache::connect(Some(&server.address)).unwrap();
    let request = GenerateRequest::default();
    let mut pieces = embercache
        .generate()
        .generate_stream(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        pieces.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.messages().len(), 2);
}

#[tokio::test]
async fn a_stream_of_batches_is_left_to_its_caller() {
    let server = Scripted::serve([Step::Refuse(Code::Unavailable)]).await;
    let embercache = Embercache::connect(Some(&server.address)).unwrap();
    let batches = [EmbedStreamRequest::default()];
    let status = embercache
        .embed()
        .embed_stream(tokio_stream::iter(batches))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(server.messages().len(), 1);
}
