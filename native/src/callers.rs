//! Who calls, by token, certificate or socket, as far as a stored answer needs to know.
//!
//! The rules are those of `sidecar/transport/admission.py`, which has the last word: whoever is
//! unknown here is handed over, and refused there with a message.

use std::collections::HashMap;

use blake2b_simd::Params;
use data_encoding::BASE64_NOPAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

/// How many bytes the digest of a token has.
pub const DIGEST_BYTES: usize = 32;
const SCOPE_BYTES: usize = 16;
const PEER: HeaderName = HeaderName::from_static("embercache-peer");
const SECRET: HeaderName = HeaderName::from_static("embercache-front");
const CERTIFICATE: HeaderName = HeaderName::from_static("embercache-certificate-bin");

/// Tells apart callers to whom one request may mean something else.
pub type Scope = [u8; SCOPE_BYTES];

/// As whom somebody asks for stored answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Callers are not told apart.
    Anyone,
    /// A caller who may read.
    Known(Scope),
    /// Nobody to whom a stored answer may be given.
    Unknown,
}

/// The callers who may have stored answers, and how they are known.
pub struct Callers(Option<Table>);

struct Table {
    tokens: HashMap<[u8; DIGEST_BYTES], Scope>,
    certificates: HashMap<String, Option<Scope>>,
    on_socket: Option<Scope>,
}

impl Callers {
    /// Nobody is told apart.
    pub fn open() -> Self {
        Self(None)
    }

    /// Only those are known: by the BLAKE2b of their token, a name of their certificate, or as who
    /// shows neither on the Unix socket.
    ///
    /// A name without a scope is that of somebody who may not read. He has to be here too: the
    /// first name of a certificate that is known says who it is, not the first that may read.
    pub fn new(
        tokens: HashMap<[u8; DIGEST_BYTES], Scope>,
        certificates: HashMap<String, Option<Scope>>,
        on_socket: Option<Scope>,
    ) -> Self {
        Self(Some(Table {
            tokens,
            certificates,
            on_socket,
        }))
    }

    /// Who makes a call with these headers. A token wins over a certificate, and that over the
    /// socket.
    pub fn who(&self, headers: &HeaderMap, peer: &Peer) -> Who {
        let Some(table) = &self.0 else {
            return Who::Anyone;
        };
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let scope = match (shown.next(), shown.next()) {
            (None, _) => table.without_token(peer),
            (Some(value), None) => token(value).and_then(|token| table.with_token(token)),
            (Some(_), Some(_)) => None,
        };
        scope.map_or(Who::Unknown, Who::Known)
    }
}

impl Table {
    fn with_token(&self, token: &[u8]) -> Option<Scope> {
        let hash = Params::new().hash_length(DIGEST_BYTES).hash(token);
        let digest: &[u8; DIGEST_BYTES] = hash.as_bytes().first_chunk()?;
        self.tokens.get(digest).copied()
    }

    fn without_token(&self, peer: &Peer) -> Option<Scope> {
        match peer
            .names
            .iter()
            .find_map(|name| self.certificates.get(name))
        {
            Some(scope) => *scope,
            None if peer.is_unix => self.on_socket,
            None => None,
        }
    }
}

/// The token of ``Bearer TOKEN``, if that is what it is.
fn token(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let first = rest.iter().position(|byte| *byte != b' ')?;
    let last = rest.iter().rposition(|byte| *byte != b' ')?;
    scheme
        .eq_ignore_ascii_case(b"bearer")
        .then_some(&rest[first..=last])
}

/// What is known of the other side of a connection, whatever it says in its calls.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whether it is connected over the Unix socket.
    pub is_unix: bool,
    /// The names of its certificate, which was checked.
    pub names: Vec<String>,
    certificate: Option<HeaderValue>,
}

impl Peer {
    /// Somebody on TCP, without a certificate.
    pub fn tcp() -> Self {
        Self::tls(Vec::new())
    }

    /// Somebody on the Unix socket.
    pub fn unix() -> Self {
        Self {
            is_unix: true,
            ..Self::tcp()
        }
    }

    /// Somebody with a certificate of these names, none of which has a NUL in it.
    pub fn tls(names: Vec<String>) -> Self {
        // On the wire, the values of metadata whose names end in -bin are in base64.
        let encoded = BASE64_NOPAD.encode(names.join("\0").as_bytes());
        let certificate = HeaderValue::try_from(encoded).ok();
        Self {
            is_unix: false,
            certificate: certificate.filter(|_| !names.is_empty()),
            names,
        }
    }

    /// Tells the server behind who it is, and by the secret that it is so; nothing is left of what the
    /// caller said of that.
    pub fn mark(&self, headers: &mut HeaderMap, secret: &HeaderValue) {
        headers.remove(PEER);
        headers.remove(CERTIFICATE);
        headers.remove(SECRET);
        let _ = headers.try_insert(SECRET, secret.clone());
        let kind = HeaderValue::from_static(if self.is_unix { "unix" } else { "tcp" });
        // Where there is no room for one more, the caller is not known.
        let _ = headers.try_insert(PEER, kind);
        if let Some(certificate) = &self.certificate {
            let _ = headers.try_insert(CERTIFICATE, certificate.clone());
        }
    }
}
