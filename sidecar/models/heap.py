"""Has memory that is freed go back to the system, with glibc's allocator."""

from __future__ import annotations

import ctypes
import functools
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What is as large as this has pages of its own, which go back when it is freed: buffers and blocks
# of keys and values. By default the limit grows to what was freed, up to 32 MiB; then these lie in
# the heap, of which only the end can go back, and the budget of them bounds less than is used.
_OWN_PAGES_BYTES = 256 * 1024
# The system allows 65,530 mappings by default; what is beyond half of that lies in the heap.
_MOST_MAPPINGS = 32_768
# Or else the end of the heap would be given back and fetched again by every run.
_KEPT_BYTES = 8 * 2**20


@functools.cache
def give_back_freed_memory() -> None:
    """Sets the allocator so, for the whole process. Does nothing where it is another one."""
    if sys.platform != "linux":
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        mallopt(_MMAP_MAX, _MOST_MAPPINGS)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
