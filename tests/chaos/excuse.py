"""Which calls may fail, how, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embercache import PartialFailureError

from tests.chaos.timeline import ENCODER, INDEX, NEWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from embercache.errors import EmbercacheError

    from tests.chaos.promises import Asked
    from tests.chaos.timeline import Circumstances

NO_ENCODER, NO_REDIS = "no living encoder", "Redis out of reach"
"""Excuses."""

_AWAY = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
_BUSY = "RESOURCE_EXHAUSTED"

AT_A_SIDECAR_THAT_IS_DOWN = _AWAY
"""How a call may end there."""

WHOLE = {NO_ENCODER: _AWAY | {_BUSY}, NO_REDIS: _AWAY}
"""With which statuses a call may fail, by the excuse: those of docs/api.md, "When"."""

ITEM = {NO_ENCODER: frozenset({"UNAVAILABLE", _BUSY}), NO_REDIS: frozenset[str]()}
"""The same for an item of a call that was answered."""


def excuses(
    circumstances: Circumstances,
    asked: Asked,
    needs: AbstractSet[str],
    batches: Sequence[Sequence[str]] = (),
    hot: AbstractSet[str] = frozenset(),
) -> list[str]:
    """Why a call may have failed; none if it had to be answered.

    ``hot`` are those of the texts of ``batches`` that were for sure in the memory of the process:
    where that is all of them, no encoder is needed.
    """
    where = (asked.sidecar, asked.start, asked.end)
    found = []
    is_hot = bool(batches) and all(hot.issuperset(texts) for texts in batches)
    if ENCODER in needs and not is_hot and not circumstances.encoder_lives(*where):
        found.append(NO_ENCODER)
    for breaker in (INDEX, NEWS):
        if breaker in needs and NO_REDIS not in found:
            sidecar, start, end = where
            if not circumstances.redis_reached(sidecar, breaker, start, end):
                found.append(NO_REDIS)
    return found


def excuse(
    error: EmbercacheError,
    found: Sequence[str],
    batches: Sequence[Sequence[str]],
    hot: AbstractSet[str],
) -> str:
    """Which of the excuses there are is one for this very failure; empty if none is."""
    if isinstance(error, PartialFailureError):
        return _excuse_of_items(error, found, hot)
    # Where an item can be answered, the others fail one by one, unless there is no time left.
    if error.code != "DEADLINE_EXCEEDED" and batches and all(map(hot.intersection, batches)):
        return ""
    return next((one for one in found if error.code in WHOLE[one]), "")


def _excuse_of_items(
    error: PartialFailureError[Any], found: Sequence[str], hot: AbstractSet[str]
) -> str:
    if hot and any(error.result.inputs[place] in hot for place in error.errors):
        return ""
    codes = {one.code for one in error.errors.values()}
    return next((one for one in found if codes <= ITEM[one]), "")
