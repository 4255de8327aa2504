"""Token files: one token a line, so that a new one is taken beside the old one.

Tokens themselves are not kept: a caller's is looked up by its digest.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from sidecar.access.policy import PolicyError

LEAST_CHARACTERS = 16

# What a token may be made of (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


def token_digest(token: str) -> bytes:
    """What stands for a token; how long looking one up takes tells nothing of the others."""
    return blake2b(token.encode(errors="surrogateescape"), digest_size=32).digest()


def read_token_digests(content: bytes) -> list[bytes]:
    """The digests of the tokens in what a file holds. Raises `PolicyError`, which quotes none."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeError:
        raise PolicyError("it is not text") from None
    digests = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token:
            continue
        if len(token) < LEAST_CHARACTERS or not _TOKEN.fullmatch(token):
            raise PolicyError(
                f"line {number} is not a token: write at least {LEAST_CHARACTERS}"
                " letters, digits or characters of '-._~+/'"
            )
        digests.append(token_digest(token))
    return digests
