"""What a model elsewhere was, as bytes: for a start at which nobody can be asked.

Whoever reads them back has nothing computed by such a model: see `Recallable.assume`. So one that
is out of date, or made up, leads to entries that are there, or to none.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Protocol, TypeAlias, runtime_checkable

from sidecar.models.types import ModelInfo, RerankerInfo

Info: TypeAlias = ModelInfo | RerankerInfo


@runtime_checkable
class Recallable(Protocol):
    """A model elsewhere that can be remembered."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells this model from all others that a sidecar could be set to use."""
        ...

    @property
    def told(self) -> Info | None:
        """What it is, if that was heard from where it runs since the start; else None."""
        ...

    def assume(self, info: Info) -> None:
        """Takes ``info``, which `told` was before, for what it is until that is heard.

        Nothing is computed until then. What is no description of this model is ignored.
        """
        ...


def encode_info(info: Info) -> bytes:
    """The bytes of what a model is."""
    return json.dumps(asdict(info), sort_keys=True).encode()


def decode_info(data: bytes) -> Info:
    """What a model is. Raises `ValueError` for anything else."""
    try:
        fields = json.loads(data)
        info = (ModelInfo if "dimensions" in fields else RerankerInfo)(**fields)
    except (TypeError, RecursionError) as error:
        raise ValueError("no description of a model") from error
    if not all(check(getattr(info, name)) for name, check in _CHECKS[type(info)].items()):
        raise ValueError("a description of a model of which something is wrong")
    return info


def _is_text(value: Any) -> bool:
    # JSON can hold what UTF-8 cannot.
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_prompts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_TEXTS = dict.fromkeys(("name", "version", "runs_on"), _is_text)
_CHECKS = {
    RerankerInfo: _TEXTS,
    ModelInfo: {
        **_TEXTS,
        **dict.fromkeys(("dimensions", "max_tokens"), _is_count),
        **dict.fromkeys(("accepts_text", "accepts_tensor"), _is_flag),
        "prompts": _are_prompts,
    },
}
