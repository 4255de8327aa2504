"""What is wrong between this sidecar and a gRPC server it calls, in words of our settings."""

from __future__ import annotations

import re

import grpc

Code = grpc.StatusCode

# gRPC's words for a connection that could not be made follow these, and mean as much.
_LAST = "last error:"
_REASONS = {
    "Hostname Verification Check failed": "its certificate is for another name: is the address"
    " right? Else set upstream_tls.server_name",
    "certificate has expired": "its certificate has ended",
    "certificate is not yet valid": "its certificate is not valid yet: is the clock right?",
    "CERTIFICATE_VERIFY_FAILED|BAD_SIGNATURE": "its certificate is of no authority that is known:"
    " set upstream_tls.ca_file",
    "WRONG_VERSION_NUMBER": "it does not speak TLS, which upstream_tls.enabled asks for",
    # The first is all that gRPC says when a server ends the handshake for a certificate.
    "Unwrap failed|Socket closed|Endpoint closing|Connection reset|Handshake read failed": (
        "it ends connections at once: does it want TLS (upstream_tls.enabled), or a certificate"
        " (upstream_tls.cert_file), or another one?"
    ),
}


def fault(code: grpc.StatusCode, details: str) -> str:
    """What is wrong with certificates or the token; empty if it is something else."""
    match code:
        case Code.UNAUTHENTICATED:
            return "it does not know who calls: check encoder.token_file, or upstream_tls.cert_file"
        case Code.PERMISSION_DENIED:
            return (
                "it does not let this sidecar do that: check the rights of its caller in the"
                " policy there, or encoder.token_file here"
            )
        case Code.UNAVAILABLE:
            last = details.partition(_LAST)[2]
            return next((words for said, words in _REASONS.items() if re.search(said, last)), "")
    return ""
