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

/// Demands a certificate that an authority has signed whose own has not ended.
///
/// rustls would take an authority's certificate for as long as it is in the file.
#[derive(Debug)]
pub(super) struct Authorities {
    certificates: RootCertStore,
    /// Of each certificate.
    validities: Vec<Validity>,
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Authorities {
    /// Says which of the certificates cannot be used, if one cannot.
    pub(super) fn new(
        certificates: &[CertificateDer<'_>],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        let mut validities = Vec::new();
        for (number, certificate) in (1..).zip(certificates) {
            let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| {
                format!("certificate {number} of the authorities of callers is not one of X.509")
            })?;
            validities.push(parsed.validity.clone());
            store.add(certificate.clone()).map_err(|error| {
                format!(
                    "certificate {number} of the authorities of callers cannot be used: {error}"
                )
            })?;
        }
        Ok(Self {
            subjects: store.subjects(),
            certificates: store,
            validities,
            provider,
        })
    }

    fn in_force(&self, now: UnixTime) -> RootCertStore {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let all = self.certificates.roots.iter().zip(&self.validities);
        let in_force = all.filter(|(_, validity)| {
            validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp()
        });
        in_force.map(|(anchor, _)| anchor.clone()).collect()
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
        let in_force = Arc::new(self.in_force(now));
        // There is none to ask if no authority is in force.
        WebPkiClientVerifier::builder_with_provider(in_force, self.provider.clone())
            .build()
            .map_err(|_| CertificateError::UnknownIssuer)?
            .verify_client_cert(end_entity, intermediates, now)
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
