"""Cuts what is many or large into several requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.message import Message

from embercache._fields import unicode_only
from embercache.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embercache.v1 import common_pb2

_Given = TypeVar("_Given")
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item")

# What one message carries at most. Far below the sidecar's limits, so that an answer of large
# vectors fits too, and as fast as larger ones.
MAX_BATCH_ITEMS = 1024
MAX_BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class Load(Generic[_Given, _Request]):
    """How a kind of request carries many items.

    - ``asked``: the field that holds them;
    - ``put``: adds the item that is given at an index; returns how many it counts for, and its
      bytes. Raises `TypeError` or `InvalidArgumentError` if it is no such item.
    """

    asked: Callable[[_Request], Any]
    put: Callable[[_Request, _Given, int], tuple[int, int]]

    def only(self, request: _Request, places: Iterable[int]) -> _Request:
        """The same request for the items at these places alone."""
        chosen = [self.asked(request)[place] for place in places]
        part = type(request)()
        part.CopyFrom(request)
        del self.asked(part)[:]
        self.asked(part).extend(chosen)
        return part


def item_error(item: Any) -> common_pb2.ItemError | None:
    """The field ``error`` of an item, if it is set."""
    return item.error if item.HasField("error") else None


@dataclass(frozen=True)
class Bulk(Load[_Given, _Request], Generic[_Given, _Request, _Response, _Item]):
    """A call that carries many items, and answers each.

    - ``answered``: the field that holds the answers, in the order of the items;
    - ``error_of``: why an item has no result, if it has none.
    """

    answered: Callable[[_Response], Sequence[_Item]]
    error_of: Callable[[_Item], common_pb2.ItemError | None] = item_error


@dataclass(slots=True)
class Batch(Generic[_Given, _Request]):
    """Items that travel together, and the request that carries them."""

    inputs: list[_Given]
    request: _Request


class Batcher(Generic[_Given, _Request]):
    """Cuts a run of items into batches of at most so many and `MAX_BATCH_BYTES`.

    An item that counts for more or is larger travels alone. Every request has the template's
    options.
    """

    def __init__(
        self, load: Load[_Given, _Request], template: _Request, max_items: int | None = None
    ) -> None:
        self._max_items = MAX_BATCH_ITEMS if max_items is None else max_items
        if not 1 <= self._max_items <= MAX_BATCH_ITEMS:
            raise InvalidArgumentError(
                f"batch_size is {max_items}; it must be 1 to {MAX_BATCH_ITEMS}"
            )
        self._load = load
        self._template = template
        self._seen = 0
        self._start()

    def add(self, item: _Given) -> Batch[_Given, _Request] | None:
        """Takes one item; returns the batch that it ended, if it did.

        Raises `TypeError` or `InvalidArgumentError` if it is none.
        """
        count, size = self._put(item)
        ended = None
        if self._inputs and (
            self._count + count > self._max_items or self._bytes + size > MAX_BATCH_BYTES
        ):
            del self._load.asked(self._request)[-1]
            ended = self.rest()
            self._put(item)
        self._inputs.append(item)
        self._count += count
        self._bytes += size
        self._seen += 1
        # Of two that are ready, the second leaves with the next item, which has no room in it.
        return self.rest() if ended is None and self._count >= self._max_items else ended

    def rest(self) -> Batch[_Given, _Request] | None:
        """The batch that is under way, if it is not empty."""
        if not self._inputs:
            return None
        batch = Batch(self._inputs, self._request)
        self._start()
        return batch

    def _put(self, item: _Given) -> tuple[int, int]:
        with unicode_only(self._seen):
            return self._load.put(self._request, item, self._seen)

    def _start(self) -> None:
        self._inputs: list[_Given] = []
        self._request = type(self._template)()
        self._request.CopyFrom(self._template)
        self._count = 0
        self._bytes = 0


def batches(
    inputs: Iterable[_Given], batcher: Batcher[_Given, _Request]
) -> Iterator[Batch[_Given, _Request]]:
    """All the inputs, in their order, cut into batches as they are read."""
    for item in inputs:
        if batch := batcher.add(item):
            yield batch
    if batch := batcher.rest():
        yield batch


def requests(
    load: Load[_Given, _Request], template: _Request, inputs: Sequence[_Given], name: str
) -> list[_Request]:
    """The requests that carry all the inputs: one, unless they are many or large."""
    if not inputs:
        raise InvalidArgumentError(f"there are no {name}; give at least one")
    return [batch.request for batch in batches(inputs, Batcher(load, template))]
