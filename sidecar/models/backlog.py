"""How much work waits for a model, and how much of it comes before a newcomer is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.demand import Priority
from sidecar.models.fair_shares import equal_shares

if TYPE_CHECKING:
    from sidecar.models.fair_shares import Share


@dataclass(slots=True)
class _Waiting:
    inputs: int = 0
    work: float = 0.0


class Backlog:
    """The work that waits, by priority and namespace; ``inputs`` counts all of it.

    Work is in full runs of the model.
    """

    def __init__(self, share: Share = equal_shares) -> None:
        self.inputs = 0
        self._share = share
        self._waiting: dict[Priority, dict[str, _Waiting]] = {each: {} for each in Priority}

    @property
    def work(self) -> float:
        """All of it."""
        return sum(self._work_of(priority) for priority in Priority)

    def add(self, priority: Priority, namespace: str, work: float) -> None:
        """An input more."""
        waiting = self._waiting[priority].setdefault(namespace, _Waiting())
        waiting.inputs += 1
        waiting.work += work
        self.inputs += 1

    def remove(self, priority: Priority, namespace: str, work: float) -> None:
        """One of them less."""
        waiting = self._waiting[priority][namespace]
        waiting.inputs -= 1
        waiting.work -= work
        self.inputs -= 1
        if not waiting.inputs:
            del self._waiting[priority][namespace]

    def inputs_of(self, priority: Priority, namespace: str) -> int:
        """How many of one namespace wait."""
        waiting = self._waiting[priority].get(namespace)
        return waiting.inputs if waiting else 0

    def part_of(self, priority: Priority, namespace: str) -> float:
        """What part a namespace has by its share, beside those that wait."""
        names = {namespace, *self._waiting[priority]}
        return self._share(namespace) / sum(map(self._share, names))

    def stands_before(self, priority: Priority) -> bool:
        """Whether anything waits that an input of this priority might wait for."""
        return any(self._waiting[each] for each in Priority if each <= priority)

    def work_until_done(self, priority: Priority, namespace: str, own: float) -> float:
        """The work that is done when all of a namespace is, with ``own`` added to it.

        As if all were served at once by their shares (generalised processor sharing: Parekh and
        Gallager, 1993): until then the others get as much in proportion to their shares, or all
        they want. All sizes up to a run count alike, as that run: else short texts would take all
        the room, and long ones be refused each time.
        """
        same = self._waiting[priority]
        last = min(1.0, self._work_of(priority) + own) if own < 1.0 else own
        mine = same[namespace].work if namespace in same else 0.0
        turns = (mine if own < 1.0 else mine + own) / self._share(namespace)
        done = mine + last
        done += sum(
            min(waiting.work, turns * self._share(name))
            for name, waiting in same.items()
            if name != namespace
        )
        if priority is Priority.BACKGROUND:
            done += self._work_of(Priority.INTERACTIVE)
        return done

    def _work_of(self, priority: Priority) -> float:
        return sum(waiting.work for waiting in self._waiting[priority].values())
