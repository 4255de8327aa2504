"""Names of cache entries: what is asked, by whom, of which model, in which epoch."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGEST_BYTES = 16


def canonical(parts: Iterable[bytes]) -> bytes:
    """Joins parts so that no two different sequences of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def digest(*parts: bytes) -> bytes:
    """128-bit digest of a sequence of parts."""
    return blake2b(canonical(parts), digest_size=DIGEST_BYTES).digest()


class Digests:
    """Digests of what others could guess, keyed with a secret derived from the salt.

    Without a salt they are those of `digest`.
    """

    __slots__ = ("_hasher",)

    def __init__(self, salt: bytes) -> None:
        secret = blake2b(canonical((b"digests", salt)), digest_size=32).digest() if salt else b""
        self._hasher = blake2b(digest_size=DIGEST_BYTES, key=secret)

    def of(self, *parts: bytes) -> bytes:
        """128-bit digest of a sequence of parts."""
        hasher = self._hasher.copy()
        hasher.update(canonical(parts))
        return hasher.digest()


UNSALTED = Digests(b"")


class KeySpace:
    """The keys of one kind of entry, for one namespace and one version of one model.

    A key reads ``{prefix}:{kind}:{namespace}:{model}:{model version}:{epoch}:{digest}``. The
    digest is keyed with a secret derived from the salt and the namespace: who reads the keys in
    Redis cannot test a guess of the input without the salt, and equal inputs of two namespaces
    have unrelated keys.
    """

    __slots__ = ("_hasher", "_stem")

    def __init__(
        self, *, prefix: str, kind: str, namespace: str, model: str, version: str, salt: bytes
    ) -> None:
        self._stem = ":".join((prefix, kind, namespace, model, version, "")).encode()
        secret = blake2b(canonical((salt, namespace.encode())), digest_size=32).digest()
        self._hasher = blake2b(digest_size=DIGEST_BYTES, key=secret)

    def key(self, epoch: int, *parts: bytes) -> bytes:
        """The key of the input that ``parts`` describe."""
        hasher = self._hasher.copy()
        hasher.update(canonical(parts))
        return b"%b%x:%b" % (self._stem, epoch, hasher.hexdigest().encode())
