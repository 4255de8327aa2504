//! The listeners, their connections, and the calls on them.

use std::array::TryFromSliceError;
use std::collections::HashMap;
use std::hash::Hash;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderValue;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyMapping;

use crate::callers::{Callers, Scope};
use crate::hot::{self, HotTier};
use accept::Kind;
use server::Server;
use shared::{Method, Shared};

pub mod accept;
pub mod alive;
pub mod authority;
pub mod connection;
pub mod durations;
pub mod places;
pub mod server;
pub mod shared;
pub mod trust;
pub mod unary;
pub mod wire;

/// See `embercache_native.pyi`.
#[pyclass(frozen, module = "embercache_native")]
pub struct Front {
    shared: Arc<Shared>,
    server: Server,
}

#[pymethods]
impl Front {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "in Python they have names")]
    #[pyo3(signature = (
        hot, backend, methods, *, secret, bounds, most_connections, max_connection_age = 0.0, traced = false
    ))]
    fn new(
        hot: PyRef<'_, HotTier>,
        backend: PathBuf,
        methods: &Bound<'_, PyMapping>,
        secret: &str,
        bounds: Vec<f64>,
        most_connections: usize,
        max_connection_age: f64,
        traced: bool,
    ) -> PyResult<Self> {
        let methods = pairs::<String, String>(methods)?
            .into_iter()
            .map(|(path, person)| Ok((path, Arc::new(Method::new(&person, &bounds)?))))
            .collect::<Result<_, String>>()
            .map_err(PyValueError::new_err)?;
        let mut shared = Shared::new(hot.answers(), methods, backend);
        shared.traced = traced;
        shared.secret = HeaderValue::from_str(secret)
            .map_err(|_| PyValueError::new_err("the secret is not printable ASCII"))?;
        let age = seconds(max_connection_age)?;
        shared.max_connection_age = (!age.is_zero()).then_some(age);
        let shared = Arc::new(shared);
        let server = Server::start(shared.clone(), most_connections)?;
        Ok(Self { shared, server })
    }

    #[pyo3(signature = (certificate, key, client_ca))]
    fn set_certificate(
        &self,
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> PyResult<()> {
        let set = self.shared.tls.set(certificate, key, client_ca);
        set.map_err(PyValueError::new_err)
    }

    #[pyo3(signature = (tokens, certificates, on_socket))]
    fn set_callers(
        &self,
        tokens: &Bound<'_, PyMapping>,
        certificates: &Bound<'_, PyMapping>,
        on_socket: Option<Scope>,
    ) -> PyResult<()> {
        let certificates = pairs::<String, Vec<u8>>(certificates)?
            .into_iter()
            .map(|(name, scope)| match scope.as_slice() {
                [] => Ok((name, None)),
                scope => Ok((name, Some(scope.try_into()?))),
            })
            .collect::<Result<_, TryFromSliceError>>()
            .map_err(|_| PyValueError::new_err("a scope has 16 bytes"))?;
        let callers = Callers::new(pairs(tokens)?, certificates, on_socket);
        self.shared.set_callers(callers);
        Ok(())
    }

    fn listen(&self, fd: RawFd, kind: &str) -> PyResult<()> {
        let kind = match kind {
            "tcp" => Kind::Tcp,
            "tls" => Kind::Tls,
            "unix" => Kind::Unix,
            _ => return Err(PyValueError::new_err("the kind is tcp, tls or unix")),
        };
        if fd < 0 {
            return Err(PyValueError::new_err("the socket is closed"));
        }
        // SAFETY: the caller gives the descriptor away, as the interface says: nobody else closes
        // it. Of one that is none, the first use fails.
        #[expect(unsafe_code, reason = "there is no other way to take it over")]
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(self.server.listen(socket.into(), kind)?)
    }

    fn trust(&self, seconds: f64) -> PyResult<()> {
        let trusted = self::seconds(seconds)?;
        self.shared
            .trust
            .set(hot::monotonic() + trusted.as_secs_f64());
        Ok(())
    }

    fn durations(&self, path: &str) -> PyResult<(Vec<u64>, f64)> {
        let method = self.shared.methods.get(path);
        let method = method.ok_or_else(|| PyKeyError::new_err(path.to_owned()))?;
        Ok(method.durations.take())
    }

    fn drain(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let within = self::seconds(seconds)?;
        Ok(py.detach(|| self.server.drain(within)))
    }

    #[getter]
    fn connections(&self) -> usize {
        self.server.connections()
    }

    #[getter]
    fn failed_handshakes(&self) -> u64 {
        self.shared.failed_handshakes.load(Ordering::Relaxed)
    }
}

fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| PyValueError::new_err(format!("{value} seconds: {error}")))
}

fn pairs<'py, K, V>(mapping: &Bound<'py, PyMapping>) -> PyResult<HashMap<K, V>>
where
    (K, V): for<'a> FromPyObject<'a, 'py, Error = PyErr>,
    K: Eq + Hash,
{
    mapping.items()?.iter().map(|pair| pair.extract()).collect()
}
