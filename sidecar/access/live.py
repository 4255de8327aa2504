"""The policy in force: read at start, and again when its file or a file of tokens changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sidecar.access.policy import Policy, PolicyError, read_policy
from sidecar.access.table import CallerTable, make_table
from sidecar.access.token_files import TokenFiles
from sidecar.files_in_use import FilesError, FilesInUse
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_POLICY_STAYS = "the policy before the last change stays in force"
_TOKENS_STAY = "callers keep the tokens before the last change"

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
        self._file: FilesInUse[Policy] | None = None
        self._tokens = TokenFiles()
        self._told: list[Callable[[Policy], None]] = []
        self._told_of_callers: list[Callable[[CallerTable], None]] = []
        self.failures = {"policy": 0, "tokens": 0}
        """How many changes of each could not be used."""
        if path is not None:
            try:
                self._open(path)
            except (FilesError, PolicyError) as error:
                raise PolicyError(f"access.policy_file: {error}") from None

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

    def subscribe_to_callers(self, told: Callable[[CallerTable], None]) -> None:
        """Tells who may call, now and whenever that was read again, before any further call."""
        self._told_of_callers.append(told)
        told(self.table)

    async def follow(self) -> None:
        """Reads the files again when they change; runs until it is cancelled."""
        await watch_files(self._files, self.reload)

    def reload(self) -> None:
        """Puts in force what the files say now, or says in the log why that cannot be."""
        if self._file is None:
            return
        try:
            is_new = self._file.look()
        except FilesError as error:
            is_new = False
            self._failed("policy", _POLICY_STAYS, str(error))
        looked = self._tokens.look(self._file.value.callers)
        if looked.failures:
            self._failed("tokens", _TOKENS_STAY, "; ".join(looked.failures))
        if not is_new and not looked.changed:
            return
        before = self.policy
        try:
            self._put_in_force(self._file.value)
        except PolicyError as error:
            self._failed("policy", _POLICY_STAYS, f"{self._path}: {error}")
            return
        _log.info("the policy was read again", callers=len(self.policy.callers))
        if self.policy != before:
            for told in self._told:
                told(self.policy)

    def _open(self, path: Path) -> None:
        self._file = FilesInUse([path], self._load)
        looked = self._tokens.look(self._file.value.callers)
        if looked.failures:
            raise PolicyError(f"{path}: {looked.failures[0]}")
        try:
            self._put_in_force(self._file.value)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None

    def _load(self, contents: Sequence[bytes]) -> Policy:
        policy = read_policy(contents[0])
        if self.tells_callers_apart and not policy.callers:
            raise PolicyError(
                "it no longer names callers, so that everybody could do everything: if that is"
                " meant, restart the sidecar"
            )
        return policy

    def _put_in_force(self, policy: Policy) -> None:
        self.table = make_table(policy, self._tokens.digests, self.table)
        self.policy = policy
        for told in self._told_of_callers:
            told(self.table)

    def _failed(self, what: str, event: str, reason: str) -> None:
        self.failures[what] += 1
        _log.error(event, reason=reason)

    def _files(self) -> list[Path]:
        return [] if self._path is None else [self._path, *self._tokens.paths]
