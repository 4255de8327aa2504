//! What a client shows of itself, and what it believes a sidecar by.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::address::Place;
use crate::error::ConfigError;

const REREAD: Duration = Duration::from_secs(10);

/// The files by which a client and a sidecar know each other. One that is `None` is the one that
/// the environment names: `EMBERCACHE_TOKEN_FILE`, `EMBERCACHE_CA_FILE`, `EMBERCACHE_CERT_FILE` and
/// `EMBERCACHE_KEY_FILE`.
///
/// Certificates are in PEM, and for addresses like `tls://HOST:PORT`. They are read once: a
/// connection that lives longer than its certificate has to be made anew.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// A token, which every call carries; it is read again when it is older than ten seconds. It is
    /// not sent to other machines without TLS.
    pub token: Option<PathBuf>,
    /// The authorities that the sidecar's certificate may be of, in place of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the sidecar.
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
}

impl Files {
    pub(crate) fn or_of(self, environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let or = |file: Option<PathBuf>, name: &str| {
            file.or_else(|| environment(name).map(PathBuf::from))
                .filter(|it| !it.as_os_str().is_empty())
        };
        Self {
            token: or(self.token, "EMBERCACHE_TOKEN_FILE"),
            ca: or(self.ca, "EMBERCACHE_CA_FILE"),
            cert: or(self.cert, "EMBERCACHE_CERT_FILE"),
            key: or(self.key, "EMBERCACHE_KEY_FILE"),
        }
    }

    /// What calls to that place carry.
    pub(crate) fn token(&self, place: &Place) -> Result<Option<Token>, ConfigError> {
        if self.token.is_some() && !place.is_private {
            return Err(ConfigError(
                "a token must not cross a network unencrypted: write tls://HOST:PORT, or leave the \
                 token file out"
                    .to_owned(),
            ));
        }
        self.token.as_deref().map(Token::read).transpose()
    }

    /// How that place is connected to.
    pub(crate) fn endpoint(&self, place: Place) -> Result<Endpoint, ConfigError> {
        if self.cert.is_some() != self.key.is_some() {
            let message = "give a certificate file and a key file, or neither";
            return Err(ConfigError(message.to_owned()));
        }
        if !place.is_encrypted {
            if self.ca.is_some() || self.cert.is_some() {
                let message = "certificates are for an address like tls://HOST:PORT";
                return Err(ConfigError(message.to_owned()));
            }
            return Ok(place.endpoint);
        }
        let mut tls = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(authorities(ca)?),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let cert = read(cert, "certificate file")?;
            tls = tls.identity(Identity::from_pem(cert, read(key, "key file")?));
        }
        place.endpoint.tls_config(tls).map_err(|error| {
            let reason = error.source().map(ToString::to_string);
            let reason = reason.unwrap_or_else(|| error.to_string());
            ConfigError(format!("the certificates are no use: {reason}"))
        })
    }
}

fn authorities(file: &Path) -> Result<Certificate, ConfigError> {
    let pem = read(file, "CA file")?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        let file = file.display();
        return Err(ConfigError(format!(
            "the CA file {file} holds no certificate in PEM"
        )));
    }
    Ok(Certificate::from_pem(pem))
}

/// The token in a file.
#[derive(Debug)]
pub(crate) struct Token {
    file: PathBuf,
    last: Mutex<(HeaderValue, Instant)>,
}

impl Token {
    fn read(file: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            file: file.to_owned(),
            last: Mutex::new((bearer(file)?, Instant::now())),
        })
    }

    /// What a call carries as `authorization`.
    pub(crate) fn header(&self, now: Instant) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(last.1) > REREAD {
            last.1 = now;
            // While it is being replaced, the token that was read last will do.
            if let Ok(value) = bearer(&self.file) {
                last.0 = value;
            }
        }
        last.0.clone()
    }
}

fn bearer(file: &Path) -> Result<HeaderValue, ConfigError> {
    let content = read(file, "token file")?;
    let content = String::from_utf8_lossy(&content);
    let token = content
        .split_whitespace()
        .next()
        .filter(|it| it.bytes().all(|byte| byte.is_ascii_graphic()));
    let header = token.and_then(|it| HeaderValue::try_from(format!("Bearer {it}")).ok());
    let mut header = header.ok_or_else(|| {
        let file = file.display();
        ConfigError(format!("the token file {file} holds no token"))
    })?;
    header.set_sensitive(true); // it is in no log of whoever prints headers
    Ok(header)
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, ConfigError> {
    fs::read(file).map_err(|error| {
        let file = file.display();
        ConfigError(format!("the {what} {file} cannot be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{place, table};

    const MISSING: &str = "/missing/file";

    /// A file with that content; the name is of one test.
    fn file(name: &str, content: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("embercache-{}-{name}", std::process::id()));
        fs::write(&file, content).unwrap();
        file
    }

    /// The error of connecting to that address with these files.
    fn refusal(address: &str, files: &Files) -> String {
        let place = || place(Some(address), None).unwrap();
        let token = files.token(&place()).err();
        token
            .or_else(|| files.endpoint(place()).err())
            .unwrap()
            .to_string()
    }

    fn token(file: impl Into<PathBuf>) -> Files {
        Files {
            token: Some(file.into()),
            ..Files::default()
        }
    }

    #[test]
    fn the_environment_names_the_files_that_are_not_given() {
        let files = token("given").or_of(|name| match name {
            "EMBERCACHE_CERT_FILE" => Some(OsString::new()),
            _ => Some(OsString::from(name)),
        });
        assert_eq!(files.token, Some(PathBuf::from("given")));
        assert_eq!(files.ca, Some(PathBuf::from("EMBERCACHE_CA_FILE")));
        assert_eq!(files.cert, None);
        assert_eq!(files.key, Some(PathBuf::from("EMBERCACHE_KEY_FILE")));
        let files = Files::default().or_of(|name| Some(OsString::from(name)));
        assert_eq!(files.token, Some(PathBuf::from("EMBERCACHE_TOKEN_FILE")));
        assert_eq!(files.cert, Some(PathBuf::from("EMBERCACHE_CERT_FILE")));
    }

    #[test]
    fn a_token_that_is_replaced_is_shown_within_ten_seconds_and_the_last_one_meanwhile() {
        let path = file("replaced", "first\n");
        let token = Token::read(&path).unwrap();
        let mut now = Instant::now();
        fs::write(&path, "second").unwrap();
        assert_eq!(token.header(now), "Bearer first");
        now += REREAD + Duration::from_secs(1);
        assert_eq!(token.header(now), "Bearer second");
        fs::remove_file(&path).unwrap();
        now += REREAD + Duration::from_secs(1);
        assert_eq!(token.header(now), "Bearer second");
        fs::write(&path, "third").unwrap();
        assert_eq!(token.header(now), "Bearer second");
        now += REREAD + Duration::from_secs(1);
        assert_eq!(token.header(now), "Bearer third");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_token_is_not_printed() {
        let path = file("printed", "of-one-caller");
        let printed = format!("{:?}", Token::read(&path).unwrap());
        assert!(!printed.contains("of-one-caller"), "{printed}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_token_is_sent_where_nobody_else_can_read_it() {
        let files = token(file("private", "a-token"));
        for address in table("private") {
            let place = place(Some(address), None).unwrap();
            assert!(files.token(&place).unwrap().is_some(), "{address}");
        }
        for address in table("public") {
            let message = refusal(address, &files);
            assert!(message.contains("write tls://HOST:PORT"), "{message}");
        }
        fs::remove_file(files.token.unwrap()).unwrap();
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let path = file("empty", "");
        for content in ["", " \n", "é", "a\0b"] {
            fs::write(&path, content).unwrap();
            let expected = format!("the token file {} holds no token", path.display());
            assert_eq!(refusal("unix:s", &token(&path)), expected);
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn files_of_certificates_that_make_no_sense_are_refused_with_what_is_wrong() {
        let text = file("text", "a text");
        let of = |ca: &str, cert: &str, key: &str| {
            let path = |name: &str| match name {
                "" => None,
                "text" => Some(text.clone()),
                name => Some(PathBuf::from(name)),
            };
            Files {
                token: None,
                ca: path(ca),
                cert: path(cert),
                key: path(key),
            }
        };
        for (address, files, expected) in [
            (
                "unix:s",
                of("text", "", ""),
                "certificates are for an address like tls:",
            ),
            (
                "a:1",
                of("", "text", "text"),
                "certificates are for an address like tls:",
            ),
            (
                "tls://a:1",
                of(MISSING, "", ""),
                "the CA file /missing/file cannot be read: No such",
            ),
            (
                "tls://a:1",
                of("text", "", ""),
                "holds no certificate in PEM",
            ),
            (
                "tls://a:1",
                of("", "text", ""),
                "a certificate file and a key file, or neither",
            ),
            (
                "tls://a:1",
                of("", "", "text"),
                "a certificate file and a key file, or neither",
            ),
            (
                "tls://a:1",
                of("", MISSING, "text"),
                "the certificate file /missing/file cannot",
            ),
            (
                "tls://a:1",
                of("", "text", MISSING),
                "the key file /missing/file cannot be read",
            ),
            (
                "tls://a:1",
                of("", "text", "text"),
                "the certificates are no use: ",
            ),
        ] {
            let message = refusal(address, &files);
            assert!(message.contains(expected), "{message}");
        }
        fs::remove_file(text).unwrap();
    }
}
