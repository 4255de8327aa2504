//! TLS of the listeners, with real handshakes in memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use embercache_native::tls::Tls;
use rcgen::string::{BmpString, Ia5String, TeletexString};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, SanType, date_time_ymd,
};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Connected;
use tokio_rustls::server::TlsStream as Accepted;

const HANG_GUARD: Duration = Duration::from_secs(30);
const PIPE_BYTES: usize = 1 << 16;
const HOST: &str = "localhost";

type Pair<T> = (io::Result<T>, io::Result<Connected<DuplexStream>>);
type Named = (Accepted<DuplexStream>, Vec<String>);

/// Issues certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What callers send after a certificate that it has issued.
    chain: String,
}

/// A certificate with its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(for_issuer(name, change), key).unwrap(),
            chain: String::new(),
        }
    }

    /// Somebody for whom this one vouches.
    fn between(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = for_issuer("between", change);
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        let chain = issuer.pem();
        Self { issuer, chain }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.issue_for(&KeyPair::generate().unwrap(), change)
    }

    fn issue_for(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = named("a common name");
        change(&mut params);
        Identity {
            certificate: params.signed_by(key, &self.issuer).unwrap().pem() + &self.chain,
            key: key.serialize_pem(),
        }
    }

    fn server(&self) -> Identity {
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

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

fn serving(server: &Identity, client_ca: Option<&str>) -> Tls {
    let tls = Tls::default();
    show(&tls, server, client_ca);
    tls
}

fn show(tls: &Tls, server: &Identity, client_ca: Option<&str>) {
    let (certificate, key) = (server.certificate.as_bytes(), server.key.as_bytes());
    tls.set(certificate, key, client_ca.map(str::as_bytes))
        .unwrap();
}

/// How a client connects.
struct Client {
    config: ClientConfig,
}

impl Client {
    fn new(authority: &Authority, identity: Option<&Identity>) -> Self {
        Self::of(authority, identity, rustls::ALL_VERSIONS)
    }

    fn of(
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

    async fn connect(&self, tls: &Tls) -> Pair<Named> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let host = ServerName::try_from(HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let both = async { tokio::join!(tls.accept(far), connector.connect(host, near)) };
        tokio::time::timeout(HANG_GUARD, both).await.unwrap()
    }

    /// The names that the server sees, or why it refuses.
    async fn names(&self, tls: &Tls) -> Result<Vec<String>, String> {
        let (accepted, _) = self.connect(tls).await;
        accepted
            .map(|(_, names)| names)
            .map_err(|error| error.to_string())
    }
}

async fn talk(server: &mut Accepted<DuplexStream>, client: &mut Connected<DuplexStream>) {
    let mut heard = [0; 4];
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

fn certificate_shown(client: &Connected<DuplexStream>) -> Vec<u8> {
    let (_, session) = client.get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}

fn der(identity: &Identity) -> Vec<u8> {
    let found = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    found.unwrap().to_vec()
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_with_http_2_and_nobody_is_asked_for_a_name() {
    let authority = Authority::new("one");
    let tls = serving(&authority.server(), None);
    for version in [&TLS12, &TLS13] {
        let client = Client::of(&authority, None, &[version]);
        let (accepted, connected) = client.connect(&tls).await;
        let ((mut server, names), mut client) = (accepted.unwrap(), connected.unwrap());
        assert!(names.is_empty());
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
        talk(&mut server, &mut client).await;
    }
}

#[tokio::test]
async fn whoever_does_not_say_that_he_speaks_http_2_is_refused() {
    let authority = Authority::new("one");
    let tls = serving(&authority.server(), None);
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut client = Client::new(&authority, None);
        client.config.alpn_protocols = protocols;
        assert!(client.names(&tls).await.is_err());
    }
}

#[tokio::test]
async fn nobody_is_let_in_before_a_certificate_was_set() {
    let authority = Authority::new("one");
    let refused = Client::new(&authority, None).names(&Tls::default()).await;
    assert_eq!(refused.unwrap_err(), "no certificate was set");
}

#[tokio::test]
async fn new_handshakes_get_a_new_certificate_and_open_connections_stay() {
    let authority = Authority::new("one");
    let (first, second) = (authority.server(), authority.server());
    let tls = serving(&first, None);
    let client = Client::new(&authority, None);
    let (before, connected) = client.connect(&tls).await;
    let ((mut server, _), mut open) = (before.unwrap(), connected.unwrap());
    assert_eq!(certificate_shown(&open), der(&first));

    show(&tls, &second, None);
    let (_, connected) = client.connect(&tls).await;
    assert_eq!(certificate_shown(&connected.unwrap()), der(&second));
    talk(&mut server, &mut open).await;
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let authority = Authority::new("one");
    let (first, second) = (authority.server(), authority.server());
    let tls = serving(&first, None);
    let wrong = tls.set(second.certificate.as_bytes(), first.key.as_bytes(), None);
    assert!(wrong.is_err());
    let (_, connected) = Client::new(&authority, None).connect(&tls).await;
    assert_eq!(certificate_shown(&connected.unwrap()), der(&first));
}

#[tokio::test]
async fn callers_have_to_show_a_certificate_in_force_of_an_authority_that_is_known() {
    let (authority, stranger) = (Authority::new("one"), Authority::new("two"));
    let tls = serving(&authority.server(), Some(&authority.pem()));
    let late = authority.issue(|params| params.not_after = date_time_ymd(2001, 1, 1));
    let early = authority.issue(|params| params.not_before = date_time_ymd(4001, 1, 1));
    let for_servers = authority
        .issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    for version in [&TLS12, &TLS13] {
        for (identity, says) in [
            (None, "no certificates"),
            (Some(&stranger.issue(|_| ())), "UnknownIssuer"),
            (Some(&late), "expired"),
            (Some(&early), "not valid yet"),
            (Some(&for_servers), "key usage"),
        ] {
            let client = Client::of(&authority, identity, &[version]);
            let refused = client.names(&tls).await.unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let good = Client::of(&authority, Some(&authority.issue(|_| ())), &[version]);
        assert_eq!(good.names(&tls).await.unwrap(), ["a common name"]);
    }
}

#[tokio::test]
async fn authorities_whose_own_certificate_is_not_in_force_vouch_for_nobody() {
    let authority = Authority::new("one");
    let late = Authority::with("late", |params| {
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let caller = late.issue(|_| ());
    let client = Client::new(&authority, Some(&caller));
    for known in [late.pem(), late.pem() + &authority.pem()] {
        let tls = serving(&authority.server(), Some(&known));
        let refused = client.names(&tls).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
    }
    let known = late.pem() + &authority.pem();
    let tls = serving(&authority.server(), Some(&known));
    let good = Client::new(&authority, Some(&authority.issue(|_| ())));
    assert!(good.names(&tls).await.is_ok());
}

#[tokio::test]
async fn issuers_whose_key_is_for_something_else_vouch_for_nobody() {
    let authority = Authority::new("one");
    let not_to_sign = |params: &mut CertificateParams| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    };
    let root = Authority::with("root", not_to_sign);
    let client = Client::new(&authority, Some(&root.issue(|_| ())));
    let tls = serving(&authority.server(), Some(&root.pem()));
    assert!(client.names(&tls).await.is_err());

    let tls = serving(&authority.server(), Some(&authority.pem()));
    for (change, is_let_in) in [(not_to_sign as fn(&mut _), false), (|_| (), true)] {
        let caller = authority.between(change).issue(|_| ());
        let client = Client::new(&authority, Some(&caller));
        assert_eq!(client.names(&tls).await.is_ok(), is_let_in);
    }
}

#[tokio::test]
async fn issuers_with_constraints_on_names_do_not_vouch_for_common_names() {
    let authority = Authority::new("one");
    let constrained = |params: &mut CertificateParams| {
        let within = GeneralSubtree::DnsName("in.example".to_owned());
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![within],
            excluded_subtrees: vec![],
        });
    };
    let server = authority.server();
    let root = Authority::with("root", constrained);
    let known = root.pem() + &authority.pem();
    let tls = serving(&server, Some(&known));
    for issuer in [&root, &authority.between(constrained)] {
        for (alternatives, is_let_in) in [
            (vec![dns("a.in.example")], true),
            (vec![dns("a.out.example")], false),
            (vec![], false),
        ] {
            let caller = issuer.issue(|params| params.subject_alt_names = alternatives);
            let client = Client::new(&authority, Some(&caller));
            assert_eq!(client.names(&tls).await.is_ok(), is_let_in);
        }
    }
    let client = Client::new(&authority, Some(&authority.issue(|_| ())));
    assert_eq!(client.names(&tls).await.unwrap(), ["a common name"]);
}

#[tokio::test]
async fn authorities_are_replaced_with_the_certificate() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = old.server();
    let tls = serving(&server, Some(&old.pem()));
    let of_old = Client::new(&old, Some(&old.issue(|_| ())));
    let of_new = Client::new(&old, Some(&new.issue(|_| ())));
    assert!(of_old.names(&tls).await.is_ok() && of_new.names(&tls).await.is_err());
    show(&tls, &server, Some(&(old.pem() + &new.pem())));
    assert!(of_old.names(&tls).await.is_ok() && of_new.names(&tls).await.is_ok());
    show(&tls, &server, Some(&new.pem()));
    assert!(of_old.names(&tls).await.is_err() && of_new.names(&tls).await.is_ok());
}

#[tokio::test]
async fn sessions_are_not_resumed_so_that_each_connection_shows_its_certificate() {
    let authority = Authority::new("one");
    let tls = serving(&authority.server(), Some(&authority.pem()));
    let caller = authority.issue(|_| ());
    for version in [&TLS12, &TLS13] {
        let client = Client::of(&authority, Some(&caller), &[version]);
        for _ in 0..3 {
            let (accepted, connected) = client.connect(&tls).await;
            let ((mut server, _), mut client) = (accepted.unwrap(), connected.unwrap());
            talk(&mut server, &mut client).await;
            assert_eq!(
                server.get_ref().1.handshake_kind(),
                Some(rustls::HandshakeKind::Full)
            );
        }
    }
}

#[tokio::test]
async fn names_are_uris_then_hosts_or_else_the_first_common_name() {
    let authority = Authority::new("one");
    let tls = serving(&authority.server(), Some(&authority.pem()));
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    let mail = SanType::Rfc822Name(Ia5String::try_from("a@b.example").unwrap());
    for (alternatives, names) in [
        (
            vec![dns("b"), uri("spiffe://x/2"), dns("a"), uri("spiffe://x/1")],
            vec!["spiffe://x/2", "spiffe://x/1", "b", "a"],
        ),
        (vec![dns("a.example")], vec!["a.example"]),
        (vec![address.clone(), dns("*.example")], vec!["*.example"]),
        (vec![], vec!["a common name"]),
        (vec![address, mail], vec!["a common name"]),
        // Neither a part of a name, nor what stands behind it, makes anybody known.
        (vec![uri("spiffe://x/1\0spiffe://x/2")], vec![]),
    ] {
        let caller = authority.issue(|params| params.subject_alt_names = alternatives);
        let client = Client::new(&authority, Some(&caller));
        assert_eq!(client.names(&tls).await.unwrap(), names);
    }
    for value in [
        DnValue::BmpString(BmpString::try_from("ä person").unwrap()),
        DnValue::TeletexString(TeletexString::try_from("a person").unwrap()),
        DnValue::Utf8String("ä person".to_owned()),
    ] {
        let caller = authority.issue(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, value);
        });
        let client = Client::new(&authority, Some(&caller));
        let [name] = &client.names(&tls).await.unwrap()[..] else {
            panic!("it has one name");
        };
        assert!(name.ends_with(" person"), "{name}");
    }
    let twice = authority.issue(|params| {
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![2, 5, 4, 3]), "another");
    });
    let client = Client::new(&authority, Some(&twice));
    assert_eq!(client.names(&tls).await.unwrap(), ["a common name"]);
}

#[tokio::test]
async fn callers_may_send_the_chain_to_an_authority_that_is_known() {
    let authority = Authority::new("root");
    let tls = serving(&authority.server(), Some(&authority.pem()));
    let caller = authority.between(|_| ()).issue(|_| ());
    let whole = Client::new(&authority, Some(&caller));
    assert_eq!(whole.names(&tls).await.unwrap(), ["a common name"]);
    let end = caller.certificate.rfind("-----BEGIN").unwrap();
    let cut = Identity {
        certificate: caller.certificate[..end].to_owned(),
        key: caller.key,
    };
    assert!(
        Client::new(&authority, Some(&cut))
            .names(&tls)
            .await
            .is_err()
    );
}

/// The key of PKCS#8 as SEC1, which is what it wraps.
fn sec1(pem: &str) -> String {
    let outer = pem_body(pem);
    // ECPrivateKey begins with SEQUENCE, its length, and the version 1.
    let start = outer.windows(3).position(|at| at == [0x02, 0x01, 0x01]);
    let inner = &outer[start.unwrap() - 2..];
    let encoded = data_encoding::BASE64.encode(inner);
    format!("-----BEGIN EC PRIVATE KEY-----\n{encoded}\n-----END EC PRIVATE KEY-----\n")
}

fn pem_body(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    let text: String = lines.collect();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn keys_of_all_kinds_are_taken_with_whatever_stands_beside_them() {
    let authority = Authority::new("one");
    for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        let server = authority.issue_for(&key, |params| params.subject_alt_names = vec![dns(HOST)]);
        let tls = serving(&server, None);
        assert!(Client::new(&authority, None).names(&tls).await.is_ok());
    }
    let mut server = authority.server();
    server.key = server.certificate.clone() + &sec1(&server.key);
    let tls = serving(&server, None);
    assert!(Client::new(&authority, None).names(&tls).await.is_ok());
}

#[test]
fn what_is_wrong_is_told_and_nothing_of_the_key() {
    let authority = Authority::new("one");
    let Identity { certificate, key } = authority.server();
    let other = authority.server().key;
    let secret = key.lines().nth(1).unwrap();
    let damaged = format!("{secret}!");
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cut = certificate.replace("-----END CERTIFICATE-----", "");
    let empty_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let ca = authority.pem();
    let both = ca.clone() + no_x509;
    let cases = [
        (
            key.as_str(),
            key.as_str(),
            None,
            "there is no certificate in the PEM of the certificate",
        ),
        (
            &key.replace(secret, &damaged),
            &key,
            None,
            "the PEM of the certificate is damaged",
        ),
        (&cut, &key, None, "the PEM of the certificate is damaged"),
        (
            no_x509,
            &key,
            None,
            "the certificate in the PEM is not one of X.509",
        ),
        (
            &certificate,
            &certificate,
            None,
            "there is no private key in the PEM of the key",
        ),
        (
            &certificate,
            &key.replace(secret, &damaged),
            None,
            "there is no private key",
        ),
        (&certificate, secret, None, "there is no private key"),
        (
            &certificate,
            &key.replace("BEGIN PRIVATE", secret),
            None,
            "there is no private key",
        ),
        (&certificate, &locked, None, "without a password"),
        (
            &certificate,
            empty_key,
            None,
            "the private key cannot be used: it has to be RSA",
        ),
        (
            &certificate,
            &other,
            None,
            "the private key does not fit the certificate",
        ),
        (
            &certificate,
            &key,
            Some(""),
            "there is no certificate in the PEM of the authorities",
        ),
        (
            &certificate,
            &key,
            Some(key.as_str()),
            "there is no certificate in the PEM of the auth",
        ),
        (
            &certificate,
            &key,
            Some(&both),
            "certificate 2 of the authorities of callers is not",
        ),
    ];
    for (certificate, key, client_ca, says) in cases {
        let set = Tls::default().set(
            certificate.as_bytes(),
            key.as_bytes(),
            client_ca.map(str::as_bytes),
        );
        let message = set.unwrap_err();
        assert!(message.contains(says), "{message}, not {says}");
        assert!(!message.contains(&secret[..8]), "{message}");
    }
}
