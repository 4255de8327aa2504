//! TLS of the listeners: certificates that are replaced while they serve, names of callers.

mod authorities;
mod names;

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use authorities::Authorities;
use names::names_of;

const ALPN: &[u8] = b"h2";

/// What listeners show and ask for in handshakes. Each handshake gets what was set by then;
/// connections that are open keep what they were opened with.
#[derive(Default)]
pub struct Tls(RwLock<Option<Arc<ServerConfig>>>);

impl Tls {
    /// Shows that certificate with its chain, and asks for a certificate that one of the
    /// authorities ``client_ca`` has signed, if there are any. All are in PEM.
    ///
    /// Says what is wrong with them, without a word of the key; then nothing changes.
    pub fn set(
        &self,
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> Result<(), String> {
        // TLS 1.2 and 1.3 with ciphers that have forward secrecy: it knows no others.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = certified_key(certificate, key, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| error.to_string())?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_cert_verifier(Arc::new(Authorities::new(
                &certificates(pem, "the authorities of callers")?,
                provider,
            )?)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Who resumes a session is not asked for a certificate again; and connections of gRPC are
        // made so seldom that nobody misses it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        *self.0.write() = Some(Arc::new(config));
        Ok(())
    }

    /// Makes the handshake, and says which names the other side's certificate has: URIs, then DNS
    /// names, or else its common name. There are none where no certificate is asked for.
    ///
    /// Fails like the handshake; and with `InvalidData` for whoever does not speak HTTP/2, as
    /// gRPC does, or whose certificate has names that cannot be read.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Vec<String>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.0.read().clone();
        let config = config.ok_or_else(|| io::Error::other("no certificate was set"))?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(invalid("HTTP/2 was not agreed upon"));
        }
        let names = match session.peer_certificates() {
            Some([certificate, ..]) => names_of(certificate)
                .map_err(|_| invalid("the names of the certificate cannot be read"))?,
            _ => Vec::new(),
        };
        Ok((stream, names))
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A certificate with its chain and its key. Only whether they belong together is looked at: what
/// else there is to say of a certificate is for those who are shown it.
fn certified_key(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = certificates(certificate, "the certificate")?;
    let (_, first) = X509Certificate::from_der(&chain[0])
        .map_err(|_| "the certificate in the PEM is not one of X.509".to_owned())?;
    // The errors of both are not told: they may quote a line of the key.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        "there is no private key in the PEM of the key: it has to be PKCS#8, PKCS#1 or SEC1, \
         without a password"
            .to_owned()
    })?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        "the private key cannot be used: it has to be RSA with 2048 to 4096 bits, ECDSA with \
         P-256 or P-384, or Ed25519"
            .to_owned()
    })?;
    let fits = |public: &[u8]| public == first.tbs_certificate.subject_pki.raw;
    if !key.public_key().is_some_and(|public| fits(&public)) {
        return Err("the private key does not fit the certificate".to_owned());
    }
    Ok(CertifiedKey::new(chain, key))
}

/// The certificates in a PEM, at least one.
fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    // The error is not told: there may be a key in the same file.
    let found = found.map_err(|_| format!("the PEM of {what} is damaged"))?;
    if found.is_empty() {
        return Err(format!("there is no certificate in the PEM of {what}"));
    }
    Ok(found)
}
