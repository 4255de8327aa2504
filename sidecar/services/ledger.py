"""What documents were when they were last the same in two collections.

It is kept in the index itself, so it is there as long as the documents are, for every sidecar that
sees them, and says after a restart what it said before: entries of 16 bytes, fingerprints of a
document's id and of its revision, in the texts of documents of a collection that no model searches.
"""

from __future__ import annotations

import json
import secrets
from array import array
from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from sidecar.index.types import Chunk, Collection, Document, Revision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.cache.model_moves import ModelVersion
    from sidecar.index.types import Index

# No model has such a name.
MODEL = "(ledger)"
_NOTHING = 0
_PAGE = 256
# New entries are put to the sorted ones when they are more, and more than an eighth of those.
_FEW = 4096
# Documents need vectors.
_VECTOR = np.ones(1, np.float32)


class Ledger:
    """The ledger of one collection and its twin. `load` it before anything else.

    `load` and `save` raise `IndexUnavailableError`.
    """

    def __init__(self, index: Index, place: Collection) -> None:
        self._index = index
        self._place = place
        self._ids: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._revisions: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._new: dict[int, int] = {}
        self._unsaved = array("Q")
        self._pages = 0

    def __len__(self) -> int:
        """How many documents were alike when they were seen last."""
        self._merge()
        return len(self._ids)

    async def load(self) -> None:
        """Reads what was saved."""
        after = ""
        while pages := await self._index.documents(self._place, after, _PAGE):
            for page in pages:
                after = page.id
                numbers = np.frombuffer(b64decode(page.chunks[0].text), "<u8").tolist()
                self._new.update(zip(numbers[::2], numbers[1::2], strict=True))
            self._pages += len(pages)
        self._merge()

    def find(self, names: Sequence[str]) -> list[int | None]:
        """The fingerprint of each document's revision, None for one that was not there."""
        ids = [_fingerprint(name.encode()) for name in names]
        found = self._find_sorted(ids)
        return [self._new.get(one, old) or None for one, old in zip(ids, found, strict=True)]

    def add(self, names: Sequence[str], revisions: Sequence[Revision | None]) -> None:
        """Takes note of documents, in place of what was known of them; None if one is gone."""
        for name, revision, known in zip(names, revisions, self.find(names), strict=True):
            now = _NOTHING if revision is None else revision_fingerprint(revision)
            if now != (known or _NOTHING):
                one = _fingerprint(name.encode())
                self._new[one] = now
                self._unsaved.extend((one, now))
        if len(self._new) > max(_FEW, len(self._ids) // 8):
            self._merge()

    async def save(self) -> None:
        """Writes what was added since the last time."""
        if not self._unsaved:
            return
        data = np.frombuffer(self._unsaved, np.uint64).astype("<u8").tobytes()
        self._unsaved = array("Q")
        self._pages += 1
        # In the order in which they were written; nobody else's page is overwritten.
        name = f"{self._pages:012}-{secrets.token_hex(8)}"
        chunk = Chunk("", b64encode(data).decode(), _VECTOR)
        revision = Revision(name.encode(), name.encode())
        await self._index.upsert(self._place, [Document(name, (chunk,), {}, (), revision)])

    def _find_sorted(self, ids: Sequence[int]) -> list[int]:
        if not len(self._ids):
            return [_NOTHING] * len(ids)
        wanted = np.array(ids, np.uint64)
        places = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        found: list[int] = np.where(
            self._ids[places] == wanted, self._revisions[places], _NOTHING
        ).tolist()
        return found

    def _merge(self) -> None:
        """Puts what is new to the rest."""
        if not self._new:
            return
        ids = np.concatenate([self._ids, np.fromiter(self._new.keys(), np.uint64)])
        revisions = np.concatenate([self._revisions, np.fromiter(self._new.values(), np.uint64)])
        order = np.argsort(ids, kind="stable")
        ids, revisions = ids[order], revisions[order]
        # Of one id, the last; and none that is gone.
        kept = np.append(ids[1:] != ids[:-1], True) & (revisions != _NOTHING)
        self._ids, self._revisions, self._new = ids[kept], revisions[kept], {}


def pair(one: ModelVersion, other: ModelVersion) -> str:
    """The name of the ledgers of two models; which is copied to which is all the same."""
    return json.dumps(sorted([one, other]))


def place(namespace: str, name: str, ledger: str) -> Collection:
    """Where the ledger of that name is kept, for the collections of that namespace and name."""
    return Collection(namespace, name, MODEL, ledger, len(_VECTOR))


def revision_fingerprint(revision: Revision) -> int:
    """What stands for a revision; never zero."""
    return _fingerprint(revision.whole) or 1


def _fingerprint(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
