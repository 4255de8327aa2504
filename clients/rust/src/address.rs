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
            "{source} is {address:?}; write HOST:PORT (1 to 65535), unix:///absolute/path or unix:path"
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
        // After two slashes comes an absolute path: there is no host.
        let path = rest.strip_prefix("//").filter(|it| it.starts_with('/'));
        let path = path.unwrap_or(rest);
        let name = path.strip_prefix('/').unwrap_or(path);
        !name.is_empty() && !name.starts_with('/')
    })
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
        Some(v6) => {
            !v6.is_empty()
                && v6
                    .chars()
                    .all(|c| c.is_ascii_hexdigit() || ":.".contains(c))
        }
        None => !host.contains(|c: char| c.is_whitespace() || ":/?#%@[]".contains(c)),
    };
    let is_number = port.chars().all(|c| c.is_ascii_digit());
    is_host && !host.is_empty() && is_number && port.parse::<u16>().is_ok_and(|it| it > 0)
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

    /// What the clients of other languages are tested with, too.
    fn table(kind: &str) -> Vec<&'static str> {
        let lines = include_str!("../../testdata/addresses.txt").lines();
        let of_kind = lines.filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let addresses: Vec<_> = of_kind.collect();
        assert!(!addresses.is_empty());
        addresses
    }

    #[test]
    fn what_is_an_address_is_taken_as_it_is() {
        for address in table("accept") {
            let socket = Some(address.to_owned()).filter(|it| it.starts_with("unix:"));
            let expected = socket.unwrap_or_else(|| format!("http://{address}"));
            assert_eq!(uri(address), Some(expected));
            assert!(endpoint(Some(address), None).is_ok(), "{address}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_message_that_says_what_to_write() {
        for address in table("refuse").into_iter().chain(["[:::::::::]:1", "a:+1"]) {
            let message = endpoint(Some(address), None).unwrap_err().to_string();
            let expected = format!("the address is {address:?}; write HOST:PORT (1 to 65535)");
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
