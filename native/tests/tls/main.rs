//! TLS of the listeners, with real handshakes in memory.

mod callers;
mod parties;
mod server;
