//! Where the sidecar is.

use std::error::Error;
use std::fmt;

use tonic::transport::Endpoint;

pub(crate) const VARIABLE: &str = "EMBERCACHE_ADDRESS";

const DEFAULT: &str = "127.0.0.1:50551";

/// An address that is neither `HOST:PORT` nor that of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    source: &'static str,
    address: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, address } = self;
        write!(
            f,
            "{source} is {address:?}; write HOST:PORT, unix:///absolute/path or unix:path"
        )
    }
}

impl Error for AddressError {}

/// Where to connect to: the address given, else that of the environment, else the default.
pub(crate) fn endpoint(
    given: Option<&str>,
    environment: Option<&str>,
) -> Result<Endpoint, AddressError> {
    let (source, address) = [("the address", given), (VARIABLE, environment)]
        .into_iter()
        .find_map(|(source, address)| Some((source, address.filter(|it| !it.is_empty())?)))
        .unwrap_or(("the default", DEFAULT));
    uri(address)
        .and_then(|uri| Endpoint::from_shared(uri).ok())
        .ok_or_else(|| AddressError {
            source,
            address: address.to_owned(),
        })
}

fn uri(address: &str) -> Option<String> {
    if is_socket(address) {
        Some(address.to_owned())
    } else if is_host_and_port(address) {
        Some(format!("http://{address}"))
    } else {
        None
    }
}

fn is_socket(address: &str) -> bool {
    address.strip_prefix("unix:").is_some_and(|rest| {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        // After two slashes comes an absolute path: there is no host.
        !path.is_empty() && (path.len() == rest.len() || path.starts_with('/'))
    })
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
        Some(v6) => v6.contains(':'),
        None => !host.contains(|c: char| c.is_whitespace() || ":/[]@?#".contains(c)),
    };
    is_host && !host.is_empty() && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{endpoint, uri};

    fn chosen(given: Option<&str>, environment: Option<&str>) -> String {
        endpoint(given, environment).unwrap().uri().to_string()
    }

    #[test]
    fn the_address_given_wins_over_the_environment_and_that_over_the_default() {
        assert_eq!(
            chosen(Some("given:1"), Some("environment:2")),
            "http://given:1/"
        );
        for none in [None, Some("")] {
            assert_eq!(chosen(none, Some("environment:2")), "http://environment:2/");
            assert_eq!(chosen(none, none), "http://127.0.0.1:50551/");
        }
    }

    #[test]
    fn hosts_with_a_port_are_taken() {
        for address in ["localhost:50551", "[::1]:80", "pool.namespace.svc:1"] {
            assert_eq!(chosen(Some(address), None), format!("http://{address}/"));
        }
    }

    #[test]
    fn unix_sockets_are_taken_as_they_are() {
        for address in ["unix:///run/a b.sock", "unix:/run/a.sock", "unix:a.sock"] {
            assert_eq!(uri(address).as_deref(), Some(address));
            assert!(endpoint(Some(address), None).is_ok());
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_message_that_says_what_to_write() {
        let wrong = [
            "localhost",
            ":50551",
            "localhost:",
            "localhost:port",
            "localhost:65536",
            "http://localhost:50551",
            "[localhost]:1",
            "[:::::::::]:1",
            "a b:1",
            "unix:",
            "unix://host/path",
        ];
        for address in wrong {
            let message = endpoint(Some(address), None).unwrap_err().to_string();
            let expected = format!("the address is {address:?}; write HOST:PORT");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn the_message_names_the_variable_if_that_is_where_the_address_is_from() {
        let message = endpoint(None, Some("localhost")).unwrap_err().to_string();
        let expected = "EMBERCACHE_ADDRESS is \"localhost\"";
        assert!(message.starts_with(expected), "{message}");
    }
}
