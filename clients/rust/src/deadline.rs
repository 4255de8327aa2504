//! When a call must be over. tonic itself only limits the time until an answer begins.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;

const TIME_OUT: &str = "grpc-timeout";
const MAX_COUNT: u128 = 99_999_999;
const NANOS_OF_UNITS: [(&str, u64); 6] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("S", 1_000_000_000),
    ("M", 60_000_000_000),
    ("H", 3_600_000_000_000),
];

/// The one moment at which a call ends, with all its attempts and all of its answer.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// That of a call that begins now, if its headers have a time-out.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let time = read(headers.get(TIME_OUT)?.to_str().ok()?)?;
        Instant::now().checked_add(time).map(Self)
    }

    /// Tells the server how much time is left.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let left = write(self.0.saturating_duration_since(Instant::now()));
        headers.insert(TIME_OUT, left);
    }

    /// Waits for an answer to begin, and ends it when the time is over.
    pub(crate) async fn limit(
        self,
        answer: impl Future<Output = Result<http::Response<Body>, Status>>,
    ) -> Result<http::Response<Body>, Status> {
        let response = timeout_at(self.0, answer).await.map_err(|_| too_late())??;
        Ok(response.map(|body| {
            Body::new(Limited {
                body,
                end: Box::pin(sleep_until(self.0)),
            })
        }))
    }
}

/// What a call whose time is over ends with.
pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("the answer did not come in time")
}

/// The rest of an answer, which ends with an error when its time is over.
struct Limited {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for Limited {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(too_late())));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a time-out as gRPC writes it: at most eight digits and a unit.
fn read(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count = digits.parse::<u32>().ok()?;
    let (_, nanos) = NANOS_OF_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_nanos(*nanos) * count)
}

/// Writes it in the smallest unit that has room for it, and takes no more time than there is.
fn write(time: Duration) -> HeaderValue {
    let [units @ .., hours] = NANOS_OF_UNITS;
    let count = |nanos: u64| time.as_nanos() / u128::from(nanos);
    let fits = |(_, nanos): &(&str, u64)| count(*nanos) <= MAX_COUNT;
    let (unit, nanos) = units.into_iter().find(fits).unwrap_or(hours);
    let value = format!("{}{unit}", count(nanos).min(MAX_COUNT));
    HeaderValue::try_from(value).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_read_in_every_unit() {
        let nanos = ["7n", "7u", "7m", "7S", "7M", "7H"].map(|it| read(it).unwrap().as_nanos());
        let units = NANOS_OF_UNITS.map(|(_, nanos)| u128::from(7 * nanos));
        assert_eq!(nanos, units);
        assert!(
            ["", "7", "S", "7s", "-7S", "7é"]
                .iter()
                .all(|it| read(it).is_none())
        );
    }

    #[test]
    fn a_time_out_is_written_in_eight_digits_and_never_longer_than_it_is() {
        let written = |time| write(time).to_str().unwrap().to_owned();
        assert_eq!(written(Duration::ZERO), "0n");
        assert_eq!(written(Duration::from_nanos(99_999_999)), "99999999n");
        assert_eq!(written(Duration::from_nanos(100_000_999)), "100000u");
        assert_eq!(written(Duration::from_secs(10)), "10000000u");
        assert_eq!(written(Duration::from_secs(100)), "100000m");
        assert_eq!(written(Duration::from_secs(1_000_000)), "1000000S");
        assert_eq!(written(Duration::MAX), "99999999H");
    }
}
