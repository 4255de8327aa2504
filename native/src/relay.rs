//! Hands calls to the gRPC server behind, as HTTP/2.
