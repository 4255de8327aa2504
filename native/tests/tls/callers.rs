//! Whose certificates are good, and which names they have.

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, GeneralSubtree,
    KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};
use rustls::version::{TLS12, TLS13};

use super::parties::{Authority, Client, Identity, dns, serving, show, uri};

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
        DnValue::Ia5String(Ia5String::try_from("a person").unwrap()),
        DnValue::PrintableString(PrintableString::try_from("a person").unwrap()),
    ] {
        let caller = authority.issue(|params| {
            params.distinguished_name = DistinguishedName::new();
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
