//! Who signs the certificates of callers.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, Validity, X509Certificate};

use super::names::alternatives;

/// Demands a certificate that an authority has signed, or somebody for whom it vouches.
///
/// rustls looks neither at when an authority's own certificate ends, nor at what the keys of issuers
/// are for; and constraints on names say nothing of common names. So, as with gRPC, who is not to
/// vouch for a caller is left out before rustls looks for a chain.
#[derive(Debug)]
pub(super) struct Authorities {
    certificates: RootCertStore,
    /// Of each certificate.
    limits: Vec<Limits>,
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

/// When and for whom somebody vouches.
#[derive(Debug)]
struct Limits {
    validity: Validity,
    may_sign: bool,
    is_constrained: bool,
}

impl Limits {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            validity: certificate.validity.clone(),
            may_sign: certificate
                .key_usage()
                .is_ok_and(|found| found.is_none_or(|usage| usage.value.key_cert_sign())),
            is_constrained: !matches!(certificate.name_constraints(), Ok(None)),
        }
    }

    fn allow(&self, now: i64, has_alternatives: bool) -> bool {
        self.validity.not_before.timestamp() <= now
            && now <= self.validity.not_after.timestamp()
            && self.may_sign
            && (has_alternatives || !self.is_constrained)
    }
}

impl Authorities {
    /// Says which of the certificates cannot be used, if one cannot.
    pub(super) fn new(
        certificates: &[CertificateDer<'_>],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        let mut limits = Vec::new();
        for (number, certificate) in (1..).zip(certificates) {
            let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| {
                format!("certificate {number} of the authorities of callers is not one of X.509")
            })?;
            limits.push(Limits::of(&parsed));
            store.add(certificate.clone()).map_err(|error| {
                format!(
                    "certificate {number} of the authorities of callers cannot be used: {error}"
                )
            })?;
        }
        Ok(Self {
            subjects: store.subjects(),
            certificates: store,
            limits,
            provider,
        })
    }
}

impl ClientCertVerifier for Authorities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let (_, shown) =
            X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let names = alternatives(&shown).map_err(|_| CertificateError::BadEncoding)?;
        let allow = |limits: &Limits| limits.allow(seconds, !names.is_empty());
        let roots = self.certificates.roots.iter().zip(&self.limits);
        let roots = roots.filter(|(_, limits)| allow(limits));
        let roots: RootCertStore = roots.map(|(anchor, _)| anchor.clone()).collect();
        let between: Vec<_> = intermediates
            .iter()
            .filter(|each| {
                X509Certificate::from_der(each).is_ok_and(|(_, each)| allow(&Limits::of(&each)))
            })
            .cloned()
            .collect();
        // There is none to ask if no authority is left.
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| CertificateError::UnknownIssuer)?
            .verify_client_cert(end_entity, &between, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
