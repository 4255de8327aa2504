//! The hot tier: see `sidecar/cache/hot.py`, which this follows.
