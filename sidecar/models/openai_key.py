"""The key of an OpenAI-compatible service, from a setting or from a file that may change."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import structlog

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

# What can stand in a header without meaning anything else there.
_KEY = re.compile(r"[!-~]+")

_log = structlog.get_logger()


class OpenAIKey:
    """A key, and where it is read again when a service no longer takes it.

    ``value`` is empty if there is none. ``path`` is read in place of ``value``. Raises
    `SetupError` if the file cannot be read, or if no key is in it. No error shows the key.
    """

    def __init__(self, value: str, path: Path | None = None) -> None:
        self._path = path
        self.value = value if path is None else _read(path)
        if self.value and not _KEY.fullmatch(self.value):
            raise SetupError("openai.key: that is no key, as it holds a space or another such sign")

    async def has_changed(self, since: str) -> bool:
        """Whether the key is not ``since``, after the file has been read again."""
        if self._path is not None:
            try:
                self.value = await asyncio.to_thread(_read, self._path)
            except SetupError as error:
                _log.warning("the key cannot be read again", reason=str(error))
        return self.value != since


def _read(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise SetupError(f"openai.key_file: {path} cannot be read ({reason})") from None
    if not _KEY.fullmatch(text):
        raise SetupError(f"openai.key_file: {path} must hold one key, in one line")
    return text
