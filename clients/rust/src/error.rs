//! Why no connection can be made.

use std::error::Error;
use std::fmt;

/// An address, or a file of a token or certificate, that cannot be used. The message says what is
/// wrong with it and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConfigError {}
