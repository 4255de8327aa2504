//! Who calls: the same as `identify` in `sidecar/transport/admission.py` says.

use std::collections::HashMap;

use blake2b_simd::Params;
use data_encoding::BASE64_NOPAD;
use embercache_native::callers::{Callers, DIGEST_BYTES, Peer, Scope, Who};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use proptest::prelude::*;

const SHOP: Scope = [1; 16];
const PLATFORM: Scope = [2; 16];
const LOCAL: Scope = [3; 16];

fn digest(token: &str) -> [u8; DIGEST_BYTES] {
    let hash = Params::new()
        .hash_length(DIGEST_BYTES)
        .hash(token.as_bytes());
    *hash.as_bytes().first_chunk().unwrap()
}

/// Has a token, a certificate, and a certificate that may not read, beside one for the socket.
fn callers() -> Callers {
    Callers::new(
        HashMap::from([(digest("the-token-of-the-shop"), SHOP)]),
        HashMap::from([
            ("web.example".to_owned(), Some(PLATFORM)),
            ("writer.example".to_owned(), None),
        ]),
        Some(LOCAL),
    )
}

fn with(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn certificate(names: &[&str]) -> Peer {
    Peer::tls(names.iter().map(ToString::to_string).collect())
}

#[test]
fn nobody_is_told_apart_until_callers_are_given() {
    let shown = with(&["Bearer no-token-of-anybody"]);
    assert_eq!(Callers::open().who(&shown, &Peer::tcp()), Who::Anyone);
}

#[test]
fn the_scheme_of_a_token_may_be_of_any_case_and_spaces_do_not_matter() {
    for value in [
        "Bearer the-token-of-the-shop",
        "bEARER   the-token-of-the-shop ",
    ] {
        assert_eq!(
            callers().who(&with(&[value]), &Peer::tcp()),
            Who::Known(SHOP)
        );
    }
}

#[test]
fn whoever_shows_an_odd_or_unknown_token_is_unknown_whatever_else_he_shows() {
    let token = "Bearer the-token-of-the-shop";
    for values in [
        &[token, token][..],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &["Basic the-token-of-the-shop"],
        &["the-token-of-the-shop"],
        &[" Bearer the-token-of-the-shop"],
        &["Bearer\tthe-token-of-the-shop"],
        &["Bearer the-token-of-the-sho"],
        &["Bearer the-token-of-the-shop,Bearer the-token-of-the-shop"],
    ] {
        for peer in [Peer::unix(), certificate(&["web.example"])] {
            assert_eq!(
                callers().who(&with(values), &peer),
                Who::Unknown,
                "{values:?}"
            );
        }
    }
}

#[test]
fn the_first_name_of_a_certificate_that_is_known_says_who_it_is_even_if_he_may_not_read() {
    let who = |names: &[&str]| callers().who(&HeaderMap::new(), &certificate(names));
    assert_eq!(who(&["other.example", "web.example"]), Who::Known(PLATFORM));
    assert_eq!(who(&["writer.example", "web.example"]), Who::Unknown);
    assert_eq!(who(&["other.example"]), Who::Unknown);
    assert_eq!(who(&[]), Who::Unknown);
}

#[test]
fn whoever_shows_nothing_is_known_on_the_socket_only() {
    let who = |peer: &Peer| callers().who(&HeaderMap::new(), peer);
    assert_eq!(who(&Peer::unix()), Who::Known(LOCAL));
    assert_eq!(who(&Peer::tcp()), Who::Unknown);
}

fn secret() -> HeaderValue {
    HeaderValue::from_static("a secret")
}

#[test]
fn marks_replace_all_that_the_caller_said_of_himself() {
    let marks = |peer: &Peer| {
        let mut headers = HeaderMap::new();
        for forged in ["unix", "tcp"] {
            headers.append("embercache-peer", HeaderValue::from_static(forged));
            headers.append("embercache-front", HeaderValue::from_static(forged));
            headers.append(
                "embercache-certificate-bin",
                HeaderValue::from_static(forged),
            );
        }
        headers.append("other", HeaderValue::from_static("stays"));
        peer.mark(&mut headers, &secret());
        assert_eq!(headers.get("other").unwrap(), "stays");
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .map(|each| each.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(all("embercache-front"), ["a secret"]);
        (all("embercache-peer"), all("embercache-certificate-bin"))
    };
    assert_eq!(marks(&Peer::unix()), (vec!["unix".to_owned()], vec![]));
    assert_eq!(marks(&Peer::tcp()), (vec!["tcp".to_owned()], vec![]));
    let (peer, names) = marks(&certificate(&["spiffe://a/b", "ä.example"]));
    assert_eq!(peer, ["tcp"]);
    assert_eq!(names.len(), 1);
    let decoded = BASE64_NOPAD.decode(names[0].as_bytes()).unwrap();
    assert_eq!(decoded, "spiffe://a/b\0ä.example".as_bytes());
}

#[test]
fn a_map_without_room_for_marks_loses_those_of_the_caller_all_the_same() {
    let mut headers = HeaderMap::new();
    headers.insert("embercache-peer", HeaderValue::from_static("unix"));
    for number in 0.. {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        if headers
            .try_insert(name, HeaderValue::from_static(""))
            .is_err()
        {
            break;
        }
    }
    Peer::tcp().mark(&mut headers, &secret());
    assert_ne!(
        headers.get("embercache-peer"),
        Some(&HeaderValue::from_static("unix"))
    );
}

/// `identify` of Python, line by line; what it raises is None.
struct Model {
    tokens: Vec<(String, Scope, bool)>,
    certificates: Vec<(String, Scope, bool)>,
    on_socket: Option<(Scope, bool)>,
}

impl Model {
    fn identify(&self, values: &[String], peer: &Peer) -> Option<(Scope, bool)> {
        let found = |table: &[(String, Scope, bool)], name: &str| {
            let mut rows = table.iter().filter(|(known, ..)| known == name);
            rows.next().map(|(_, scope, reads)| (*scope, *reads))
        };
        if !values.is_empty() {
            let (scheme, token) = values[0].split_once(' ').unwrap_or((&values[0], ""));
            let token = token.trim_matches(' ');
            if values.len() > 1 || scheme.to_lowercase() != "bearer" || token.is_empty() {
                return None;
            }
            return found(&self.tokens, token);
        }
        for name in &peer.names {
            if let Some(who) = found(&self.certificates, name) {
                return Some(who);
            }
        }
        if peer.is_unix { self.on_socket } else { None }
    }

    fn who(&self, values: &[String], peer: &Peer) -> Who {
        match self.identify(values, peer) {
            Some((scope, true)) => Who::Known(scope),
            _ => Who::Unknown,
        }
    }

    /// As Python gives them to the front door.
    fn callers(&self) -> Callers {
        let read = |(scope, reads): (Scope, bool)| reads.then_some(scope);
        let mut tokens = HashMap::new();
        let mut certificates = HashMap::new();
        for (token, scope, reads) in self.tokens.iter().rev() {
            tokens.remove(&digest(token));
            if *reads {
                tokens.insert(digest(token), *scope);
            }
        }
        for (name, scope, reads) in self.certificates.iter().rev() {
            certificates.insert(name.clone(), read((*scope, *reads)));
        }
        Callers::new(tokens, certificates, self.on_socket.and_then(read))
    }
}

fn rows(names: &'static str) -> impl Strategy<Value = Vec<(String, Scope, bool)>> {
    prop::collection::vec((names, any::<Scope>(), any::<bool>()), 0..4)
}

fn authorization() -> impl Strategy<Value = String> {
    let scheme = "(Bearer|bearer|BEARER|Basic|Bea|)";
    prop_oneof![
        4 => (scheme, "[ ]{0,2}", "[xy]{0,2}", "[ ,\t]{0,1}")
            .prop_map(|(scheme, space, token, end)| scheme + &space + &token + &end),
        1 => "[ -~]{0,12}",
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        Just(Peer::unix()),
        prop::collection::vec("[ab]{1,2}", 0..4).prop_map(Peer::tls),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn callers_are_told_apart_as_python_does(
        tokens in rows("[xy]{1,2}"),
        certificates in rows("[ab]{1,2}"),
        on_socket in any::<Option<(Scope, bool)>>(),
        values in prop::collection::vec(authorization(), 0..3),
        peer in peer(),
    ) {
        let model = Model { tokens, certificates, on_socket };
        let shown: Vec<&str> = values.iter().map(String::as_str).collect();
        prop_assert_eq!(model.callers().who(&with(&shown), &peer), model.who(&values, &peer));
    }
}
