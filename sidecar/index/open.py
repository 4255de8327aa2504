"""Chooses the index that an address names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sidecar.cache.redis_connect import RedisUrlError, redact

if TYPE_CHECKING:
    from sidecar.index.types import Index

_FORMS = (
    "memory://, memory:///FOLDER, redis://HOST:PORT/DB or another form of Redis URL, "
    "or postgresql://USER@HOST:PORT/DATABASE"
)


class IndexUrlError(ValueError):
    """The address of the index cannot be used. The message names no secret."""


def open_index(
    url: str,
    *,
    prefix: str = "embercache",
    redis_password_file: Path | None = None,
    memory_bytes: int = 2**30,
) -> Index:
    """The index at ``url``, not started yet. The scheme decides the kind:

    ``memory://``: in this process, kept nowhere; with a path, kept in that folder. Its documents
    take ``memory_bytes`` at most.
    ``redis://``, ``rediss://``, ``unix://`` and the forms for Sentinel and clusters: Redis 8, with
    ``prefix`` as the first part of every key.
    ``postgresql://``: PostgreSQL with the extension pgvector. One database is one index, whatever
    the prefix.

    Raises `IndexUrlError` for a bad address or a kind that is not installed, `OSError` if the
    password file cannot be read.
    """
    # An index that is not used costs no import.
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower() if separator else ""
    if scheme == "memory":
        from sidecar.index.memory import MemoryIndex

        return MemoryIndex(_folder(url), memory_bytes)
    if scheme.partition("+")[0] in ("redis", "rediss", "unix"):
        from sidecar.index.redis import RedisIndex

        try:
            return RedisIndex(url, prefix, redis_password_file)
        except RedisUrlError as error:
            raise IndexUrlError(str(error)) from None
    if scheme in ("postgresql", "postgres"):
        if find_spec("psycopg") is None:
            raise IndexUrlError(
                f"the index {redact(url)} needs `pip install embercache-sidecar[pgvector]`"
            )
        from sidecar.index.pgvector import PgvectorIndex

        return PgvectorIndex(url)
    raise IndexUrlError(f"{redact(url)} is no address of an index; use {_FORMS}")


def _folder(url: str) -> Path | None:
    path = url.partition("://")[2]
    if not path:
        return None
    if not path.startswith("/") or path == "/" or "?" in path or "#" in path:
        raise IndexUrlError(
            f"{redact(url)} does not name a folder; use memory:///var/lib/embercache/index, "
            "with three slashes, or memory:// to keep nothing"
        )
    return Path(unquote(path))
