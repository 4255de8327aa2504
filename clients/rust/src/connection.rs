//! The connection to the sidecar.

use std::env;
use std::time::Duration;

use crate::address;
use crate::channel::Channel;
use crate::credentials::Files;
use crate::error::ConfigError;
use crate::v1::cache_service_client::CacheServiceClient;
use crate::v1::embed_service_client::EmbedServiceClient;
use crate::v1::generate_service_client::GenerateServiceClient;
use crate::v1::search_service_client::SearchServiceClient;

const MAX_MESSAGE_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the sidecar. Make one and keep it: clones, and the clients that it gives, share
/// it.
#[derive(Clone, Debug)]
pub struct Embercache {
    channel: Channel,
}

impl Embercache {
    /// Connects to the sidecar at `address`, which is `HOST:PORT`, `tls://HOST:PORT`, `unix:PATH` or
    /// `unix:///PATH`; without one, to that in `EMBERCACHE_ADDRESS`, else to `127.0.0.1:50551`.
    /// Nothing is connected before the first call.
    ///
    /// # Errors
    ///
    /// If the address is none of these, or a file that the environment names cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect(address: Option<&str>) -> Result<Self, ConfigError> {
        Self::connect_with(address, Files::default())
    }

    /// Connects as [`connect`](Self::connect) does, with a token or certificates.
    ///
    /// # Errors
    ///
    /// If the address is none, or a file cannot be read, makes no sense or is not for that address.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect_with(address: Option<&str>, files: Files) -> Result<Self, ConfigError> {
        let environment = env::var(address::VARIABLE).ok();
        let place = address::place(address, environment.as_deref())?;
        let files = files.or_of(|name| env::var_os(name));
        let token = files.token(&place)?;
        let endpoint = files.endpoint(place)?.connect_timeout(CONNECT_TIMEOUT);
        Ok(Self {
            channel: Channel::new(endpoint.connect_lazy(), token),
        })
    }

    /// The client for vectors.
    #[must_use]
    pub fn embed(&self) -> EmbedServiceClient<Channel> {
        EmbedServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The client for documents.
    #[must_use]
    pub fn search(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The client for texts from language models.
    #[must_use]
    pub fn generate(&self) -> GenerateServiceClient<Channel> {
        GenerateServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The client for the administration of the cache.
    #[must_use]
    pub fn cache(&self) -> CacheServiceClient<Channel> {
        CacheServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}
