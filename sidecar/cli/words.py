"""Words that several commands put together."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """So many of something: ``1 search``, ``2 searches``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('ch') else 's'}"


def band_edges(start: float, end: float) -> str:
    """A band of similarities; the lowest begins where no threshold would."""
    return f"{start:g} to {end:g}" if start > 0 else f"below {end:g}"


def named_namespace(name: str) -> str:
    """A namespace as users gave it; without a name, only the sidecar knows which it is."""
    return f"the namespace {name}" if name else "the sidecar's own namespace"
