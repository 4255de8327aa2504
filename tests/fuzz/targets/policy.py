"""The file that says who may call, and how much each namespace may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.policy import PolicyError, read_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (PolicyError,)
MAX_BYTES = 2048
_WORDS = """
    callers: quotas: name: token_file: certificates: socket: true namespaces: rights: read write
    administer items_per_second: computations: hot_bytes: share: 64MiB "*" [ ] { } - &a *a <<: .inf
"""
TOKENS = tuple(_WORDS.split())


def seeds() -> Iterator[bytes]:
    yield b"""callers:
  - name: shop
    token_file: /etc/embercache/tokens/shop
    namespaces: [shop, shop-staging]
    rights: [read, write]
  - name: platform
    certificates: ["spiffe://cluster.local/ns/platform/sa/admin"]
    socket: true
    namespaces: ["*"]
    rights: [read, write, administer]
"""
    yield b"""quotas:
  shop: {items_per_second: 2000, computations: 256, hot_bytes: 64MiB, share: 2}
  "*": {items_per_second: 500}
"""


def run(data: bytes) -> None:
    policy = read_policy(data)
    assert policy.quota("shop").share > 0
