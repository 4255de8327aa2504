"""PostgreSQL over TLS, as parameters of the index's URL say: those of libpq."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from bench.certificates import Authority, MountedPair
from sidecar.index.open import open_index
from sidecar.index.types import IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class TlsEnd:
    """Ends TLS with clients who show a certificate, in front of a real PostgreSQL without it."""

    def __init__(self, socket_path: str, folder: Path) -> None:
        self._socket_path = socket_path
        self._folder = folder
        self._authority = Authority()
        self._pair = MountedPair(folder / "server")
        self._pair.put(*self._authority.issue())
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self._pair.certificate, self._pair.key)
        self.context.load_verify_locations(cadata=self._authority.pem.decode())
        self.context.verify_mode = ssl.CERT_REQUIRED

    async def url(self, of: Authority | None = None) -> str:
        """The URL of the index for somebody with a certificate of an authority."""
        folder = self._folder / f"of-{id(of)}"
        pair = MountedPair(folder)
        pair.put(*(of or self._authority).issue())
        pair.key.chmod(0o600)
        (folder / "ca.crt").write_bytes((of or self._authority).pem)
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return (
            f"postgresql://postgres@localhost:{port}/postgres?sslmode=verify-full"
            f"&sslrootcert={folder}/ca.crt&sslcert={pair.certificate}&sslkey={pair.key}"
        )

    async def close(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(8) == _SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(self.context)
            behind, to_server = await asyncio.open_unix_connection(self._socket_path)
            await asyncio.gather(pump(reader, to_server), pump(behind, writer))
        writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()


@pytest.fixture
async def end(postgres: str, tmp_path: Path) -> AsyncIterator[TlsEnd]:
    folder = parse_qs(urlsplit(postgres).query)["host"][0]
    running = TlsEnd(f"{folder}/.s.PGSQL.5432", tmp_path)
    yield running
    await running.close()


async def test_the_parameters_of_the_url_say_how_the_server_is_checked_and_what_is_shown(
    end: TlsEnd,
) -> None:
    index = open_index(await end.url())
    await index.start()
    assert await index.collections() is not None
    await index.close()


async def test_a_server_that_cannot_be_trusted_is_not_used_and_the_error_says_why(
    end: TlsEnd,
) -> None:
    index = open_index(await end.url(Authority("Somebody else")))
    with pytest.raises(IndexUnavailableError, match="certificate verify failed"):
        await index.start()
    await index.close()
