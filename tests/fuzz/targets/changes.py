"""What other sidecars say has changed: a list that they may touch is given up, and none raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidecar.index.filters import And, In, Not, Range
from sidecar.services.changes import (
    ANY_MODEL,
    Change,
    document_digest,
    half_unit,
    model_digest,
    pack_changes,
    touches,
)
from sidecar.services.result_list import ListFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = ()
_MODEL = model_digest("minilm", "1")
_FACTS = ListFacts(
    wanted=3,
    exhausted=False,
    floor=0.5,
    model=_MODEL,
    vector=half_unit(np.linspace(-1, 1, 8, dtype=np.float32)),
    documents=frozenset([document_digest("a")]),
    query="",
)
_WHERE = And((In("language", ("de", 1.0, True)), Not(Range("year", above=2000.0))))


def seeds() -> Iterator[bytes]:
    vector = np.linspace(1, -1, 8, dtype=np.float32)
    metadata = {"language": "de", "year": 1999.0, "new": True}
    for model in (_MODEL, ANY_MODEL):
        for vectors in ((), (vector, vector)):
            change = Change(model, document_digest("b"), metadata, vectors)
            yield pack_changes([change])
            yield pack_changes([change, change])


def run(data: bytes) -> None:
    for where in (_WHERE, None):
        assert touches([data], _FACTS, where) in (True, False)
