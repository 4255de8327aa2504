"""The policy in force: read at start, and again when its file or a file of tokens changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sidecar.access.policy import Policy, PolicyError, read_policy
from sidecar.access.table import CallerTable, read_table
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger()


class Access:
    """Who may call, and how much each namespace may take, as it is now.

    Without a file, callers are not told apart and nothing is limited. A policy that can no longer
    be used changes nothing: the one before it stays in force, and the log says so. With a file of
    tokens that can no longer be used, its caller keeps those before it, and all else is in force.
    Raises `PolicyError`.
    """

    def __init__(self, path: Path | None) -> None:
        self.policy = Policy()
        self.table = CallerTable()
        self._path = path
        self._told: list[Callable[[Policy], None]] = []
        # Files of tokens that the policy file named when it could last be read.
        self._token_files: list[Path] = []
        self._failure = ""
        self.failures = {"policy": 0, "tokens": 0}
        """How many changes of each could not be used."""
        if path is not None:
            self._read(path, None)

    @property
    def is_followed(self) -> bool:
        """Whether there is a file, and so something that may change."""
        return self._path is not None

    @property
    def tells_callers_apart(self) -> bool:
        """Whether every call needs a caller whom the policy names."""
        return bool(self.policy.callers)

    def subscribe(self, told: Callable[[Policy], None]) -> None:
        """Tells of the policy in force, now and whenever it becomes another one."""
        self._told.append(told)
        told(self.policy)

    async def follow(self) -> None:
        """Reads the files again when they change; runs until it is cancelled."""
        await watch_files(self._files, self.reload)

    def reload(self) -> None:
        """Puts in force what the files say now, or says in the log why that cannot be."""
        if self._path is None:
            return
        before = self.policy
        try:
            self._read(self._path, self.table)
        except PolicyError as error:
            self._failed("policy", "the policy before the last change stays in force", str(error))
            return
        if self.table.failures:
            reason = "; ".join(self.table.failures)
            self._failed("tokens", "callers keep the tokens before the last change", reason)
        else:
            self._failure = ""
        _log.info("the policy was read again", callers=len(self.policy.callers))
        if self.policy != before:
            for told in self._told:
                told(self.policy)

    def _failed(self, what: str, event: str, reason: str) -> None:
        # One failure may be met twice, when it changes which files are looked at.
        if reason != self._failure:
            self._failure = reason
            self.failures[what] += 1
            _log.error(event, reason=reason)

    def _files(self) -> list[Path]:
        return [] if self._path is None else [self._path, *self._token_files]

    def _read(self, path: Path, before: CallerTable | None) -> None:
        policy = read_policy(path)
        named = [each.token_file for each in policy.callers if each.token_file is not None]
        self._token_files = named
        if self.tells_callers_apart and not policy.callers:
            raise PolicyError(
                f"access.policy_file {path}: it no longer names callers, so that everybody could"
                " do everything: if that is meant, restart the sidecar"
            )
        try:
            table = read_table(policy, before)
        except PolicyError as error:
            raise PolicyError(f"access.policy_file {path}: {error}") from None
        self.policy, self.table = policy, table
