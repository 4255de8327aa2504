//! Where the sidecar is.

use std::net::IpAddr;

use tonic::transport::Endpoint;

use crate::error::ConfigError;

pub(crate) const VARIABLE: &str = "EMBERCACHE_ADDRESS";

const DEFAULT: &str = "127.0.0.1:50551";
const TLS: &str = "tls://";

/// Where a sidecar is.
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    pub(crate) is_encrypted: bool,
    /// Whether nobody else can read what is sent there.
    pub(crate) is_private: bool,
}

/// Where to connect to: the address given, else that of the environment, else the default.
pub(crate) fn place(given: Option<&str>, environment: Option<&str>) -> Result<Place, ConfigError> {
    let (source, address) = [("the address", given), (VARIABLE, environment)]
        .into_iter()
        .find_map(|(source, address)| Some((source, address.filter(|it| !it.is_empty())?)))
        .unwrap_or(("the default", DEFAULT));
    let endpoint = uri(address).and_then(|uri| Endpoint::from_shared(uri).ok());
    let is_encrypted = address.starts_with(TLS);
    match endpoint {
        Some(endpoint) => Ok(Place {
            endpoint,
            is_encrypted,
            is_private: is_encrypted || is_socket(address) || is_loopback(address),
        }),
        None => Err(ConfigError(format!(
            "{source} is {address:?}; write HOST:PORT (1 to 65535), tls://HOST:PORT for TLS, \
             unix:///absolute/path or unix:path"
        ))),
    }
}

fn uri(address: &str) -> Option<String> {
    let host = address.strip_prefix(TLS);
    if is_socket(address) {
        Some(address.to_owned())
    } else if is_host_and_port(host.unwrap_or(address)) {
        Some(match host {
            Some(host) => format!("https://{host}"),
            None => format!("http://{address}"),
        })
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

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || ip.is_ok_and(|it: IpAddr| it.is_loopback())
}

/// What the clients of other languages are tested with, too.
#[cfg(test)]
pub(crate) fn table(kind: &str) -> Vec<&'static str> {
    let lines = include_str!("../../testdata/addresses.txt").lines();
    let of_kind = lines.filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    let addresses: Vec<_> = of_kind.collect();
    assert!(!addresses.is_empty());
    addresses
}

#[cfg(test)]
mod tests {
    use super::{TLS, place, table, uri};

    fn chosen(given: Option<&str>, environment: Option<&str>) -> String {
        let place = place(given, environment).unwrap();
        place.endpoint.uri().to_string()
    }

    fn refusal(given: Option<&str>, environment: Option<&str>) -> String {
        place(given, environment).err().unwrap().to_string()
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
    fn what_is_an_address_is_taken_as_it_is() {
        for address in table("accept") {
            let expected = match address.strip_prefix(TLS) {
                Some(host) => format!("https://{host}"),
                None if address.starts_with("unix:") => address.to_owned(),
                None => format!("http://{address}"),
            };
            assert_eq!(uri(address), Some(expected));
            let place = place(Some(address), None).ok();
            let is_encrypted = place.is_some_and(|it| it.is_encrypted);
            assert_eq!(is_encrypted, address.starts_with(TLS), "{address}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_message_that_says_what_to_write() {
        for address in table("refuse").into_iter().chain(["[:::::::::]:1", "a:+1"]) {
            let message = refusal(Some(address), None);
            let expected = format!("the address is {address:?}; write HOST:PORT (1 to 65535)");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn the_message_names_the_variable_if_that_is_where_the_address_is_from() {
        let message = refusal(None, Some("localhost"));
        let expected = "EMBERCACHE_ADDRESS is \"localhost\"";
        assert!(message.starts_with(expected), "{message}");
    }
}
