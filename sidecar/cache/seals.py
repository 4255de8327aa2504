"""The seals of a sidecar: one for each kind of values in each place, with what it refused."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import structlog

from sidecar.cache.sealing import NotOpenedError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.cache.sealing import Sealer

Place: TypeAlias = Literal["disk", "warm"]
What: TypeAlias = Literal["entries", "prompts", "semantic", "popular", "changes", "moves"]

_QUIET_SECONDS = 60.0

_log = structlog.get_logger()


class Seal(Protocol):
    """What values of one kind go through on their way out of the process, and back."""

    def seal(self, name: bytes, data: bytes) -> bytes:
        """The form in which a value is kept under a name."""
        ...

    def open(self, name: bytes, data: bytes) -> bytes | None:
        """The value that is kept under a name in this form; None if it is not to be trusted."""
        ...

    def is_current(self, data: bytes) -> bool:
        """Whether what opens was sealed as a value would be now."""
        ...


class _Plain:
    """What there is without encryption: values are kept as they are."""

    def seal(self, _name: bytes, data: bytes) -> bytes:
        return data

    def open(self, _name: bytes, data: bytes) -> bytes:
        return data

    def is_current(self, _data: bytes) -> bool:
        return True


PLAIN: Seal = _Plain()


class KeyedSeal:
    """A `Seal` that encrypts. May be used from several threads.

    What does not open is counted in ``refused``, and logged at first and then once a minute.
    """

    def __init__(
        self, sealer: Sealer, place: Place, what: What, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.place = place
        self.what = what
        self.refused: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
        self._sealer = sealer
        self._domain = what.encode()
        self._clock = clock
        self._quiet_until = float("-inf")
        self._lock = threading.Lock()

    def seal(self, name: bytes, data: bytes) -> bytes:
        """See `Seal.seal`."""
        return self._sealer.seal(self._domain, name, data)

    def open(self, name: bytes, data: bytes) -> bytes | None:
        """See `Seal.open`."""
        try:
            return self._sealer.open(self._domain, name, data)
        except NotOpenedError as error:
            self._refuse(error.reason)
            return None

    def is_current(self, data: bytes) -> bool:
        """See `Seal.is_current`."""
        return self._sealer.is_current(data)

    def _refuse(self, reason: Reason) -> None:
        with self._lock:
            self.refused[reason] += 1
            now = self._clock()
            if now < self._quiet_until:
                return
            self._quiet_until = now + _QUIET_SECONDS
        _log.warning(
            "values were refused that no sidecar has sealed with a key known here for where they"
            " are: somebody else writes there, or sidecars differ in their keys",
            tier=self.place,
            what=self.what,
            **self.refused,
        )


@dataclass(frozen=True, slots=True)
class Refusals:
    """How many values of a kind were refused in a place since start-up, by reason."""

    place: Place
    what: What
    counts: Mapping[Reason, int]


class Seals:
    """Makes the seals of a sidecar; without a sealer, values are kept as they are."""

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer = sealer
        self._seals: dict[tuple[Place, What], KeyedSeal] = {}

    @property
    def are_on(self) -> bool:
        """Whether values are sealed."""
        return self._sealer is not None

    def of(self, place: Place, what: What) -> Seal:
        """The seal of one kind of values in one place."""
        if self._sealer is None:
            return PLAIN
        seal = self._seals.get((place, what))
        if seal is None:
            seal = self._seals[place, what] = KeyedSeal(self._sealer, place, what)
        return seal

    def refusals(self) -> list[Refusals]:
        """What was refused, of each seal."""
        return [Refusals(seal.place, seal.what, seal.refused) for seal in self._seals.values()]
