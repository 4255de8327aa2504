//! The names of a certificate.

use x509_parser::asn1_rs::Tag;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::nom;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate};

const DNS: Tag = Tag(2);
const URI: Tag = Tag(6);

/// The URIs of a certificate, then its DNS names; if it has neither, its first common name.
///
/// These are the names that gRPC tells of. Names with a NUL are left out: nobody is to be known by
/// part of one.
pub(super) fn names_of(certificate: &[u8]) -> Result<Vec<String>, nom::Err<X509Error>> {
    let (_, certificate) = X509Certificate::from_der(certificate)?;
    let mut names = alternatives(&certificate).map_err(nom::Err::Failure)?;
    if names.is_empty() {
        let mut common = certificate.subject().iter_common_name();
        names.extend(common.next().and_then(text));
    }
    names.retain(|name| !name.is_empty() && !name.contains('\0'));
    Ok(names)
}

/// The URIs of a certificate, then its DNS names.
pub(super) fn alternatives(certificate: &X509Certificate<'_>) -> Result<Vec<String>, X509Error> {
    let found = certificate.subject_alternative_name()?;
    let mut uris = Vec::new();
    let mut hosts = Vec::new();
    for name in found.iter().flat_map(|all| &all.value.general_names) {
        match name {
            GeneralName::URI(text) => uris.push((*text).to_owned()),
            GeneralName::DNSName(text) => hosts.push((*text).to_owned()),
            GeneralName::Invalid(URI, text) => uris.push(latin(text)),
            GeneralName::Invalid(DNS, text) => hosts.push(latin(text)),
            _ => {}
        }
    }
    uris.append(&mut hosts);
    Ok(uris)
}

/// A common name, in one of the encodings that there are for it.
fn text(name: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = name.attr_value();
    match value.tag() {
        Tag::BmpString => {
            let units = value.data.chunks(2).map(|pair| match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                _ => 0,
            });
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        Tag::T61String => Some(latin(value.data)),
        _ => name.as_str().ok().map(ToOwned::to_owned),
    }
}

/// What gRPC makes of names that should be ASCII, and are not.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
