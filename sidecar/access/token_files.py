"""The files of tokens that a policy names: of each, what it held when it could last be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from sidecar.access.tokens import read_token_digests
from sidecar.files_in_use import FilesError, FilesInUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sidecar.access.policy import CallerPolicy

_log = structlog.get_logger()


class Looked(NamedTuple):
    """Whether any caller has other tokens, or another file; and what cannot be used since then."""

    changed: bool
    failures: Sequence[str]


class TokenFiles:
    """The tokens of callers, as digests, from files that may be replaced at any time."""

    def __init__(self) -> None:
        # By caller, too: what a file held for one must not become another's, if it is no good now.
        self._files: dict[tuple[str, Path], FilesInUse[Sequence[bytes]]] = {}
        self._unusable: dict[tuple[str, Path], str] = {}

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [path for _, path in (*self._files, *self._unusable)]

    @property
    def digests(self) -> Mapping[str, Sequence[bytes]]:
        """The tokens by the names of callers; without those whose files were never usable."""
        return {name: file.value for (name, _), file in self._files.items()}

    def look(self, callers: Iterable[CallerPolicy]) -> Looked:
        """Looks at the files of these callers, and no others from now on.

        A file that cannot be used is told of once, and changes nothing.
        """
        named = {(each.name, each.token_file) for each in callers if each.token_file is not None}
        changed = named != {*self._files, *self._unusable}
        self._files = {key: file for key, file in self._files.items() if key in named}
        before, self._unusable = self._unusable, {}
        failures: list[str] = []
        for name, path in sorted(named):
            key = name, path
            try:
                is_new = self._look(key)
            except FilesError as error:
                reason = f"token_file of the caller {name}: {error}"
                if key not in self._files:
                    self._unusable[key] = reason
                if before.get(key) != reason:
                    failures.append(reason)
                continue
            changed |= is_new
            if is_new and not self._files[key].value:
                # So a caller is locked out; but it may be a mistake.
                _log.warning("a file of tokens is empty", caller=name, file=str(path))
        return Looked(changed, failures)

    def _look(self, key: tuple[str, Path]) -> bool:
        if key in self._files:
            return self._files[key].look()
        self._files[key] = FilesInUse([key[1]], lambda contents: read_token_digests(contents[0]))
        return True
