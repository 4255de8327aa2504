"""What documents were when they were last the same in two places, in 16 bytes for each."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NOTHING = 0


class Ledger:
    """Fingerprints of revisions by those of documents' ids.

    `find` tells what was known when `close` was called last; `add` is seen after the next.
    """

    def __init__(self) -> None:
        self._ids: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._revisions: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._new_ids = array("Q")
        self._new_revisions = array("Q")

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, revision: int | None) -> None:
        """Takes note of a document, in place of what was known of it; None if it is gone."""
        self._new_ids.append(_fingerprint(name.encode()))
        self._new_revisions.append(_NOTHING if revision is None else revision)

    def find(self, names: Sequence[str]) -> list[int | None]:
        """The fingerprint of each document's revision, None for one that was not there."""
        if not len(self._ids):
            return [None] * len(names)
        wanted = np.array([_fingerprint(name.encode()) for name in names], np.uint64)
        places = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        found = np.where(self._ids[places] == wanted, self._revisions[places], _NOTHING)
        return [revision or None for revision in found.tolist()]

    def close(self) -> None:
        """Puts what was added to the rest."""
        ids = np.concatenate([self._ids, np.frombuffer(self._new_ids, np.uint64)])
        revisions = np.concatenate([self._revisions, np.frombuffer(self._new_revisions, np.uint64)])
        order = np.argsort(ids, kind="stable")
        ids, revisions = ids[order], revisions[order]
        # Of one id, the last; and none that is gone.
        kept = np.append(ids[1:] != ids[:-1], True)[: len(ids)] & (revisions != _NOTHING)
        self._ids, self._revisions = ids[kept], revisions[kept]
        self._new_ids, self._new_revisions = array("Q"), array("Q")


def revision_fingerprint(whole: bytes) -> int:
    """What stands for a revision; never zero."""
    return _fingerprint(whole) or 1


def _fingerprint(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
