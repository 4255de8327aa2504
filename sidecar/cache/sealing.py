"""Sealed values: encrypted, and bound to the place where they are kept, by AES-256-GCM.

A sealed value::

    0   u8   format, 0xE5: neither a value nor a block of prompts begins with it
    1   u8   bytes of the key's id
    2        the key's id, ASCII
             salt of the process that sealed it, 16 bytes
             nonce, 12 bytes
             ciphertext, and a tag of 16 bytes

What is authenticated beside it: all before the ciphertext, the domain and the name. So a value that
was copied to another name does not open there.

GCM is broken by one nonce that is used twice under a key. Many processes write under the keys of a
file, and random nonces of 96 bits are safe for no more than 2**32 values of all of them together
(NIST SP 800-38D, 8.3). So each process derives a key of its own from a key of the file and a random
salt (HKDF, RFC 5869), and counts its nonces.
"""

from __future__ import annotations

import itertools
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sidecar.cache.key_ring import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cache.key_ring import KeyRing

FORMAT = 0xE5
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_PURPOSE = b"embercache sealed values 1"
# Of processes whose values were read of late; deriving a key again takes some microseconds.
_MAX_DERIVED = 1024

Reason: TypeAlias = Literal["unsealed", "unknown_key", "forged"]
"""``unsealed`` is in no sealed form, ``unknown_key`` names a key that is not known here, and
``forged`` was cut short, changed, or sealed for another name, domain or key."""


class Keys(Protocol):
    """Where keys come from."""

    @property
    def ring(self) -> KeyRing:
        """The keys at this moment."""
        ...


class NotOpenedError(Exception):
    """A value that was not sealed, with a key that is known here, for this name and domain."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Sealer:
    """Seals with the first key and opens with all; they may change meanwhile.

    May be used from several threads, but not in a process that forks afterwards.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._cipher = lru_cache(_MAX_DERIVED)(_derive)
        self._own = _OwnKey(keys.ring)

    def seal(self, domain: bytes, name: bytes, data: bytes) -> bytes:
        """The sealed form of ``data``, which opens for this domain and name only."""
        own, ring = self._own, self._keys.ring
        if own.ring is not ring:
            own = self._own = _OwnKey(ring)
        nonce = next(own.nonces).to_bytes(_NONCE_BYTES)
        head = own.head + nonce
        return head + own.cipher.encrypt(nonce, data, _associated(head, domain, name))

    def open(self, domain: bytes, name: bytes, sealed: bytes) -> bytes:
        """What was sealed for this domain and name. Raises `NotOpenedError`."""
        if not sealed or sealed[0] != FORMAT:
            raise NotOpenedError("unsealed")
        id_end = 2 + int.from_bytes(sealed[1:2])
        salt_end = id_end + _SALT_BYTES
        nonce_end = salt_end + _NONCE_BYTES
        if len(sealed) < nonce_end + _TAG_BYTES:
            raise NotOpenedError("forged")
        key = self._keys.ring.keys.get(sealed[2:id_end].decode("latin-1"))
        if key is None:
            raise NotOpenedError("unknown_key")
        cipher = self._cipher(key, sealed[id_end:salt_end])
        associated = _associated(sealed[:nonce_end], domain, name)
        try:
            return cipher.decrypt(
                sealed[salt_end:nonce_end], memoryview(sealed)[nonce_end:], associated
            )
        except InvalidTag:
            raise NotOpenedError("forged") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value that opens was sealed with the key that seals now."""
        return sealed[2 : 2 + sealed[1]] == self._keys.ring.first.encode()


class _OwnKey:
    """A key that nobody else seals with, and nonces that count."""

    def __init__(self, ring: KeyRing) -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        self.ring = ring
        self.cipher = _derive(ring.keys[ring.first], salt)
        self.head = bytes([FORMAT, len(ring.first)]) + ring.first.encode() + salt
        # What it gives is given once, whichever threads ask.
        self.nonces: Iterator[int] = itertools.count()


def _derive(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, _PURPOSE).derive(key))


def _associated(head: bytes, domain: bytes, name: bytes) -> bytes:
    # The head tells its own length, so that no two triples give the same bytes.
    return b"%b%c%b%b" % (head, len(domain), domain, name)
