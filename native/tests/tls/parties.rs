//! Authorities, certificates, and clients who connect in memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use embercache_native::tls::Tls;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Connected;
use tokio_rustls::server::TlsStream as Accepted;

const HANG_GUARD: Duration = Duration::from_secs(30);
const PIPE_BYTES: usize = 1 << 16;
pub const HOST: &str = "localhost";

pub type Pair<T> = (io::Result<T>, io::Result<Connected<DuplexStream>>);
pub type Named = (Accepted<DuplexStream>, Vec<String>);

/// Issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What callers send after a certificate that it has issued.
    chain: String,
}

/// A certificate with its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(for_issuer(name, change), key).unwrap(),
            chain: String::new(),
        }
    }

    /// Somebody for whom this one vouches.
    pub fn between(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = for_issuer("between", change);
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        let chain = issuer.pem();
        Self { issuer, chain }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.issue_for(&KeyPair::generate().unwrap(), change)
    }

    pub fn issue_for(
        &self,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = named("a common name");
        change(&mut params);
        Identity {
            certificate: params.signed_by(key, &self.issuer).unwrap().pem() + &self.chain,
            key: key.serialize_pem(),
        }
    }

    pub fn server(&self) -> Identity {
        self.issue(|params| params.subject_alt_names = vec![dns(HOST)])
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn for_issuer(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    params
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

pub fn serving(server: &Identity, client_ca: Option<&str>) -> Tls {
    let tls = Tls::default();
    show(&tls, server, client_ca);
    tls
}

pub fn show(tls: &Tls, server: &Identity, client_ca: Option<&str>) {
    let (certificate, key) = (server.certificate.as_bytes(), server.key.as_bytes());
    tls.set(certificate, key, client_ca.map(str::as_bytes))
        .unwrap();
}

/// How a client connects.
pub struct Client {
    pub config: ClientConfig,
}

impl Client {
    pub fn new(authority: &Authority, identity: Option<&Identity>) -> Self {
        Self::of(authority, identity, rustls::ALL_VERSIONS)
    }

    pub fn of(
        authority: &Authority,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config }
    }

    pub async fn connect(&self, tls: &Tls) -> Pair<Named> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let host = ServerName::try_from(HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let both = async { tokio::join!(tls.accept(far), connector.connect(host, near)) };
        tokio::time::timeout(HANG_GUARD, both).await.unwrap()
    }

    /// The names that the server sees, or why it refuses.
    pub async fn names(&self, tls: &Tls) -> Result<Vec<String>, String> {
        let (accepted, _) = self.connect(tls).await;
        accepted
            .map(|(_, names)| names)
            .map_err(|error| error.to_string())
    }
}

pub async fn talk(server: &mut Accepted<DuplexStream>, client: &mut Connected<DuplexStream>) {
    let mut heard = [0; 4];
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

pub fn certificate_shown(client: &Connected<DuplexStream>) -> Vec<u8> {
    let (_, session) = client.get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}

pub fn der(identity: &Identity) -> Vec<u8> {
    let found = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    found.unwrap().to_vec()
}
