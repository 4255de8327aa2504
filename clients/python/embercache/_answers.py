"""The answer to one request, with what was asked for again in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.message import Message

from embercache import _backoff
from embercache.errors import EmbercacheError, InternalError, from_item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache._batches import Bulk
    from embercache.v1 import common_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item")


class Answer(Generic[_Response, _Item]):
    """One item for each that was asked for, in their order.

    ``response`` came first; ``useful`` are those in which any item succeeded. Raises
    `InternalError` if there are more or fewer items.
    """

    def __init__(
        self, bulk: Bulk[Any, _Request, _Response, _Item], request: _Request, response: _Response
    ) -> None:
        self.response = response
        self.items = list(bulk.answered(response))
        asked = len(bulk.asked(request))
        if len(self.items) != asked:
            raise InternalError(f"the sidecar answered {len(self.items)} of {asked} inputs")
        self.errors: dict[int, common_pb2.ItemError] = {}
        for place, item in enumerate(self.items):
            error = bulk.error_of(item)
            if error is not None:
                self.errors[place] = error
        self.useful = [response] if len(self.errors) < len(self.items) else []

    def transient(self) -> list[int]:
        """The places of the items that may succeed a little later."""
        return [
            place for place, error in self.errors.items() if error.code in _backoff.TRANSIENT_CODES
        ]

    def replace(self, places: Sequence[int], answer: Answer[_Response, _Item]) -> None:
        """Puts the items of another answer into their places."""
        for number, (place, item) in enumerate(zip(places, answer.items, strict=True)):
            self.items[place] = item
            if number in answer.errors:
                self.errors[place] = answer.errors[number]
            else:
                del self.errors[place]
        self.useful += answer.useful


def joined(
    answers: Sequence[Answer[Any, _Item]],
) -> tuple[list[_Item], dict[int, EmbercacheError]]:
    """The items of all the answers, and the errors among them, by their place."""
    items: list[_Item] = []
    errors: dict[int, EmbercacheError] = {}
    for answer in answers:
        for place, error in answer.errors.items():
            index = len(items) + place
            errors[index] = from_item(error, index)
        items += answer.items
    return items, errors
