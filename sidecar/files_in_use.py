"""What was made of files that others replace, such as certificates: the last good stays in use."""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.watched_files import LOOK_SECONDS, log_unexpected, watch_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_LOOKS_AT_START = 5
# They are opened in many places, far from where it is counted.
_failures: ContextVar[Counter[str]] = ContextVar("failures of files in use")


def count_failures() -> Counter[str]:
    """Counts, by kind, the failures of files that are opened from now on in this context."""
    failures: Counter[str] = Counter()
    _failures.set(failures)
    return failures


class FilesError(Exception):
    """Files cannot be used. The message says which, and why."""


class FilesInUse(Generic[T]):
    """Files that belong together and may be replaced at any time, and what was made of them.

    ``load`` makes ``value`` of their contents, which come in the order of ``paths``. It may raise
    `OSError` or `ValueError`, whose message becomes that of the `FilesError`. If they are of a
    ``kind``, changes that cannot be used are counted under it, see `count_failures`.

    Raises:
        FilesError: nothing can be made of what they hold at first.
    """

    def __init__(
        self, paths: Sequence[Path], load: Callable[[Sequence[bytes]], T], kind: str = ""
    ) -> None:
        self._kind = kind
        self._failures = _failures.get(Counter())
        if kind:
            self._failures[kind] += 0  # so that the first one is seen as a change
        self._paths = tuple(paths)
        self._load = load
        self._seen: tuple[bytes, ...] | str | None = None
        self.value: T
        for _ in range(_LOOKS_AT_START):
            if self.look():
                break
        else:
            raise FilesError(f"{self._names()} change while they are read")

    def look(self) -> bool:
        """Whether the files hold something new, which is ``value`` from now on.

        Raises `FilesError`, once for each content that is of no use; ``value`` stays as it was.
        """
        content = self._read()
        if content == self._seen:
            return False
        found = self._make(content)
        if self._read() != content:
            return False  # One half may be of those before: look again later.
        self._seen = content
        if isinstance(found, FilesError):
            if self._kind:
                self._failures[self._kind] += 1
            raise found
        self.value = found
        return True

    async def follow(
        self,
        renewed: Callable[[], None],
        failed: Callable[[FilesError], None],
        *,
        seconds: float | None = None,
    ) -> None:
        """Looks at the files every so many seconds, and tells what came of it; without an end."""
        seconds = LOOK_SECONDS if seconds is None else seconds

        def look() -> None:
            try:
                if self.look():
                    renewed()
            except FilesError as error:
                failed(error)
            except Exception as error:
                log_unexpected(error)

        look()  # They may have changed since the start.
        await watch_files(lambda: self._paths, look, seconds=seconds)

    def _read(self) -> tuple[bytes, ...] | str:
        """The contents of all files, or why there are none."""
        try:
            return tuple(path.read_bytes() for path in self._paths)
        except OSError as error:
            return f"cannot read {error.filename}: {error.strerror}"
        except ValueError:
            return f"{self._names()!r} cannot be read: there is a NUL character in it"

    def _make(self, content: tuple[bytes, ...] | str) -> T | FilesError:
        if isinstance(content, str):
            return FilesError(content)
        try:
            return self._load(content)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return FilesError(f"{self._names()}: {reason}")

    def _names(self) -> str:
        return " with ".join(str(path) for path in self._paths)
