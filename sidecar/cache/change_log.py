"""What changed between two generations of a tag, where somebody said what it was."""

from __future__ import annotations

from collections import OrderedDict

MAX_CHANGE_BYTES = 8192
"""Of one change; a larger one is as good as unknown."""
MAX_LOG_BYTES = 32 * 2**20
"""Of all changes that a sidecar remembers."""
MAX_CHANGES = 1000
"""That are looked through for one entry."""

# What a change costs beside its own bytes: keys, numbers and the dictionary's slot, measured with
# tracemalloc (tests/unit/cache/test_change_log.py).
_OVERHEAD_BYTES = 400


class ChangeLog:
    """Steps from a generation of a tag to the next one, each with the change that it was made for.

    A step is known by where it starts, so it does not matter in which order steps are heard of, or
    how often. A step is a fact and never becomes wrong; the oldest are forgotten first.
    """

    def __init__(self, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._steps: OrderedDict[tuple[str, bytes, int], tuple[int, bytes]] = OrderedDict()

    def add(
        self, namespace: str, tag: bytes, previous: int, generation: int, change: bytes
    ) -> None:
        """Takes note of a step. An empty ``change`` says nothing, so it leaves a gap."""
        name = (namespace, tag, previous)
        if not change or generation <= previous or name in self._steps:
            return
        self._steps[name] = (generation, change)
        self.bytes += len(change) + _OVERHEAD_BYTES
        while self.bytes > self._max_bytes:
            _, (_, oldest) = self._steps.popitem(last=False)
            self.bytes -= len(oldest) + _OVERHEAD_BYTES

    def between(
        self, namespace: str, tag: bytes, generation: int, current: int
    ) -> list[bytes] | None:
        """The changes from one generation to another, in order; None if they are not all known."""
        changes: list[bytes] = []
        while generation != current:
            step = self._steps.get((namespace, tag, generation))
            if step is None or len(changes) == MAX_CHANGES:
                return None
            generation, change = step
            changes.append(change)
        return changes
