"""The token that is shown to remote encoders, from a file that may change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog

from sidecar.files_in_use import FilesError, FilesInUse
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What can stand in a header without meaning anything else there.
_TOKEN = re.compile(r"[!-~]+")

_log = structlog.get_logger()


class UpstreamToken:
    """The token in the first line of a file, whose others may hold those that are taken beside it.

    No error shows it. Raises `SetupError` if there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._files = FilesInUse([path], self._load, "upstream_token")
        except FilesError as error:
            raise SetupError(f"encoder.token_file: {error}") from None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What calls are sent with."""
        return self._files.value

    async def follow(self) -> None:
        """Reads the file again whenever it changes, until cancelled."""
        await self._files.follow(self._renewed, self._failed)

    def _load(self, contents: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
        token = contents[0].strip().partition(b"\n")[0].strip().decode("latin-1")
        if not _TOKEN.fullmatch(token):
            raise ValueError("the first line has to be a token")
        return (("authorization", f"Bearer {token}"),)

    def _renewed(self) -> None:
        _log.info("another token is shown to the encoder", file=str(self._path))

    def _failed(self, error: FilesError) -> None:
        _log.error("the new token for the encoder cannot be used", reason=str(error))
