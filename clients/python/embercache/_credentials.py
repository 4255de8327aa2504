"""What a client shows of itself, and what it believes a sidecar by."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from embercache.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from embercache._channel import Place
    from embercache.types import CredentialFiles

REREAD_SECONDS = 10.0
"""How long a token is shown before its file is read again."""


class Credentials:
    """The contents of `CredentialFiles`.

    Raises `InvalidArgumentError` if a file cannot be read or makes no sense at this place.
    """

    def __init__(
        self,
        place: Place,
        *,
        clock: Callable[[], float] = time.monotonic,
        **files: Unpack[CredentialFiles],
    ) -> None:
        self._clock = clock
        self.channel = _channel_credentials(
            place,
            _path(files.get("ca_file"), "EMBERCACHE_CA_FILE"),
            _path(files.get("cert_file"), "EMBERCACHE_CERT_FILE"),
            _path(files.get("key_file"), "EMBERCACHE_KEY_FILE"),
        )
        self._token_file = _path(files.get("token_file"), "EMBERCACHE_TOKEN_FILE")
        self._metadata: tuple[tuple[str, str], ...] | None = None
        self._read_at = clock()
        if self._token_file is not None:
            if not place.is_private:
                raise InvalidArgumentError(
                    "a token must not cross a network unencrypted: write tls://host:port, or leave"
                    " the token file out"
                )
            self._metadata = _metadata(self._token_file)

    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What every call carries."""
        if self._token_file is not None and self._clock() - self._read_at > REREAD_SECONDS:
            self._read_at = self._clock()
            try:
                self._metadata = _metadata(self._token_file)
            except InvalidArgumentError:
                # It is being replaced: the token that was read last will do meanwhile.
                return self._metadata
        return self._metadata


def _path(given: str | os.PathLike[str] | None, variable: str) -> Path | None:
    chosen = given or os.environ.get(variable)
    return Path(chosen) if chosen else None


def _metadata(file: Path) -> tuple[tuple[str, str], ...]:
    lines = _read(file, "the token file").decode("ascii", "replace").split()
    if not lines or not lines[0].isascii():
        raise InvalidArgumentError(f"the token file {file} holds no token")
    return (("authorization", f"Bearer {lines[0]}"),)


def _channel_credentials(
    place: Place, ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> grpc.ChannelCredentials | None:
    if (cert_file is None) != (key_file is None):
        raise InvalidArgumentError("give a certificate file and a key file, or neither")
    if not place.is_encrypted:
        if ca_file or cert_file:
            raise InvalidArgumentError("certificates are for an address like tls://host:port")
        return None
    return grpc.ssl_channel_credentials(
        None if ca_file is None else _read(ca_file, "the CA file"),
        None if key_file is None else _read(key_file, "the key file"),
        None if cert_file is None else _read(cert_file, "the certificate file"),
    )


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{what} {file} cannot be read: {error.strerror}") from None
