//! What listeners show, and what they can be given.

use embercache_native::tls::Tls;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::parties::{
    Authority, Client, HOST, Identity, certificate_shown, der, dns, serving, show, talk,
};

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
                Some(HandshakeKind::Full)
            );
        }
    }
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
