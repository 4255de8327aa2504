"""Ids in order, cheap to change and to page through however many they are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

_BUCKET = 512


class OrderedIds:
    """A set of strings in the order of their code points.

    Kept in short sorted lists, for inserting into one long list would move half of it.
    """

    def __init__(self) -> None:
        self._buckets: list[list[str]] = []

    def copy(self) -> OrderedIds:
        """Another set of the same ids."""
        other = OrderedIds()
        other._buckets = [bucket.copy() for bucket in self._buckets]
        return other

    def add(self, one: str) -> None:
        """Adds an id that is not there."""
        if not self._buckets:
            self._buckets.append([one])
            return
        place = self._find(one)
        bucket = self._buckets[place]
        insort(bucket, one)
        if len(bucket) > 2 * _BUCKET:
            self._buckets[place : place + 1] = [bucket[:_BUCKET], bucket[_BUCKET:]]

    def remove(self, one: str) -> None:
        """Removes an id that is there."""
        place = self._find(one)
        bucket = self._buckets[place]
        del bucket[bisect_left(bucket, one)]
        if not bucket:
            del self._buckets[place]

    def after(self, one: str, count: int) -> list[str]:
        """The first ``count`` ids that are greater."""
        found: list[str] = []
        place = self._find(one)
        while len(found) < count and place < len(self._buckets):
            bucket = self._buckets[place]
            start = bisect_right(bucket, one)
            found += bucket[start : start + count - len(found)]
            place += 1
        return found

    def _find(self, one: str) -> int:
        """The bucket that an id is in or would be put into."""
        return max(0, bisect_right(self._buckets, one, key=lambda bucket: bucket[0]) - 1)
