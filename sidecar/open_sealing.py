"""Opens the secrets that guard what leaves the process: the salt, and the keys of encryption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from sidecar.cache.key_ring import KeyFile
from sidecar.files_in_use import FilesError
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config import Settings


def with_salt(settings: Settings) -> Settings:
    """Settings whose ``cache.salt`` is what ``cache.salt_file`` holds, if that is set.

    The file is read once: with another salt, nothing that was kept is found any more. Raises
    `SetupError`.
    """
    cache = settings.cache
    if cache.salt_file is None:
        return settings
    salted = cache.model_copy(update={"salt": SecretStr(_read_salt(cache.salt_file))})
    return settings.model_copy(update={"cache": salted})


def open_keys(settings: Settings) -> KeyFile | None:
    """The keys of ``encryption.keys_file``, None if it is not set. Raises `SetupError`."""
    path = settings.encryption.keys_file
    if path is None:
        return None
    try:
        return KeyFile(path)
    except FilesError as error:
        raise SetupError(f"encryption.keys_file: {error}") from None


def _read_salt(path: Path) -> str:
    try:
        salt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise SetupError(f"cache.salt_file: {path} cannot be read ({reason})") from None
    if not salt:
        raise SetupError(f"cache.salt_file: {path} is empty; put a long random secret into it")
    return salt
