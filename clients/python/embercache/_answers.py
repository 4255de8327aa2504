"""The answer to one request, with what was asked for again in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache import _backoff
from embercache.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache.v1 import embed_pb2


class Answer:
    """One item for each input that was asked for, in their order.

    Raises `InternalError` if there are more or fewer.
    """

    def __init__(self, request: embed_pb2.EmbedRequest, response: embed_pb2.EmbedResponse) -> None:
        self.items = list(response.embeddings)
        if len(self.items) != len(request.inputs):
            raise InternalError(
                f"the sidecar answered {len(self.items)} of {len(request.inputs)} inputs"
            )
        self.failed = [place for place, item in enumerate(self.items) if item.HasField("error")]
        self.model = response.model
        self.layout = response.encoding, response.dimensions

    def transient(self) -> list[int]:
        """The places of the items that may succeed a little later."""
        return [
            place
            for place in self.failed
            if self.items[place].error.code in _backoff.TRANSIENT_CODES
        ]

    def replace(self, places: Sequence[int], answer: Answer) -> None:
        """Puts the items of another answer into their places."""
        for place, item in zip(places, answer.items, strict=True):
            self.items[place] = item
        self.failed = [place for place in self.failed if self.items[place].HasField("error")]
        if answer.has_vectors:
            self.layout = answer.layout

    @property
    def has_vectors(self) -> bool:
        """Whether any item succeeded."""
        return len(self.failed) < len(self.items)
