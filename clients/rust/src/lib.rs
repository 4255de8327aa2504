//! Client of Embercache, the gRPC sidecar that answers embedding, search and generation calls from
//! cache.
//!
//! [`Embercache`] connects to the sidecar and gives the clients of its services, which are
//! generated from the contract into [`v1`]; [`vectors`] reads the vectors of an answer.
//!
//! ```no_run
//! use embercache::{Embercache, v1::EmbedRequest};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let embercache = Embercache::connect(None)?;
//! let request = EmbedRequest {
//!     inputs: embercache::texts(["a text", "another"]),
//!     ..Default::default()
//! };
//! let response = embercache.embed().embed(request).await?.into_inner();
//! for vector in embercache::vectors(&response) {
//!     println!("{:?}", vector?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A call that fails with `UNAVAILABLE` or `RESOURCE_EXHAUSTED` has been tried five times, within
//! about 3.3 seconds, unless its time-out ended before; a stream is retried until its first message.
//! Calls have no time-out but that of [`tonic::Request::set_timeout`]; [`WaitForReady`] lets them wait
//! until then for a sidecar that is away.

mod address;
mod channel;
mod connection;
mod credentials;
mod deadline;
mod embedding;
mod error;

pub use channel::{Channel, WaitForReady};
pub use connection::Embercache;
pub use credentials::Files;
pub use embedding::{InputError, texts, vectors};
pub use error::ConfigError;
pub use prost_types;
pub use tonic;

/// The contract: messages, and a client for each service.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    include!("gen/embercache.v1.rs");
}
