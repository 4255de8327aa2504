//! TLS of the listeners: certificates that are replaced while they serve, names of callers.
