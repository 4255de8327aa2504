//! Repeats calls that may succeed a little later, as gRPC libraries do by themselves in other
//! languages: <https://github.com/grpc/proposal/blob/master/A6-client-retries.md>.

use std::error::Error;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::ParseIntError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header;
use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::{Code, ConnectError, Status, TimeoutExpired, transport};
use tower_service::Service;

use crate::credentials::Token;
use crate::deadline::{Deadline, too_late};

const ATTEMPTS: u32 = 5;
const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MULTIPLIER: u32 = 3; // a sidecar that was killed needs a second or two to start again
const MAX_DELAY: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// In the extensions of a request: the call waits for a sidecar that is away.
///
/// While no connection can be made the call does not fail, whatever the retries, but looks for the
/// sidecar twice a second until its time-out; without a time-out, for ever. Not for `EmbedStream`.
///
/// ```
/// # let mut request = embercache::tonic::Request::new(());
/// request.extensions_mut().insert(embercache::WaitForReady);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WaitForReady;

/// What the clients of the services call through.
///
/// A call that ends with `UNAVAILABLE`, `RESOURCE_EXHAUSTED` or `CANCELLED` before anything of its
/// answer came is repeated, up to four times with growing delays, or those that the sidecar asks
/// for, and within its time-out. All calls
/// of the contract can be repeated without harm, but for `EmbedStream`: only its caller knows what
/// was answered.
#[derive(Clone, Debug)]
pub struct Channel {
    connection: transport::Channel,
    token: Option<Arc<Token>>,
}

impl Channel {
    pub(crate) fn new(connection: transport::Channel, token: Option<Token>) -> Self {
        let token = token.map(Arc::new);
        Self { connection, token }
    }
}

impl Service<Request> for Channel {
    type Response = Response;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // each attempt waits for the connection on its own
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let mut connection = self.connection.clone();
        if let Some(token) = &self.token {
            let shown = token.header(Instant::now());
            request.headers_mut().insert(header::AUTHORIZATION, shown);
        }
        let deadline = Deadline::of(request.headers());
        let answer = async move {
            if is_retried(request.uri().path()) {
                repeat(connection, request, deadline).await
            } else {
                attempt(&mut connection, request, deadline).await
            }
        };
        match deadline {
            Some(deadline) => Box::pin(deadline.limit(answer)),
            None => Box::pin(answer),
        }
    }
}

/// The same calls as in the clients of other languages.
fn is_retried(path: &str) -> bool {
    const SERVICES: [&str; 3] = ["SearchService", "GenerateService", "CacheService"];
    let Some((service, method)) = path
        .strip_prefix("/embercache.v1.")
        .and_then(|it| it.split_once('/'))
    else {
        return false;
    };
    SERVICES.contains(&service)
        || service == "EmbedService" && ["Embed", "ListModels"].contains(&method)
}

/// Makes attempts until one is not worth repeating or they are used up.
async fn repeat(
    mut connection: transport::Channel,
    request: Request,
    deadline: Option<Deadline>,
) -> Result<Response, Status> {
    let (head, body) = request.into_parts();
    let message = body.collect().await?.to_bytes();
    let waits = head.extensions.get::<WaitForReady>().is_some();
    let (mut failures, mut delays) = (0, 0);
    loop {
        let body = Body::new(Full::new(message.clone()));
        let request = Request::from_parts(head.clone(), body);
        let outcome = attempt(&mut connection, request, deadline).await;
        if waits && was_not_connected(&outcome) {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        failures += 1;
        if failures == ATTEMPTS || !is_transient(&outcome) {
            return outcome;
        }
        let pause = match push_back(&outcome) {
            Some(Err(_)) => return outcome, // a number below 0 asks for no more attempts
            Some(Ok(millis)) => {
                delays = 0;
                Duration::from_millis(millis.into())
            }
            None => {
                delays += 1;
                delay(delays)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// After how many milliseconds the sidecar wants to be asked again, if it says so.
fn push_back(outcome: &Result<Response, Status>) -> Option<Result<u32, ParseIntError>> {
    let headers = outcome.as_ref().ok()?.headers();
    let value = headers.get("grpc-retry-pushback-ms")?;
    Some(value.to_str().unwrap_or_default().parse())
}

async fn attempt(
    connection: &mut transport::Channel,
    mut request: Request,
    deadline: Option<Deadline>,
) -> Result<Response, Status> {
    poll_fn(|context| connection.poll_ready(context))
        .await
        .map_err(broken)?;
    if let Some(deadline) = deadline {
        deadline.write(request.headers_mut());
    }
    connection.call(request).await.map_err(broken)
}

/// The status of a call for which the connection failed, whatever the library calls that.
fn broken(error: transport::Error) -> Status {
    if sources(&error).any(<dyn Error>::is::<TimeoutExpired>) {
        return too_late();
    }
    let mut reasons: Vec<_> = sources(&error).map(ToString::to_string).collect();
    reasons.dedup();
    let mut status = Status::unavailable(format!(
        "the connection to the sidecar failed: {}",
        reasons.join(": ")
    ));
    status.set_source(Arc::new(error));
    status
}

/// Whether there was no connection, so that nothing was sent.
fn was_not_connected(outcome: &Result<Response, Status>) -> bool {
    let status = outcome.as_ref().err();
    status.is_some_and(|it| sources(it).any(<dyn Error>::is::<ConnectError>))
}

/// What led to an error, from the last to the first.
fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

fn is_transient(outcome: &Result<Response, Status>) -> bool {
    let code = match outcome {
        Err(status) => status.code(),
        // An answer that has a status in its headers is nothing but that status.
        Ok(response) => match response.headers().get(Status::GRPC_STATUS) {
            Some(status) => Code::from_bytes(status.as_bytes()),
            None => return false,
        },
    };
    // A server that ends may cancel a call that has only just reached it.
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled
    )
}

/// How long to wait before the first, second... of such waits: exponential, with a fifth more or less.
fn delay(number: u32) -> Duration {
    let base = (INITIAL_DELAY * MULTIPLIER.pow(number - 1)).min(MAX_DELAY);
    // The keys of a hasher are random, and that is enough to keep clients apart.
    let random = RandomState::new().build_hasher().finish() >> 32;
    base.mul_f64(0.8 + 0.4 * f64::from(random as u32) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_that_are_repeated_are_those_of_the_other_clients() {
        for path in [
            "EmbedService/Embed",
            "EmbedService/ListModels",
            "SearchService/Upsert",
            "GenerateService/GenerateStream",
            "CacheService/Invalidate",
        ] {
            assert!(is_retried(&format!("/embercache.v1.{path}")), "{path}");
        }
        for path in [
            "/embercache.v1.EmbedService/EmbedStream",
            "/embercache.v1.SemanticVerifier/Verify",
            "/grpc.health.v1.Health/Check",
        ] {
            assert!(!is_retried(path), "{path}");
        }
    }

    #[test]
    fn delays_are_long_enough_for_a_sidecar_to_start_again() {
        for (number, expected) in [(1, 100), (2, 300), (3, 900), (4, 2000)] {
            let shortest = Duration::from_millis(expected).mul_f64(0.8);
            let longest = Duration::from_millis(expected).mul_f64(1.2);
            assert!((0..100).all(|_| (shortest..=longest).contains(&delay(number))));
        }
    }
}
