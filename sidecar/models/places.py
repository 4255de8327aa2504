"""Who may generate: so many at once, within a bound of memory, first come first served."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.demand import Demand, demand
from sidecar.models.engine import closing_error
from sidecar.models.speed import Departures
from sidecar.models.types import LEAST_RETRY_SECONDS, TooLateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.models.decoder_state import DecoderState
    from sidecar.models.prefixes import Prefixes

# What is left behind has at most this share of all memory, and is at most so many times too large.
_SPARE_SHARE = 4
_SPARE_FACTOR = 2
# How many may overtake one who waits for memory.
MAX_OVERTAKEN = 32


@dataclass(frozen=True, slots=True)
class Left:
    """What a generation left behind: its state, which begins with these tokens of its prompt.

    ``keys`` name their blocks. There are none of either if the prompt is not to be kept.
    """

    state: DecoderState
    tokens: Sequence[int]
    keys: Sequence[bytes]

    def shared_tokens(self, tokens: Sequence[int], keys: Sequence[bytes], block_tokens: int) -> int:
        """With how many of its tokens another prompt begins that has a block in common with it.

        Not in common are blocks of another scope, whatever their tokens.
        """
        blocks = _common(self.keys, keys)
        if blocks == 0:
            return 0
        start = blocks * block_tokens
        return start + _common(self.tokens[start:], tokens[start:])


@dataclass(slots=True)
class Place:
    """A place and ``n_bytes`` of memory.

    ``left`` is what somebody left there, so that its memory is in use already; None if there is
    nothing. Who leaves puts there what others may use.
    """

    n_bytes: int
    left: Left | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    n_bytes: int
    entered: asyncio.Future[Place | None]
    unwanted: asyncio.Future[Any]
    demand: Demand
    overtaken: int = 0


class Places:
    """``parallel`` places, and memory reserved in ``prefixes``. For one event loop.

    The first who waits for a place is the next. Who waits for memory only, with a place free, may
    be overtaken by those behind him who need less of it: a short answer does not wait for a long
    one to end. After ``MAX_OVERTAKEN`` of them he is the next, so that he does not wait for ever.

    Who would come too late for his deadline is refused, and who does is sent away. ``clock`` is
    that of `Demand`.
    """

    def __init__(
        self, parallel: int, prefixes: Prefixes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.taken = 0
        self._parallel = parallel
        self._prefixes = prefixes
        # The system hands out memory page by page, which takes as long as filling it does. And the
        # next prompt often begins as the last one did.
        self._spare: Place | None = None
        # In the order in which they came.
        self._waiting: dict[_Waiting, None] = {}
        self._closed = False
        self._clock = clock
        self._departures = Departures(clock)
        prefixes.on_room(self._admit_soon)

    def refuse_if_late(self, waiting: int) -> None:
        """Raises `TooLateError` if it would not be a caller's turn before his deadline.

        ``waiting`` are before him, here or on their way. If nobody is, he is taken: how fast places
        become free is only measured while somebody waits.
        """
        speed = self._departures.per_second
        if speed is None or waiting == 0 or self.taken + waiting < self._parallel:
            return
        seconds, left = (waiting + 1) / speed, demand().deadline - self._clock()
        if seconds > left:
            raise TooLateError(
                f"the generation would begin in {seconds:.3g} s, and the call's deadline is in"
                f" {max(0.0, left):.3g} s: try again later, or give the call more time",
                retry_after=max(seconds - left, LEAST_RETRY_SECONDS),
            )

    async def enter(self, n_bytes: int, unwanted: asyncio.Future[Any]) -> Place | None:
        """Waits for a place with so much memory or more, to be given back with `leave`.

        Returns None if ``unwanted`` is done before. Raises `TooLateError` if it is his turn after
        his deadline, `ModelUnavailableError` after `close`. The memory must be less than all there
        is.
        """
        if self._closed:
            raise closing_error()
        entered: asyncio.Future[Place | None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(n_bytes, entered, unwanted, demand())
        self._waiting[waiting] = None

        def give_up(_: object) -> None:
            self._waiting.pop(waiting, None)
            if not entered.done():
                entered.set_result(None)
                self._admit()

        unwanted.add_done_callback(give_up)
        self._admit()
        return await entered

    def leave(self, place: Place) -> None:
        """Gives back a place and its memory."""
        self.taken -= 1
        self._departures.left(others_wait=bool(self._waiting))
        self.clear()
        if place.left is None or place.n_bytes * _SPARE_SHARE > self._prefixes.capacity_bytes:
            self._prefixes.free(place.n_bytes)
        else:
            self._spare = place
        self._admit()

    def clear(self) -> None:
        """Gives back the memory of what was left behind."""
        if self._spare is not None:
            self._prefixes.free(self._spare.n_bytes)
            self._spare = None

    def close(self) -> None:
        """Sends away all who wait."""
        self._closed = True
        for waiting in self._waiting:
            if not waiting.entered.done():
                waiting.entered.set_exception(closing_error())
        self._waiting.clear()

    def _admit_soon(self) -> None:
        # Not at once: the room may be that which is made for somebody here.
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        gone: list[_Waiting] = []
        overtaken: list[_Waiting] = []
        for waiting in self._waiting:
            if waiting.demand.deadline <= self._clock() and not waiting.entered.done():
                waiting.entered.set_exception(_too_late())
            if not waiting.entered.done() and not waiting.unwanted.done():
                if self.taken == self._parallel:
                    break
                place = self._place(waiting.n_bytes)
                if place is None and waiting.overtaken == MAX_OVERTAKEN:
                    break
                if place is None:
                    overtaken.append(waiting)
                    continue
                self.taken += 1
                waiting.entered.set_result(place)
                for each in overtaken:
                    each.overtaken += 1
            gone.append(waiting)
        for waiting in gone:
            del self._waiting[waiting]

    def _place(self, n_bytes: int) -> Place | None:
        spare = self._spare
        if spare is not None and n_bytes <= spare.n_bytes <= _SPARE_FACTOR * n_bytes:
            self._spare = None
            return spare
        room = self._prefixes.room
        if spare is not None and room < n_bytes <= room + spare.n_bytes:
            self.clear()
        return Place(n_bytes) if self._prefixes.reserve(n_bytes) else None


def _too_late() -> TooLateError:
    return TooLateError(
        "the deadline passed while the generation waited: try again later",
        retry_after=LEAST_RETRY_SECONDS,
    )


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements two sequences have in common from the first on."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)
